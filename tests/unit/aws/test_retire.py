"""playbooks/decommission.yml for a device that cannot be reached, against moto's server on loopback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.unit.aws.test_lost import ALIAS, BUCKET, OTHER, ROLE, THING, WELL, Account, account
from tests.unit.aws.test_replace import steps

__all__ = ["account"]
ROOT = Path(__file__).resolve().parents[3]
HOSTS = f"""
edge_devices:
  hosts:
    {THING}: {{ansible_host: 127.0.0.1, ansible_port: 1}}
    {OTHER}: {{ansible_host: 127.0.0.1, ansible_port: 1}}
"""


@pytest.fixture
def s3(account: Account) -> Any:
    known = {"region_name": "eu-central-1", "endpoint_url": account.environment["AWS_ENDPOINT_URL"]}
    known |= {"aws_access_key_id": "operator", "aws_secret_access_key": "operator"}
    client = boto3.client("s3", **known)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for thing in (THING, OTHER):
        client.put_object(Bucket=BUCKET, Key=f"{thing}/app.db/1", Body=b"x")
    return client


def retire(account: Account, tmp_path: Path, *options: str, **known: Any) -> tuple[int, str]:
    (tmp_path / "hosts.yml").write_text(HOSTS)
    limit = ("--inventory=hosts.yml", f"--limit={THING}")
    return account.play("decommission", *limit, *options, **known)


def things(account: Account) -> list[str]:
    return sorted(thing["thingName"] for thing in account.iot.list_things()["things"])


def objects(s3: Any) -> list[str]:
    return sorted(found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []))


@pytest.mark.timeout(300)
def test_a_device_that_cannot_be_reached_loses_its_aws_side(
    account: Account, s3: Any, tmp_path: Path
) -> None:
    code, said = retire(account, tmp_path, "--check")
    assert code == 0, said
    assert account.state() == WELL
    assert things(account) == [THING, OTHER]

    code, said = retire(account, tmp_path)
    assert code == 0, said
    assert f"{THING} cannot be reached: its AWS side is taken away, and that alone" in said
    assert things(account) == [OTHER]
    left = [one["certificateId"] for one in account.iot.list_certificates()["certificates"]]
    assert left == [account.certificates[OTHER]]
    assert account.state(OTHER) == WELL
    policy = account.iam.get_role_policy(RoleName=ROLE, PolicyName=f"lost-{THING}")["PolicyDocument"]
    assert "aws:TokenIssueTime" not in json.dumps(policy), (
        "for some seconds its certificate may still earn new ones"
    )
    assert objects(s3) == [f"{THING}/app.db/1", f"{OTHER}/app.db/1"], "the replica stays"

    code, said = retire(account, tmp_path)
    assert code == 0, said
    assert "changed=0" in said
    assert f"AWS IoT has no thing {THING};" in said


@pytest.mark.timeout(300)
def test_the_thing_may_stay_and_the_replica_end(account: Account, s3: Any, tmp_path: Path) -> None:
    expire = {"decommission_replica": "expire", "decommission_replica_days": 7}
    code, said = retire(account, tmp_path, decommission_keep_thing=True, **expire)
    assert code == 0, said
    found = account.iot.describe_thing(thingName=THING)
    assert "lost" not in found["attributes"], "the name can be had again"
    assert account.iot.list_thing_principals(thingName=THING)["principals"] == []
    for thing, tags in ((THING, ["retired"]), (OTHER, [])):
        tagged = s3.get_object_tagging(Bucket=BUCKET, Key=f"{thing}/app.db/1")["TagSet"]
        assert [tag["Key"] for tag in tagged] == tags
    code, said = retire(account, tmp_path, decommission_replica="delete")
    assert code == 0, said
    assert objects(s3) == [f"{OTHER}/app.db/1"]


@pytest.mark.timeout(300)
def test_what_is_wrong_is_told_and_nothing_is_touched(account: Account, s3: Any, tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        THING: ({"decommission_aws": False}, "nothing can be done"),
        "gone": ({"decommission_replica": "gone"}, "say keep, expire or delete"),
        "deleted": ({"decommission_aws": False, "decommission_replica": "delete"}, "set decommission_aws"),
        "unset": (
            {"edge_rotator_role_alias": "", "decommission_aws": True},
            "fleet_bucket or edge_rotator_role_alias is not set",
        ),
        "typo": ({"ansible_connection": "local", "ansible_become": False}, f"typo is the thing '{OTHER}'"),
    }
    # The device says which thing it is.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sed").write_text(f"#!/bin/sh\necho {OTHER}\n")
    (tmp_path / "bin/sed").chmod(0o755)
    account.environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "edge_rotator_role_alias": ALIAS}
    hosts = {name: known for name, (known, _word) in cases.items()}
    (tmp_path / "cases.yml").write_text(yaml.safe_dump({"edge_devices": {"hosts": hosts, "vars": away}}))
    account.told = {"fleet_bucket": BUCKET}
    code, said = account.play("decommission", "--inventory=cases.yml", decommission_all=True)
    assert code != 0
    for _known, word in cases.values():
        assert word in said.replace("''", "'"), said
    assert account.state() == WELL
    assert len(objects(s3)) == 2


@pytest.mark.timeout(300)
def test_a_replica_does_not_end_by_mistake(account: Account, s3: Any, tmp_path: Path) -> None:
    """In a wrong region nothing is known of a thing that goes on writing."""
    ends = {"decommission_replica": "delete"}
    code, said = retire(account, tmp_path, edge_rotator_region="us-east-1", **ends)
    assert code != 0
    assert f"AWS IoT has no thing '{THING}' in this account and region" in said.replace("''", "'"), said
    (tmp_path / "twice.yml").write_text(HOSTS.replace("1}", f"1, edge_rotator_thing_name: {OTHER}}}", 1))
    code, said = account.play("decommission", "--inventory=twice.yml", f"--limit={THING}", **ends)
    assert code != 0
    assert "edge_rotator_thing_name is the same on more than one host" in said, said
    assert (account.state(), account.state(OTHER)) == (WELL, WELL)
    assert len(objects(s3)) == 2
    assert retire(account, tmp_path)[0] == 0
    code, said = retire(account, tmp_path, decommission_confirm=THING, **ends)
    assert code == 0, said
    assert objects(s3) == [f"{OTHER}/app.db/1"]


def test_the_last_rows_are_uploaded_before_the_prefix_is_closed() -> None:
    """Litestream 0.3 uploads them when it stops; what starts it again is stopped with it."""
    order = list(steps(yaml.safe_load((ROOT / "playbooks/decommission.yml").read_text())))
    stops = [
        number for number, step in enumerate(order) if "'litestream.service'" in step and "'stopped'" in step
    ]
    closed = next(number for number, step in enumerate(order) if step.startswith("Its prefix is closed:"))
    assert len(stops) == 1
    assert stops[0] < closed
    assert "'litestream.path'" in order[stops[0]]


def test_a_replacement_that_was_given_up_keeps_no_unit_from_starting() -> None:
    order = list(steps(yaml.safe_load((ROOT / "playbooks/decommission.yml").read_text())))
    assert any("__replace_drop_ins" in step for step in order)


def test_a_device_that_cannot_prove_its_refusal_can_be_retired() -> None:
    _first, play, _last = yaml.safe_load((ROOT / "playbooks/decommission.yml").read_text())
    (probe,) = (task for task in play["tasks"] if task["name"] == "The device itself gets nothing any more")
    assert "decommission_probe" in probe["when"]
    assert "-e decommission_probe=false" in str(probe["rescue"])
