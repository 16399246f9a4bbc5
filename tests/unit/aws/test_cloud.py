"""playbooks/cloud.yml against moto's server: what it makes, what it notes, what it refuses."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto.cloudformation.models import CloudFormationBackend, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.iot.models import IoTBackend

from edge_cloud.aws import update_termination_protection
from tests.unit.aws_server import aws

ROOT = Path(__file__).resolve().parents[3]
REGION = "eu-central-1"
BUCKET = "test-edge-backups"
KEYS = {"AWS_ACCESS_KEY_ID": "operator", "AWS_SECRET_ACCESS_KEY": "test"}

# On a busy machine a play of a few modules that load boto3 takes its time.
pytestmark = pytest.mark.timeout(900)
Cloud = Callable[..., dict[str, Any]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """AWS on loopback, empty."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    # An account's endpoint is always the same; moto makes up a new one for each that asks.
    monkeypatch.setattr(IoTBackend, "describe_endpoint", functools.cache(IoTBackend.describe_endpoint))
    # AWS sees that a number is what it was; moto compares it with a text.
    told = vars(Stack)["stack_parameters"].fget
    as_text = property(lambda stack: {name: str(value) for name, value in told(stack).items()})
    monkeypatch.setattr(Stack, "stack_parameters", as_text)
    # The type that AWS takes where none is said is that of a stack which is there.
    make = CloudFormationBackend.create_change_set
    update = lambda backend, **given: make(backend, **{**given, "change_set_type": "UPDATE"})  # noqa: E731
    monkeypatch.setattr(CloudFormationBackend, "create_change_set", update)
    name = "update_termination_protection"
    monkeypatch.setattr(CloudFormationResponse, name, update_termination_protection, raising=False)
    with aws() as url:
        yield url


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """An operator's inventory with a device and what the operator chose."""
    path = tmp_path / "inventory"
    (path / "group_vars").mkdir(parents=True)
    (path / "hosts.yml").write_text("edge_devices: {hosts: {edge-0001: {}}}\n")
    (path / "group_vars/edge_devices.yml").write_text(
        yaml.safe_dump({"fleet_bucket": BUCKET, "edge_rotator_region": REGION})
    )
    return path


@pytest.fixture
def cloud(server: str, inventory: Path) -> Cloud:
    """Run the playbook: exit code, what each task returned, and all that was written."""

    def run(*words: str) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {"AWS_ENDPOINT_URL": server}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), *words),
                str(ROOT / "playbooks/cloud.yml"),
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        recap = done.stdout.partition("PLAY RECAP")[2]
        return {
            "rc": done.returncode,
            "changed": "changed=0" not in recap,
            "text": " ".join((done.stdout + done.stderr).split()),
        }

    return run


def noted(inventory: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((inventory / "group_vars/all/aws.yml").read_text()))


