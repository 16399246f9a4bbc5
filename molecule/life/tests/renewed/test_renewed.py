"""A renewal ends with one active certificate, the new one, or with the device as it was."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest
from conftest import Aws, Playbook, certificate, newest_key

from experiment import observe
from experiment.phases import Played, wait_for

pytestmark = pytest.mark.timeout(400)
DEVICES = ("edge01", "edge02")
FORCE = '--extra-vars={"renew_force": true}'


class Renewal(NamedTuple):
    """The active certificate of each thing before, all of them after, and what was said."""

    before: dict[str, str]
    after: dict[str, dict[str, str]]
    done: Played


@pytest.fixture(scope="module")
def renewal(aws: Aws, playbook: Playbook) -> Renewal:
    before = {thing: aws.active(thing)[0] for thing in DEVICES}
    done = playbook("renew", "--limit=edge_devices", FORCE)
    assert done.code == 0, done.text
    return Renewal(before, {thing: aws.certificates(thing) for thing in DEVICES}, done)


@pytest.fixture(scope="module")
def failure(aws: Aws, playbook: Playbook, renewal: Renewal) -> tuple[list[str], list[str], Played]:
    """Return edge01's active certificates before and after a renewal whose new one AWS does not take."""
    before = aws.active("edge01")
    observe.run(observe.CLOUD, "sudo cloudctl fault policy-denied --thing edge01")
    try:
        done = playbook("renew", "--limit=edge01", FORCE)
    finally:
        observe.run(observe.CLOUD, "sudo cloudctl heal")
    return before, aws.active("edge01"), done


@pytest.fixture(scope="module")
def deletion(aws: Aws, playbook: Playbook, renewal: Renewal) -> dict[str, str]:
    """Return what is left of edge02's certificates once the old one is not kept any longer."""
    done = playbook("renew", "--limit=edge02", '--extra-vars={"renew_keep_hours": 0}')
    assert done.code == 0, done.text
    return aws.certificates("edge02")


def test_the_new_certificate_is_in_use_and_the_old_one_is_not(host: Any, name: str, renewal: Renewal) -> None:
    old = renewal.before[name]
    (new,) = set(renewal.after[name]) - {old}
    assert renewal.after[name] == {old: "INACTIVE", new: "ACTIVE"}
    assert certificate(host) == new
    log = observe.run(observe.CLOUD, f"sudo cloudctl log provider --thing {name}").splitlines()
    used = [line["certificate"] for line in map(json.loads, log) if line["status"] == 200]
    assert old in used
    assert new in used[used.index(old) :]
    assert observe.probe(name, newest_key(name)) == (200, "")
    wait_for(lambda: host.run("edge-rotator status").rc == 0)


def test_what_fails_leaves_the_device_as_it_was(
    host: Any, name: str, failure: tuple[list[str], list[str], Played]
) -> None:
    if name != "edge01":
        pytest.skip("one device shows it")
    before, after, done = failure
    assert done.code != 0
    assert "has its old certificate" in done.text
    assert after == before == [certificate(host)]
    host.check_output("systemctl start edge-rotator-force.service")
    wait_for(lambda: host.run("edge-rotator status").rc == 0)


def test_the_old_certificate_is_deleted_later(
    host: Any, name: str, aws: Aws, renewal: Renewal, deletion: dict[str, str]
) -> None:
    if name != "edge02":
        pytest.skip("one device shows it")
    assert deletion == {certificate(host): "ACTIVE"}
    with pytest.raises(aws.iot.exceptions.ResourceNotFoundException):
        aws.iot.describe_certificate(certificateId=renewal.before[name])


def test_nothing_is_due_any_more(playbook: Playbook, failure: object, deletion: object) -> None:
    done = playbook("renew", "--limit=edge_devices")
    assert done.code == 0, done.text
    assert len(re.findall(r"edge0[12] : ok=\d+ changed=0 unreachable=0 failed=0", done.text)) == 2, done.text
