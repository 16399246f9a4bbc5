"""aws_iot_certificate: against moto's AWS IoT, with every call interrupted once."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from moto.iot.models import IoTBackend, iot_backends

from edge_cloud.aws import update_certificate
from tests.unit.aws_iot import (
    POLICY,
    THING,
    Run,
    certificate,
    cloud,
    interrupted_everywhere,
    request,
    state,
)

ALL_THERE = ("ACTIVE", [THING], [POLICY])
TO = {"thing": THING, "policy": POLICY}


@pytest.fixture
def iot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with cloud(monkeypatch) as client:
        client.create_thing(thingName=THING)
        yield client


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def source(kind: str, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    return {kind: request(key) if kind == "request" else certificate(key.public_key())}


@pytest.mark.parametrize("kind", ["request", "certificate"])
def test_a_certificate_is_made_once(kind: str, iot: Any, run: Run, key: ec.EllipticCurvePrivateKey) -> None:
    asked = {**TO, **source(kind, key)}
    looked = run(check=True, **asked)
    assert looked["changed"]
    assert looked["id"] == ""
    assert len(looked["changes"]) == 4
    assert state(iot) == []
    made = run(**asked)
    assert made["changes"] == looked["changes"]
    assert made["status"] == "ACTIVE"
    assert state(iot) == [ALL_THERE]
    known = iot.describe_certificate(certificateId=made["id"])["certificateDescription"]
    assert (known["certificatePem"], known["certificateArn"]) == (made["certificate"], made["arn"])
    assert made["created"]
    assert made["not_after"] > made["created"]
    again = run(**asked)
    assert not again["changed"]
    assert again["id"] == made["id"]
    assert not run(check=True, **asked)["changed"]


def test_what_a_device_has_written_beside_its_request_does_not_reach_aws(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    make = IoTBackend.create_certificate_from_csr

    def signed(self: IoTBackend, csr: str, set_as_active: bool) -> Any:
        sent.append(csr)
        return make(self, csr, set_as_active)

    monkeypatch.setattr(IoTBackend, "create_certificate_from_csr", signed)
    run(**TO, request=f"{request(key)}{request(key, 'edge-0002')}")
    assert [text.count("BEGIN") for text in sent] == [1]
    assert "edge-0001" in x509.load_pem_x509_csr(sent[0].encode()).subject.rfc4514_string()


@pytest.mark.parametrize("kind", ["request", "certificate"])
def test_interrupted_at_every_call_the_end_is_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    asked = {**TO, **source(kind, key)}

    def check(iot: Any, _unused: object) -> None:
        assert sum(one[0] == "ACTIVE" for one in state(iot)) <= 1
        assert all(one == ALL_THERE for one in state(iot) if one[0] == "ACTIVE"), (
            "active has all that it needs"
        )
        assert run(**asked)["status"] == "ACTIVE"
        # What nobody can find again is inactive and belongs to nothing.
        assert [one for one in state(iot) if one != ("INACTIVE", [], [])] == [ALL_THERE]
        assert len(state(iot)) == 1 or kind == "request"
        assert not run(**asked)["changed"]

    calls = interrupted_everywhere(
        monkeypatch, lambda iot: iot.create_thing(thingName=THING), lambda _unused: run(**asked), check
    )
    assert calls[-1] == "UpdateCertificate"
    assert len(calls) > 6


def test_interrupted_while_removing_the_end_is_the_same(
    monkeypatch: pytest.MonkeyPatch, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    def prepare(iot: Any) -> str:
        iot.create_thing(thingName=THING)
        return str(run(**TO, request=request(key))["id"])

    def check(iot: Any, made: str) -> None:
        assert run(id=made, state="absent")["status"] == ""
        assert state(iot) == []

    calls = interrupted_everywhere(monkeypatch, prepare, lambda made: run(id=made, state="absent"), check)
    changes = [call for call in calls if not call.startswith(("List", "Describe", "Get"))]
    assert changes == ["UpdateCertificate", "DetachPolicy", "DetachThingPrincipal", "DeleteCertificate"]


@pytest.mark.parametrize("kind", ["request", "certificate"])
def test_a_certificate_that_stays_inactive(
    kind: str, iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    asked = {**TO, **source(kind, key)}
    assert run(state="inactive", **asked)["status"] == "INACTIVE"
    assert state(iot) == [("INACTIVE", [THING], [POLICY])]
    done = run(**asked)
    assert done["changes"] == ["active"]
    assert state(iot) == [ALL_THERE]


def test_by_id(iot: Any, run: Run, key: ec.EllipticCurvePrivateKey) -> None:
    made = run(**TO, request=request(key))
    assert run(check=True, id=made["id"], state="inactive")["changed"]
    assert state(iot) == [ALL_THERE]
    assert run(id=made["id"], state="inactive")["status"] == "INACTIVE"
    assert state(iot) == [("INACTIVE", [THING], [POLICY])]
    assert not run(id=made["id"], state="inactive")["changed"]
    iot.detach_policy(policyName=POLICY, target=made["arn"])
    assert run(id=made["id"], **TO)["changes"] == [f"attached to policy {POLICY}", "active"]
    assert state(iot) == [ALL_THERE]
    looked = run(check=True, id=made["id"], state="absent")
    assert state(iot) == [ALL_THERE]
    gone = run(id=made["id"], state="absent")
    assert gone["changes"] == looked["changes"]
    assert len(gone["changes"]) == 4
    assert state(iot) == []
    assert not run(id=made["id"], state="absent")["changed"]


def test_how_long_a_certificate_has_been_what_it_is(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its age goes on, and what has changed begins anew; renew counts its wait by that."""
    monkeypatch.setattr(IoTBackend, "update_certificate", update_certificate)
    made = run(**TO, request=request(key))
    known = iot_backends["123456789012"]["eu-central-1"].certificates[made["id"]]
    known.creation_date -= datetime.timedelta(days=10)
    known.last_modified_date = known.creation_date
    found = run(check=True, id=made["id"], state="inactive")
    assert min(found["age_s"], found["unchanged_s"]) >= 10 * 86400
    run(id=made["id"], state="inactive")
    found = run(id=made["id"], state="inactive")
    assert found["age_s"] >= 10 * 86400
    assert found["unchanged_s"] < 600