def test_a_cloud_is_made_noted_and_left_alone(
    cloud: Cloud, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, protected = CloudFormationBackend.create_stack, []

    def create_stack(backend: CloudFormationBackend, **given: Any) -> Stack:
        protected.append(given["enable_termination_protection"])
        return make(backend, **given)

    monkeypatch.setattr(CloudFormationBackend, "create_stack", create_stack)
    looked = cloud("--check")
    assert looked["rc"] == 0, looked["text"]
    assert "New stack would be created" in looked["text"]
    assert not (inventory / "group_vars/all").exists()
    assert boto3.client("cloudformation", region_name=REGION).describe_stacks()["Stacks"] == []

    made = cloud()
    assert made["rc"] == 0, made["text"]
    assert made["changed"]
    found = noted(inventory)
    iot, iam = boto3.client("iot", region_name=REGION), boto3.client("iam", region_name=REGION)
    alias = iot.describe_role_alias(roleAlias=found["edge_rotator_role_alias"])["roleAliasDescription"]
    assert iam.get_role(RoleName=found["fleet_role_name"])["Role"]["Arn"] == alias["roleArn"]
    assert alias["credentialDurationSeconds"] == found["edge_rotator_expected_lifetime"] == 3600
    assert iot.get_policy(policyName=found["fleet_policy"])["policyName"] == "edge-litestream-credentials"
    assert iot.describe_thing_type(thingTypeName=found["fleet_thing_type"])
    assert found["edge_rotator_endpoint"].endswith(f".credentials.iot.{REGION}.amazonaws.com")
    assert (found["fleet_bucket"], found["edge_rotator_region"]) == (BUCKET, REGION)
    assert found["fleet_thing_groups"] == ["edge-litestream"]
    assert boto3.client("sns", region_name=REGION).get_topic_attributes(TopicArn=found["fleet_topic"])

    # Neither stack nor what every device depends on goes by mistake; one that could not be made goes.
    assert protected == [None]
    stacks = boto3.client("cloudformation", region_name=REGION)
    assert stacks.describe_stacks()["Stacks"][0]["EnableTerminationProtection"]
    rules = json.loads(stacks.get_stack_policy(StackName="edge-litestream")["StackPolicyBody"])["Statement"]
    kept = {one for rule in rules if rule["Effect"] == "Deny" for one in rule["Resource"]}
    assert kept == {f"LogicalResourceId/{one}" for one in ("Bucket", "Role", "RoleAlias")}
    wrong = {"fleet_bucket": "another-bucket", "edge_rotator_role_alias": "another"}
    refused = cloud("-e", json.dumps(wrong))
    assert refused["rc"] != 0
    for name, value in wrong.items():
        assert f"{name} is '{value}'" in refused["text"], refused["text"]
    assert (noted(inventory), len(stacks.describe_stacks()["Stacks"])) == (found, 1)

    # What is noted is what the next run goes by: nothing has to be said twice.
    (inventory / "group_vars/edge_devices.yml").unlink()
    for words in ([], ["--check"]):
        again = cloud(*words)
        assert (again["rc"], again["changed"]) == (0, False), again["text"]
        assert "The stack is as it was." in again["text"]


def test_a_change_is_shown_before_it_is_made(cloud: Cloud, inventory: Path) -> None:
    """What only an earlier run was told, by -e, stays."""
    told = {"cloud_parameters": {"OldVersionDays": 14, "DeviceMayDelete": False}}
    made = cloud("-e", json.dumps(told))
    assert made["rc"] == 0, made["text"]
    wanted = {"edge_rotator_expected_lifetime": 900, "fleet_old_generations": ["edge-0001/sample.db"]}
    words = ("-e", json.dumps(wanted))
    looked = cloud("--check", *words)
    assert looked["rc"] == 0, looked["text"]
    assert "Modify Bucket (AWS::S3::Bucket)" in looked["text"], looked["text"]
    assert "ThingType (" not in looked["text"]
    assert "keeps DeviceMayDelete=false, OldVersionDays=14, which no variable says" in looked["text"]
    iot = boto3.client("iot", region_name=REGION)

    def alias() -> Any:
        return iot.describe_role_alias(roleAlias="edge-litestream")["roleAliasDescription"]

    assert alias()["credentialDurationSeconds"] == 3600
    assert noted(inventory)["edge_rotator_expected_lifetime"] == 3600
    made = cloud(*words)
    assert made["rc"] == 0, made["text"]
    assert alias()["credentialDurationSeconds"] == 900
    assert noted(inventory)["edge_rotator_expected_lifetime"] == 900
    stacks = boto3.client("cloudformation", region_name=REGION)
    given = stacks.describe_stacks(StackName="edge-litestream")["Stacks"][0]["Parameters"]
    values = {one["ParameterKey"]: one["ParameterValue"] for one in given}
    assert [values[name] for name in ("OldVersionDays", "DeviceMayDelete", "CredentialSeconds")] == [
        *("14", "false", "900")
    ]
    body = stacks.get_template(StackName="edge-litestream")
    rules = body["TemplateBody"]["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rules[0]["Id"] == "old-versions"
    assert rules[1]["Prefix"] == "edge-0001/sample.db/generations/"
    assert rules[1]["ExpirationInDays"] == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"fleet_bucket": "Example", "fleet_old_generations": ["/"], "cloud_vars_file": "aws.json"},
        {"fleet_bucket": "", "fleet_old_generations": ["edge-0001"]},
    ],
)
def test_wrong_values_are_refused_before_aws_is_asked(cloud: Cloud, wrong: dict[str, Any]) -> None:
    done = cloud("-e", json.dumps(wrong))
    assert done["rc"] != 0
    for name, value in wrong.items():
        assert f"{name} is {value if isinstance(value, list) else repr(value)}" in done["text"]
    assert boto3.client("cloudformation", region_name=REGION).describe_stacks()["Stacks"] == []


def test_variables_that_ansible_would_no_longer_read_are_not_hidden(cloud: Cloud, inventory: Path) -> None:
    (inventory / "group_vars/all.yml").write_text("ansible_user: pi\n")
    done = cloud()
    assert done["rc"] != 0
    assert "all.yml would not be read any more" in done["text"]
    assert not (inventory / "group_vars/all").exists()
    moved = inventory / "group_vars/all/main.yml"
    moved.parent.mkdir()
    (inventory / "group_vars/all.yml").rename(moved)
    assert cloud()["rc"] == 0
