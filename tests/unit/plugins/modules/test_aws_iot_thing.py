"""aws_iot_thing: against moto's AWS IoT, with every call interrupted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.aws_iot import THING, Run, certificate, cloud, interrupted_everywhere

WANTED = {
    "name": THING,
    "type": "edge-litestream",
    "attributes": {"profile": "tpm2", "ring": "1"},
    "groups": ["edge-litestream", "canary"],
}


@pytest.fixture
def iot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with cloud(monkeypatch) as client:
        yield client


def known(iot: Any) -> tuple[str, dict[str, str], set[str]]:
    found = iot.describe_thing(thingName=THING)
    groups = iot.list_thing_groups_for_thing(thingName=THING)["thingGroups"]
    return found.get("thingTypeName", ""), found["attributes"], {group["groupName"] for group in groups}


def test_a_thing_is_made_changed_and_removed(iot: Any, run: Run) -> None:
    looked = run(check=True, **WANTED)
    assert looked["thing"] == {}
    assert looked["changes"] == [
        "thing edge-0001 made",
        "group edge-litestream joined",
        "group canary joined",
    ]
    assert iot.list_things()["things"] == []
    made = run(**WANTED)
    assert made["changes"] == looked["changes"]
    assert made["thing"] == {key: WANTED[key] for key in ("name", "type", "attributes")}
    assert made["groups"] == WANTED["groups"]
    assert known(iot) == ("edge-litestream", WANTED["attributes"], set(WANTED["groups"]))
    assert not run(**WANTED)["changed"]

    iot.update_thing(thingName=THING, attributePayload={"attributes": {"owner": "x"}, "merge": True})
    less = {**WANTED, "attributes": {"ring": 2, "profile": ""}, "groups": ["canary"]}
    looked = run(check=True, **less, groups_exclusive=True)
    assert known(iot)[2] == set(WANTED["groups"])
    done = run(**less, groups_exclusive=True)
    assert done["changes"] == looked["changes"]
    assert set(done["changes"]) == {"attribute profile=", "attribute ring=2", "group edge-litestream left"}
    assert known(iot) == ("edge-litestream", {"ring": "2", "owner": "x"}, {"canary"})
    assert (done["thing"]["attributes"], done["groups"]) == ({"ring": "2", "owner": "x"}, ["canary"])

    assert run(check=True, name=THING, state="absent")["changes"] == ["thing edge-0001 removed"]
    assert len(iot.list_things()["things"]) == 1
    assert run(name=THING, state="absent")["thing"] == {}
    assert iot.list_things()["things"] == []
    assert not run(name=THING, state="absent")["changed"]


def test_without_wishes_a_thing_is_only_looked_at(iot: Any, run: Run) -> None:
    run(**WANTED)
    done = run(name=THING)
    assert not done["changed"]
    assert done["thing"]["attributes"] == WANTED["attributes"]
    assert sorted(done["groups"]) == ["canary", "edge-litestream"]


def test_certificates_are_told_and_keep_a_thing(iot: Any, run: Run) -> None:
    run(**WANTED)
    made = []
    for status in ("ACTIVE", "INACTIVE"):
        text = certificate(ec.generate_private_key(ec.SECP256R1()).public_key())
        made.append(iot.register_certificate_without_ca(certificatePem=text, status=status))
    # AWS lists them in no order.
    for one in reversed(made):
        iot.attach_thing_principal(thingName=THING, principal=one["certificateArn"])
    ids = [one["certificateId"] for one in made]
    told = run(check=True, name=THING)["certificates"]
    assert [(one["id"], one["status"]) for one in told] == list(zip(ids, ["ACTIVE", "INACTIVE"], strict=True))
    assert all(one["not_after"] > one["created"] for one in told)
    done = run(name=THING, state="absent")
    assert f"has the certificate {ids[0]} (ACTIVE)" in done["msg"]
    assert len(iot.list_things()["things"]) == 1


def test_interrupted_at_every_call_the_end_is_the_same(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def check(iot: Any, _unused: object) -> None:
        run(**WANTED)
        assert known(iot) == ("edge-litestream", WANTED["attributes"], set(WANTED["groups"]))
        assert not run(**WANTED)["changed"]

    calls = interrupted_everywhere(monkeypatch, lambda _iot: None, lambda _unused: run(**WANTED), check)
    assert {"CreateThing", "AddThingToThingGroup"} <= set(calls)


def test_a_missing_right_is_named_with_the_statement_that_grants_it(
    iot: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of AWS."""
    factory = boto3.client
    said = (
        "User: arn:aws:iam::123456789012:user/operator is not authorized to perform: iot:CreateThing on "
        "resource: arn:aws:iot:eu-central-1:123456789012:thing/edge-0001 because no identity-based policy "
        "allows the iot:CreateThing action"
    )

    def denied(**_unused: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": said}}, "CreateThing")

    def client(*args: Any, **more: Any) -> Any:
        one = factory(*args, **more)
        one.meta.events.register("before-call.iot.CreateThing", denied)
        return one

    monkeypatch.setattr(boto3, "client", client)
    done = run(**WANTED)
    assert "lack the right to iot:CreateThing" in done["msg"], done
    resource = "arn:aws:iot:eu-central-1:123456789012:thing/edge-0001"
    statement = {"Effect": "Allow", "Action": "iot:CreateThing", "Resource": resource}
    assert json.dumps(statement) in done["msg"]
    assert "files/aws-operator-policy.json" in done["msg"]


def test_throttling_is_waited_for(iot: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine refusals, which is more than the SDK takes by itself."""
    factory, refused = boto3.client, []

    def throttle(request: Any, **_unused: Any) -> AWSResponse | None:
        refused.append(request.url)
        if len(refused) > 9:
            return None
        answer = AWSResponse(request.url, 400, {"x-amzn-errortype": "ThrottlingException"}, None)
        answer._content = b'{"message": "Rate exceeded"}'
        return answer

    def client(*args: Any, **more: Any) -> Any:
        one = factory(*args, **more)
        one.meta.events.register_first("before-send.iot.DescribeThing", throttle)
        return one

    monkeypatch.setattr(boto3, "client", client)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    assert run(**WANTED)["changed"]
    assert len(refused) == 10


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no AWS credentials: set AWS_PROFILE"),
        ({"AWS_DEFAULT_REGION": None}, "region is not known: set AWS_REGION"),
    ],
)
def test_what_the_sdk_lacks_is_named(
    variables: dict[str, None], words: str, iot: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in variables:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    assert words in run(**WANTED)["msg"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"type": "other"}, ["no thing type 'other'", "fleet_thing_type", "appliance.cloud"]),
        ({"groups": ["canary", "other"]}, ["no thing group 'other'", "fleet_thing_groups"]),
        ({"name": "a/b"}, ["name is 'a/b'"]),
    ],
)
def test_nothing_is_made_of_bad_input(wrong: dict[str, Any], words: list[str], iot: Any, run: Run) -> None:
    done = run(**{**WANTED, **wrong})
    assert done["failed"]
    for word in words:
        assert word in done["msg"], done["msg"]
    assert iot.list_things()["things"] == []
