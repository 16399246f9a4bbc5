"""aws_iot_lost: against moto's AWS IoT and IAM, with every call interrupted once."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from moto.iot.models import IoTBackend

from tests.unit.aws_iot import POLICY, THING, Run, certificate, cloud, interrupted_everywhere

ROOT = Path(__file__).resolve().parents[4]
ALIAS, BUCKET, ROLE = "edge-litestream", "example-edge-backups", "fleet-role"
GROUPS = {"edge-litestream", "canary"}
ASKED = {"thing": THING, "role_alias": ALIAS, "bucket": BUCKET}
UTC = datetime.UTC


def device(iot: Any, thing: str = THING, active: int = 1) -> list[str]:
    """Make a thing in two groups, with an old certificate and active ones; return their IDs."""
    iot.create_thing(thingName=thing, attributePayload={"attributes": {"ring": "1"}})
    for group in GROUPS:
        iot.add_thing_to_thing_group(thingName=thing, thingGroupName=group)
    made = []
    for status in ["INACTIVE"] + ["ACTIVE"] * active:
        pem = certificate(ec.generate_private_key(ec.SECP256R1()).public_key(), common=thing)
        one = iot.register_certificate_without_ca(certificatePem=pem, status=status)
        iot.attach_policy(policyName=POLICY, target=one["certificateArn"])
        iot.attach_thing_principal(thingName=thing, principal=one["certificateArn"])
        made.append(one["certificateId"])
    return made


def prepare(iot: Any) -> list[str]:
    iam = boto3.client("iam")
    iam.create_role(RoleName=ROLE, Path="/fleet/", AssumeRolePolicyDocument="{}")
    arn = iam.get_role(RoleName=ROLE)["Role"]["Arn"]
    iot.create_role_alias(roleAlias=ALIAS, roleArn=arn, credentialDurationSeconds=900)
    return device(iot)


@pytest.fixture
def iot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with cloud(monkeypatch) as client:
        yield client


def statuses(iot: Any, ids: list[str]) -> list[str]:
    told = [iot.describe_certificate(certificateId=one)["certificateDescription"] for one in ids]
    return [one["status"] for one in told]


def groups(iot: Any, thing: str = THING) -> set[str]:
    return {one["groupName"] for one in iot.list_thing_groups_for_thing(thingName=thing)["thingGroups"]}


def attributes(iot: Any, thing: str = THING) -> dict[str, str]:
    return dict(iot.describe_thing(thingName=thing)["attributes"])


def put(iam: Any, thing: str, document: Any) -> None:
    iam.put_role_policy(RoleName=ROLE, PolicyName=f"lost-{thing}", PolicyDocument=json.dumps(document))


def padded(length: int, **more: Any) -> dict[str, Any]:
    """Make a policy of at least so many characters."""
    entry = {"Effect": "Deny", "Action": "s3:*", "Resource": f"arn:aws:s3:::{'x' * length}", **more}
    return {"Version": "2012-10-17", "Statement": [entry]}


def test_a_thing_is_lost_and_found(iot: Any, run: Run) -> None:
    old, now = prepare(iot)
    looked = run(check=True, **ASKED, state="lost")
    assert (statuses(iot, [old, now]), groups(iot)) == (["INACTIVE", "ACTIVE"], GROUPS)
    lost = run(**ASKED, state="lost")
    # The time in the attribute is that of the last change.
    told = [{one.split("since=")[0] for one in done["changes"]} for done in (looked, lost)]
    assert told[0] == told[1]
    assert len(told[0]) == 4
    assert statuses(iot, [old, now]) == ["INACTIVE", "INACTIVE"]
    assert groups(iot) == set()
    assert (lost["certificates"], set(lost["groups"])) == ([now], GROUPS)
    assert (lost["role"], lost["policy"], lost["entry"]) == (ROLE, f"lost-{THING}", "")
    assert not lost["remembered"]
    assert attributes(iot)["ring"] == "1"
    again = run(**ASKED, state="lost")
    assert not again["changed"]
    assert again["remembered"]
    for key in ("since", "until", "closure", "refusal", "certificates", "groups"):
        assert again[key] == lost[key], key

    looked = run(check=True, **ASKED, state="found")
    assert statuses(iot, [old, now]) == ["INACTIVE", "INACTIVE"]
    found = run(**ASKED, state="found")
    assert sorted(found["changes"]) == sorted(looked["changes"])
    assert statuses(iot, [old, now]) == ["INACTIVE", "ACTIVE"], "only what was active"
    assert (groups(iot), attributes(iot)) == (GROUPS, {"ring": "1"})
    assert not run(**ASKED, state="found")["changed"]


def test_times_are_those_of_aws_and_of_the_alias(iot: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(iot)
    before = datetime.datetime.now(UTC).replace(microsecond=0)
    lost = run(**ASKED, state="lost")
    since, until = (datetime.datetime.fromisoformat(lost[key]) for key in ("since", "until"))
    assert before <= since <= datetime.datetime.now(UTC)
    assert (lost["lifetime"], until - since) == (900, datetime.timedelta(seconds=901))
    refused = lost["refusal"]["Statement"][0]["Condition"]["DateLessThan"]["aws:TokenIssueTime"]
    assert datetime.datetime.fromisoformat(refused) - since == datetime.timedelta(seconds=1)

    # An alias that was changed a moment ago may have given credentials of twelve hours before.
    told = iot.describe_role_alias(roleAlias=ALIAS)["roleAliasDescription"]
    described = IoTBackend.describe_role_alias

    def changed(hours: int) -> Any:
        def describe(self: Any, role_alias_name: str) -> Any:
            alias = described(self, role_alias_name)
            made = told["creationDate"].astimezone(UTC) - datetime.timedelta(hours=99)
            alias.creation_date = made
            alias.last_modified_date = datetime.datetime.now(UTC) - datetime.timedelta(hours=hours)
            return alias

        return describe

    for hours, lasts in ((1, 43200), (13, 900)):
        monkeypatch.setattr(IoTBackend, "describe_role_alias", changed(hours))
        assert run(**ASKED, state="lost")["lifetime"] == lasts


def denies(document: dict[str, Any], action: str, arn: str, prefix: str, issued: str) -> bool:
    """Evaluate Deny statements as IAM does."""
    for entry in document["Statement"]:
        assert entry["Effect"] == "Deny"
        condition = entry.get("Condition", {})
        assert condition.keys() <= {"StringLike", "DateLessThan"}
        wanted = condition.get("StringLike", {"s3:prefix": "*"})["s3:prefix"]
        before = condition.get("DateLessThan", {"aws:TokenIssueTime": "9"})["aws:TokenIssueTime"]
        if (
            fnmatchcase(action, entry["Action"])
            and fnmatchcase(arn, entry["Resource"])
            and any(fnmatchcase(prefix, one) for one in ([wanted] if isinstance(wanted, str) else wanted))
            and issued < before
        ):
            return True
    return False


@pytest.mark.parametrize("other", ["edge-00012", "edge-000", "edge-0001-a", "edge:0001"])
def test_the_prefix_is_closed_and_no_other(iot: Any, run: Run, other: str) -> None:
    prepare(iot)
    lost = run(**ASKED, state="lost")
    bucket = f"arn:aws:s3:::{BUCKET}"
    # All that the role allows a device.
    template = (ROOT / "files/aws-fleet.yaml").read_text().partition("PolicyName: own-prefix")[2]
    allowed = set(re.findall(r"s3:\w+\b(?!:)", template.partition("RoleAlias:\n")[0])) - {"s3:prefix"}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} <= allowed
    early, late = "2000-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
    assert early < lost["since"] < late
    for thing, own in ((THING, True), (other, False)):
        key = f"{bucket}/{thing}/sample.db/0/1.ltx"
        asked = [(action, key, "") for action in allowed - {"s3:ListBucket"}]
        asked += [("s3:ListBucket", bucket, prefix) for prefix in (thing, f"{thing}/", f"{thing}/sample.db/")]
        for one in asked:
            assert denies(lost["closure"], *one, issued=late) == own, one
            assert denies(lost["closure"], *one, issued=early) == own, one
            assert denies(lost["refusal"], *one, issued=early) == own, one
            assert not denies(lost["refusal"], *one, issued=late), "a new session"


def test_other_partitions_and_names_that_iam_does_not_take(iot: Any, run: Run) -> None:
    prepare(iot)
    arn = boto3.client("iam").get_role(RoleName=ROLE)["Role"]["Arn"]
    iot.update_role_alias(roleAlias=ALIAS, roleArn=arn.replace("arn:aws:", "arn:aws-cn:"))
    device(iot, "edge:1_a-b")
    lost = run(**{**ASKED, "thing": "edge:1_a-b"}, state="lost")
    assert (lost["role"], lost["policy"]) == (ROLE, "lost-edge.1_a-b")
    assert lost["closure"]["Statement"][0]["Resource"] == f"arn:aws-cn:s3:::{BUCKET}/edge:1_a-b/*"


def test_both_certificates_of_a_renewal_come_back_and_a_new_one_is_left_alone(iot: Any, run: Run) -> None:
    prepare(iot)
    _old, first, second, new = device(iot, "edge-2", active=3)
    asked = {**ASKED, "thing": "edge-2", "besides": [new]}
    lost = run(**asked, state="lost")
    assert lost["certificates"] == sorted([first, second])
    assert statuses(iot, [first, second, new]) == ["INACTIVE", "INACTIVE", "ACTIVE"]
    refused = run(**{**asked, "besides": []}, state="found")
    assert "has another active certificate" in refused["msg"]
    assert new in refused["msg"]
    assert statuses(iot, [first, second, new]) == ["INACTIVE", "INACTIVE", "ACTIVE"], "nothing half done"
    replaced = run(**asked, state="replaced")
    assert statuses(iot, [first, second, new]) == ["INACTIVE", "INACTIVE", "ACTIVE"]
    assert (groups(iot, "edge-2"), attributes(iot, "edge-2")) == (GROUPS, {"ring": "1"})
    assert "certificates" in replaced


def test_what_became_active_since_is_lost_too(iot: Any, run: Run) -> None:
    old, now = prepare(iot)
    run(**ASKED, state="lost")
    iot.update_certificate(certificateId=old, newStatus="ACTIVE")
    lost = run(**ASKED, state="lost")
    assert lost["certificates"] == sorted([old, now])
    assert set(lost["groups"]) == GROUPS
    assert statuses(iot, [old, now]) == ["INACTIVE", "INACTIVE"]


def test_what_cannot_be_remembered_keeps_nobody_from_the_rest(
    iot: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, now = prepare(iot)

    def refuse(*_args: Any, **_more: Any) -> None:
        raise ClientError(
            {"Error": {"Code": "InvalidRequestException", "Message": "3 attributes"}}, "UpdateThing"
        )

    with monkeypatch.context() as patch:
        patch.setattr(IoTBackend, "update_thing", refuse)
        lost = run(**ASKED, state="lost")
    assert "3 attributes" in lost["warning"]
    assert now in lost["warning"]
    assert (lost["certificates"], set(lost["groups"])) == ([now], GROUPS)
    assert statuses(iot, [old, now]) == ["INACTIVE", "INACTIVE"]
    assert groups(iot) == GROUPS
    assert not run(**ASKED, state="found")["changed"]
    assert run(**ASKED, state="found", certificates=[now])["changed"]
    assert statuses(iot, [old, now]) == ["INACTIVE", "ACTIVE"]

    for number in range(8):
        group = f"{number}-{'g' * 120}"
        iot.create_thing_group(thingGroupName=group)
        iot.add_thing_to_thing_group(thingName=THING, thingGroupName=group)
    lost = run(**ASKED, state="lost")
    assert "AWS takes 800" in lost["warning"]
    assert statuses(iot, [old, now]) == ["INACTIVE", "INACTIVE"]
    assert len(groups(iot)) == 10


def test_a_full_role_says_what_may_go(iot: Any, run: Run) -> None:
    prepare(iot)
    iam = boto3.client("iam")
    past, future = "DropAfter20200101T000000Z", "DropAfter29990101T000000Z"

    def entry(sid: str, refused: bool, pad: int = 3600) -> dict[str, Any]:
        condition = {"DateLessThan": {"aws:TokenIssueTime": "2020-01-01T00:00:00Z"}} if refused else {}
        return padded(pad, Sid=sid, **({"Condition": condition} if refused else {}))

    put(iam, "edge-late", entry(future, refused=True))
    iam.put_role_policy(RoleName=ROLE, PolicyName="own-prefix", PolicyDocument=json.dumps(padded(5000)))
    lost = run(**ASKED, state="lost")
    assert (lost["drop"], lost["free"] > 0) == ([], True)
    assert lost["room_at"] == "2999-01-01T00:00:00Z"

    put(iam, "edge-early", entry(past, refused=True))
    lost = run(**ASKED, state="lost")
    assert (lost["drop"], lost["free"] > 0) == (["lost-edge-early"], True)
    # A closed prefix may be opened only where no certificate can use it.
    device(iot, "edge-early", active=1)
    put(iam, "edge-early", entry(past, refused=False))
    lost = run(**ASKED, state="lost")
    assert (lost["drop"], lost["free"] < 0) == ([], True)
    assert run(**{**ASKED, "thing": "edge-early"}, state="lost")["changed"]
    assert run(**ASKED, state="lost")["drop"] == ["lost-edge-early"]
    # A thing that is gone has none; one of somebody else's policies is not ours to delete.
    put(iam, "edge-early", padded(3600))
    assert run(**ASKED, state="lost")["drop"] == []
    iam.delete_role_policy(RoleName=ROLE, PolicyName="lost-edge-early")
    put(iam, "edge-gone", entry(past, refused=False))
    assert run(**ASKED, state="lost")["drop"] == ["lost-edge-gone"]
    # What is only blanks does not count.
    iam.delete_role_policy(RoleName=ROLE, PolicyName="lost-edge-gone")
    iam.delete_role_policy(RoleName=ROLE, PolicyName="lost-edge-late")
    free = run(**ASKED, state="lost")["free"]
    iam.put_role_policy(
        RoleName=ROLE, PolicyName="own-prefix", PolicyDocument=json.dumps(padded(5000), indent=99)
    )
    assert run(**ASKED, state="lost")["free"] == free
    assert free == 10240 - len(json.dumps(padded(5000), separators=(",", ":"))) - len(
        json.dumps(run(**ASKED, state="lost")["refusal"], separators=(",", ":"))
    )


def test_the_entry_of_a_thing_is_told(iot: Any, run: Run) -> None:
    prepare(iot)
    lost = run(**ASKED, state="lost")
    for key, entry in (("closure", "closed"), ("refusal", "refused")):
        put(boto3.client("iam"), THING, lost[key])
        assert run(**ASKED, state="lost")["entry"] == entry


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"thing": "edge-9"}, "AWS IoT has no thing 'edge-9' in this account and region"),
        ({"thing": "edge/9"}, "thing is 'edge/9'"),
        ({"role_alias": "other"}, "no role alias 'other'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_changes(
    iot: Any, run: Run, more: dict[str, str], said: str
) -> None:
    ids = prepare(iot)
    done = run(**{**ASKED, **more}, state="lost")
    assert said in done["msg"]
    assert (statuses(iot, ids), groups(iot)) == (["INACTIVE", "ACTIVE"], GROUPS)


def test_a_certificate_that_is_gone_is_not_found_again(iot: Any, run: Run) -> None:
    _old, now = prepare(iot)
    run(**ASKED, state="lost")
    arn = iot.describe_certificate(certificateId=now)["certificateDescription"]["certificateArn"]
    iot.detach_thing_principal(thingName=THING, principal=arn)
    done = run(**ASKED, state="found")
    assert "has no certificate" in done["msg"]
    assert "edge_litestream.appliance.replace" in done["msg"]
    assert groups(iot) == set()


@pytest.mark.parametrize("state", ["lost", "found"])
def test_interrupted_anywhere_a_next_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, run: Run, state: str
) -> None:
    def start(iot: Any) -> list[str]:
        ids = prepare(iot)
        if state == "found":
            assert not run(**ASKED, state="lost").get("failed")
        return ids

    def check(iot: Any, ids: list[str]) -> None:
        done = run(**ASKED, state=state)
        assert not done.get("failed"), done
        wanted = "ACTIVE" if state == "found" else "INACTIVE"
        assert statuses(iot, ids) == ["INACTIVE", wanted]
        assert groups(iot) == (GROUPS if state == "found" else set())
        if state == "lost":
            assert (done["certificates"], set(done["groups"])) == ([ids[1]], GROUPS)
            assert not run(**ASKED, state="found").get("failed")
            assert (statuses(iot, ids), groups(iot)) == (["INACTIVE", "ACTIVE"], GROUPS)

    calls = interrupted_everywhere(monkeypatch, start, lambda _ids: run(**ASKED, state=state), check)
    assert calls.count("UpdateCertificate") == 1
