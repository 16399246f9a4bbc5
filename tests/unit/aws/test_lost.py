"""playbooks/lost.yml and found.yml, as an operator runs them, against moto's server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.aws_iot import certificate
from tests.unit.aws_server import aws

ROOT = Path(__file__).resolve().parents[3]
THING, OTHER, BUCKET, ROLE = "edge-0001", "edge-0002", "example-edge-backups", "fleet-role"
ALIAS = "edge-litestream"
State = tuple[str, list[str], list[str]]


class Account:
    """An AWS account with a role alias and two things, and a control node without an inventory."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.told = {"fleet_bucket": BUCKET, "edge_rotator_role_alias": ALIAS}
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "operator",
            "AWS_SECRET_ACCESS_KEY": "operator",
        }
        known = {"region_name": "eu-central-1", "endpoint_url": url}
        known |= {"aws_access_key_id": "operator", "aws_secret_access_key": "operator"}
        self.iot, self.iam = boto3.client("iot", **known), boto3.client("iam", **known)
        arn = self.iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        self.iot.create_role_alias(roleAlias=ALIAS, roleArn=arn, credentialDurationSeconds=900)
        self.iot.create_thing_group(thingGroupName="canary")
        self.certificates = {thing: self.enrol(thing) for thing in (THING, OTHER)}

    def enrol(self, thing: str) -> str:
        pem = certificate(ec.generate_private_key(ec.SECP256R1()).public_key(), common=thing)
        one = self.iot.register_certificate_without_ca(certificatePem=pem, status="ACTIVE")
        self.iot.create_thing(thingName=thing)
        self.iot.attach_thing_principal(thingName=thing, principal=one["certificateArn"])
        self.iot.add_thing_to_thing_group(thingName=thing, thingGroupName="canary")
        return str(one["certificateId"])

    def play(self, name: str, *options: str, **known: Any) -> tuple[int, str]:
        """Run a playbook; return its exit code and what it said, blanks made one."""
        told = {**self.told, **known}
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ansible-playbook")), *options),
                f"--extra-vars={json.dumps(told)}",
                str(ROOT / "playbooks" / f"{name}.yml"),
            ],
            env={
                **os.environ,
                **self.environment,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "ANSIBLE_INVENTORY": "localhost,",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_INJECT_FACT_VARS": "False",
            },
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def state(self, thing: str = THING) -> State:
        """Status of its certificate, its groups, and the keys of the conditions in its policy."""
        told = self.iot.describe_certificate(certificateId=self.certificates[thing])
        groups = self.iot.list_thing_groups_for_thing(thingName=thing)["thingGroups"]
        if f"lost-{thing}" in self.policies():
            found = self.iam.get_role_policy(RoleName=ROLE, PolicyName=f"lost-{thing}")["PolicyDocument"]
            conditions = sorted({key for entry in found["Statement"] for key in entry.get("Condition", {})})
        else:
            conditions = []
        return (
            told["certificateDescription"]["status"],
            [group["groupName"] for group in groups],
            conditions,
        )

    def policies(self) -> list[str]:
        return list(self.iam.list_role_policies(RoleName=ROLE)["PolicyNames"])


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with aws() as url:
        yield Account(tmp_path, url)


WELL: State = ("ACTIVE", ["canary"], [])
LOST: State = ("INACTIVE", [], ["StringLike"])
FOUND: State = ("ACTIVE", ["canary"], ["DateLessThan", "StringLike"])


@pytest.mark.timeout(300)
def test_a_thing_is_lost_and_found(account: Account) -> None:
    code, said = account.play("lost", "--check", thing=THING)
    assert code == 0, said
    assert "edge-0001 would be lost since" in said
    assert account.state() == WELL

    code, said = account.play("lost", thing=THING)
    assert code == 0, said
    assert account.state() == LOST
    assert account.state(OTHER) == WELL
    until = said.partition("would have worked until ")[2][:20]
    assert until.endswith("Z")
    assert f"below edge-0001/ in the bucket {BUCKET}" in said
    code, said = account.play("lost", thing=THING)
    assert "changed=0" in said, "once more changes nothing"
    assert until in said

    code, said = account.play("found", "--check", thing=THING)
    assert code == 0, said
    assert account.state() == LOST
    code, said = account.play("found", thing=THING)
    assert code == 0, said
    assert account.state() == FOUND
    assert account.iot.describe_thing(thingName=THING)["attributes"] == {}
    code, said = account.play("found", thing=THING)
    assert "changed=0" in said
    assert "was not lost: nothing has changed" in said


@pytest.mark.timeout(300)
def test_what_is_wrong_is_named(account: Account) -> None:
    for name in ("lost", "found"):
        code, said = account.play(name, fleet_bucket="", edge_rotator_role_alias="")
        assert code != 0
        for word in ("as in -e thing=edge-0001", "fleet_bucket is not set", "edge_rotator_role_alias is not"):
            assert word in said, said
    code, said = account.play("lost", thing="edge-0009")
    assert code != 0
    assert "AWS IoT has no thing 'edge-0009' in this account and region" in said
    assert account.state() == WELL


@pytest.mark.timeout(300)
def test_a_full_role_is_told_after_the_certificate_is_inactive(account: Account) -> None:
    """And makes room by itself as soon as it may."""

    def fill(end: str) -> None:
        entry = {"Sid": f"DropAfter{end}", "Effect": "Deny", "Action": "s3:*"}
        entry["Resource"] = "arn:aws:s3:::" + "x" * 9900
        document = json.dumps({"Version": "2012-10-17", "Statement": [entry]})
        account.iam.put_role_policy(RoleName=ROLE, PolicyName="lost-edge-0007", PolicyDocument=document)

    fill("29990101T000000Z")
    code, said = account.play("lost", thing=THING)
    assert code != 0
    assert "credentials from before are NOT refused yet" in said
    assert "not needed any more at 2999-01-01T00:00:00Z" in said
    assert account.state() == ("INACTIVE", [], [])
    fill("20200101T000000Z")
    code, said = account.play("lost", thing=THING)
    assert code == 0, said
    assert account.state() == LOST
    assert account.policies() == [f"lost-{THING}"]


def test_settings_are_taken_from_the_devices(account: Account, tmp_path: Path) -> None:
    """Where the inventory does not say them for everybody."""
    inventory = tmp_path / "hosts.yml"
    device = {"edge_rotator_role_alias": ALIAS, "edge_rotator_region": "eu-central-1", "fleet_bucket": BUCKET}
    other = dict.fromkeys(device, "another")
    hosts = {"edge-0000": other, "first": {"edge_rotator_thing_name": THING}}
    listed = {"edge_devices": {"hosts": hosts, "vars": device}}
    inventory.write_text(yaml.safe_dump(listed))
    del account.environment["AWS_DEFAULT_REGION"]
    told = {"thing": THING}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={inventory}"]
    command += [f"--extra-vars={json.dumps(told)}", str(ROOT / "playbooks/lost.yml")]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options],
            env={**os.environ, **account.environment, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    limited = run("--limit=first")
    assert limited.returncode != 0
    assert "--limit is 'first': leave it out" in limited.stdout
    assert account.state() == WELL
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert account.state() == LOST
