"""Nothing of a retired device opens anything, be it there or not, and its replica ends as was said."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from conftest import BUCKET, Aws, Playbook, lab, newest_key, refused

from experiment import observe
from experiment.phases import wait_for

pytestmark = pytest.mark.timeout(900)
# One that is there and one that is not.
THERE, AWAY = "edge01", "edge02"


class Retirement(NamedTuple):
    """Each thing's last credentials, when it began, and what was said of the one that is away."""

    access_keys: dict[str, str]
    at: float
    text: str


@pytest.fixture(scope="module")
def retirement(playbook: Playbook) -> Retirement:
    access_keys = {thing: newest_key(thing) for thing in (THERE, AWAY)}
    at = observe.now(observe.CLOUD)
    done = playbook("decommission", f"--limit={THERE}", "--extra-vars=decommission_replica=expire")
    assert done.code == 0, done.text
    lab("cut", AWAY)
    try:
        done = playbook("decommission", f"--limit={AWAY}", "--extra-vars=decommission_replica=delete")
    finally:
        lab("heal", AWAY)
    assert done.code == 0, done.text
    return Retirement(access_keys, at, done.text)


def test_aws_has_forgotten_it(name: str, aws: Aws, retirement: Retirement) -> None:
    assert name not in [each["thingName"] for each in aws.iot.list_things()["things"]]
    assert aws.iot.list_certificates()["certificates"] == []


def test_its_last_credentials_are_refused(name: str, retirement: Retirement) -> None:
    assert refused(name, retirement.access_keys[name])


def test_its_certificate_is_refused(host: Any, name: str, retirement: Retirement) -> None:
    if name == AWAY:
        host.run("systemctl start edge-rotator-force.service")

    def answers() -> list[dict[str, Any]]:
        since = f"--thing {name} --since {retirement.at * 1000:.0f}"
        log = observe.run(observe.CLOUD, f"sudo cloudctl log provider {since}").splitlines()
        return [json.loads(line) for line in log]

    assert (
        wait_for(lambda: [each["error"] for each in answers()])[-1]
        == "Certificate is invalid on this endpoint"
    )


def test_the_device_that_was_there_is_bare_and_its_rows_are_in_s3(
    host: Any, name: str, aws: Aws, retirement: Retirement
) -> None:
    if name != THERE:
        pytest.skip("this one was away")
    for gone in ("/etc/edge-rotator", "/etc/edge-identity", "/etc/litestream.yml", "/run/edge-rotator"):
        assert not host.file(gone).exists
    here, there = observe.rows(name, observe.DATABASE), observe.restore(name)
    assert here.rows
    assert there.rows == here.rows
    rules = aws.s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    (rule,) = (each for each in rules if each["ID"].startswith("retired-"))
    ends = rule["Filter"]["Tag"]
    for key in aws.objects(name):
        assert ends in aws.s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]


def test_the_replica_of_the_one_that_was_away_is_deleted(aws: Aws, retirement: Retirement) -> None:
    assert aws.objects(AWAY) == []
    assert f"{AWAY} cannot be reached" in retirement.text
