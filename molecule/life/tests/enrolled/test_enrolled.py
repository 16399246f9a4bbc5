"""One command makes replicating devices of bare ones, and a second run changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import BY_FLEET_CA, WRITTEN, Aws, Playbook, certificate, killed, newest_key

from experiment import observe
from experiment.phases import Played, assert_lossless, wait_for

pytestmark = pytest.mark.timeout(900)
# What each leaves: a thing without certificate, a certificate nobody has kept, one on the control node alone.
BREAKS_OFF_AFTER = (
    "thing | It has type, attributes and groups",
    "certified | AWS has signed the request, or knows what another CA has signed",
    "It is where the inventory says",
)


@pytest.fixture(scope="module")
def enrolled(aws: Aws, playbook: Playbook) -> Played:
    """Enrol both devices at once, after a look at what would be made, and runs that broke off."""
    looked = playbook("enroll", "--check")
    assert looked.code == 0, looked.text
    assert aws.iot.list_things()["things"] == []
    assert aws.iot.list_certificates()["certificates"] == []
    for task in BREAKS_OFF_AFTER:
        killed(task, "enroll")
    assert len(aws.iot.list_certificates()["certificates"]) == 2
    done = playbook("enroll")
    assert done.code == 0, done.text
    return done


def test_the_device_has_the_only_active_certificate_of_its_thing(
    host: Any, name: str, aws: Aws, enrolled: Played
) -> None:
    identity = certificate(host)
    assert aws.certificates(name) == {identity: "ACTIVE"}
    assert identity in enrolled.text
    kept = WRITTEN / f"certificates/{name}.crt"
    assert kept.exists() == (name != BY_FLEET_CA)
    if kept.exists():
        assert kept.read_text().split() == host.file("/etc/edge-identity/device.crt").content_string.split()
    issuer = host.check_output("openssl x509 -in /etc/edge-identity/device.crt -noout -issuer")
    assert ("Amazon" in issuer) == (name != BY_FLEET_CA)


def test_the_thing_has_type_group_and_policy(name: str, aws: Aws, enrolled: Played) -> None:
    assert aws.iot.describe_thing(thingName=name)["thingTypeName"] == "edge-litestream"
    groups = aws.iot.list_thing_groups_for_thing(thingName=name)["thingGroups"]
    assert len(groups) == 1
    (principal,) = aws.iot.list_thing_principals(thingName=name)["principals"]
    policies = aws.iot.list_attached_policies(target=principal)["policies"]
    assert [each["policyName"] for each in policies] == ["edge-litestream-credentials"]


def test_the_device_replicates(host: Any, name: str, aws: Aws, enrolled: Played) -> None:
    wait_for(lambda: host.run("edge-rotator status").rc == 0)
    assert aws.objects(name), "the bucket is the stack's"
    assert observe.probe(name, newest_key(name)) == (200, "")
    other = {"edge01": "edge02", "edge02": "edge01"}[name]
    assert observe.probe(name, newest_key(name), other) == (403, "AccessDenied")
    assert_lossless(host, name)


def test_a_second_run_changes_nothing(aws: Aws, playbook: Playbook, enrolled: Played) -> None:
    before = {name: aws.certificates(name) for name in ("edge01", "edge02")}
    done = playbook("enroll")
    assert done.code == 0, done.text
    assert len(re.findall(r"edge0[12] : ok=\d+ changed=0 unreachable=0 failed=0", done.text)) == 2, done.text
    assert {name: aws.certificates(name) for name in before} == before
    assert len(aws.iot.list_certificates()["certificates"]) == 2


def test_the_bucket_alone_tells_how_new_the_replicas_are(
    playbook: Playbook, enrolled: Played, tmp_path: Path
) -> None:
    told = tmp_path / "points.json"
    done = playbook("recovery_points", f"--extra-vars=recovery_points_file={told}")
    assert done.code == 0, done.text
    points = json.loads(told.read_text())["points"]
    assert {point["thing"]: point["late"] for point in points} == {"edge01": False, "edge02": False}
    assert all(point["txid"] > 1 for point in points), "by objects of Litestream's own"