def test_removed_by_what_it_carries(iot: Any, run: Run, key: ec.EllipticCurvePrivateKey) -> None:
    asked = source("certificate", key)
    run(**TO, **asked)
    run(state="absent", **asked)
    assert state(iot) == []


def test_a_detachment_may_take_its_time(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS detaches things asynchronously."""
    made = run(**TO, request=request(key))
    factory, tries = boto3.client, []

    def conflict(**_unused: Any) -> None:
        tries.append("")
        if len(tries) < 3:
            raise ClientError({"Error": {"Code": "DeleteConflictException"}}, "DeleteCertificate")

    def client(*args: Any, **more: Any) -> Any:
        one = factory(*args, **more)
        one.meta.events.register("before-call.iot.DeleteCertificate", conflict)
        return one

    monkeypatch.setattr(boto3, "client", client)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    done = run(id=made["id"], state="absent")
    assert done["changes"].count("deleted") == 1
    assert len(tries) == 3
    assert state(iot) == []


def test_a_renewal_has_both_active(iot: Any, run: Run, key: ec.EllipticCurvePrivateKey) -> None:
    old = run(**TO, request=request(key))
    new = run(**TO, request=request(key), besides=[old["id"]])
    assert new["id"] != old["id"]
    assert state(iot) == [ALL_THERE, ALL_THERE]
    assert run(**TO, request=request(key), besides=[old["id"]])["id"] == new["id"]


def test_an_active_certificate_answers_before_a_newer_one_that_is_not(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    old = run(**TO, request=request(key))
    new = run(**TO, request=request(key), besides=[old["id"]], state="inactive")
    assert run(**TO, request=request(key))["id"] == old["id"]
    run(id=old["id"], state="inactive")
    assert run(**TO, request=request(key))["id"] == new["id"]


def test_a_thing_with_another_certificate_is_refused(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    first = run(**TO, request=request(key))
    other = ec.generate_private_key(ec.SECP256R1())
    for kind in ("request", "certificate"):
        for check in (True, False):
            done = run(check=check, **TO, **source(kind, other))
            assert done["failed"]
            for word in (THING, first["id"], "appliance.renew", "appliance.replace"):
                assert word in done["msg"]
    assert state(iot) == [ALL_THERE]
    iot.update_certificate(certificateId=first["id"], newStatus="INACTIVE")
    assert run(**TO, request=request(other), over=True)["changed"]


@pytest.mark.parametrize("kind", ["request", "certificate"])
@pytest.mark.parametrize("left", ["certificate", "replica"])
def test_a_first_certificate_is_not_made_over_what_another_device_has_left(
    left: str, kind: str, iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="example-edge-backups")
    # The prefix of a thing whose name begins like this one's is nobody's business.
    s3.put_object(Bucket="example-edge-backups", Key=f"{THING}2/sample.db/0000/1.ltx")
    asked = {**TO, **source(kind, key), "bucket": "example-edge-backups"}
    assert run(check=True, **asked)["changes"]
    if left == "replica":
        s3.put_object(Bucket="example-edge-backups", Key=f"{THING}/sample.db/0000/1.ltx")
        word = "a replica in example-edge-backups"
    else:
        old = run(**TO, request=request(ec.generate_private_key(ec.SECP256R1())), state="inactive")
        word = f"the certificate {old['id']} of another key"
    before = state(iot)
    for check in (True, False):
        refused = run(check=check, **asked)
        assert f"thing '{THING}' has {word}" in refused["msg"]
        assert "edge_litestream.appliance.replace" in refused["msg"]
    assert state(iot) == before
    made = run(**asked, over=True)
    assert made["status"] == "ACTIVE"
    # Its own replica and certificate are in nobody's way.
    assert not run(**asked)["changed"]


def test_one_that_has_expired_is_in_nobodys_way(iot: Any, run: Run, key: ec.EllipticCurvePrivateKey) -> None:
    """AWS keeps it active. The fleet CA has signed another for the same key, and its replica is its own."""
    s3 = boto3.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="example-edge-backups")
    s3.put_object(Bucket="example-edge-backups", Key=f"{THING}/sample.db/0000/1.ltx")
    ended = run(**TO, certificate=certificate(key.public_key(), days=-1), over=True)
    assert ended["status"] == "ACTIVE"
    asked = {**TO, "bucket": "example-edge-backups"}
    made = run(**asked, certificate=certificate(key.public_key()))
    assert made["status"] == "ACTIVE", made
    assert made["id"] != ended["id"]
    other = ec.generate_private_key(ec.SECP256R1())
    assert "has another active certificate" in run(**asked, **source("request", other))["msg"]


def test_two_devices_with_one_key_are_refused(iot: Any, run: Run, key: ec.EllipticCurvePrivateKey) -> None:
    iot.create_thing(thingName="edge-0002")
    asked = source("certificate", key)
    run(**TO, **asked)
    done = run(thing="edge-0002", policy=POLICY, **asked)
    assert f"is attached to the thing '{THING}', not to 'edge-0002'" in done["msg"]
    assert state(iot) == [ALL_THERE]


def test_certificates_of_another_account_are_refused(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    theirs = certificate(key.public_key(), "Amazon Web Services O=Amazon.com Inc.")
    done = run(**TO, certificate=theirs)
    assert "was signed by AWS IoT, but not in this account" in done["msg"]
    assert state(iot) == []
    done = run(**TO, id="0" * 64)
    assert "there is no certificate 000" in done["msg"]


def test_a_certificate_on_its_way_from_another_account_is_refused(
    iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    made = run(**TO, **(asked := source("certificate", key)))
    iot_backends["123456789012"]["eu-central-1"].certificates[made["id"]].owner = "210987654321"
    assert f"certificate {made['id']} is of the AWS account 210987654321" in run(**TO, **asked)["msg"]


@pytest.mark.parametrize("status", ["REVOKED", "PENDING_TRANSFER"])
def test_a_certificate_that_cannot_be_active_is_refused(
    status: str, iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    made = run(**TO, **(asked := source("certificate", key)))
    iot.update_certificate(certificateId=made["id"], newStatus=status)
    assert f"certificate {made['id']} is {status}" in run(**TO, **asked)["msg"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"thing": "edge-0009"}, ["no thing 'edge-0009'", "edge_rotator_thing_name"]),
        ({"policy": "other"}, ["no IoT policy 'other'", "appliance.cloud", "fleet_policy"]),
        ({"policy": ""}, ["give both or none"]),
        ({"thing": "", "policy": ""}, ["thing is empty"]),
        ({"besides": ["x"]}, ["id or besides is 'x'"]),
        ({"state": "absent"}, ["request goes with state active or inactive"]),
        ({"request": "no"}, ["the request cannot be read"]),
    ],
)
def test_nothing_is_made_of_bad_input(
    wrong: dict[str, Any], words: list[str], iot: Any, run: Run, key: ec.EllipticCurvePrivateKey
) -> None:
    done = run(**{**TO, "request": request(key), **wrong})
    assert done["failed"]
    for word in words:
        assert word in done["msg"], done["msg"]
    assert state(iot) == []
