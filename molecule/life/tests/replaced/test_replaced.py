"""New hardware takes a dead thing's name and rows, and what the old device had is of no use."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from conftest import Aws, Playbook, certificate, lab, newest_key, refused

from experiment import observe
from experiment.phases import assert_lossless, wait_for

pytestmark = pytest.mark.timeout(500)
DEAD = "edge01"


class Replacement(NamedTuple):
    """What the old device was."""

    rows: list[str]
    certificate: str
    access_key: str


@pytest.fixture(scope="module")
def replacement(aws: Aws, playbook: Playbook) -> Replacement:
    """Put a bare machine in the place of a device whose rows are all in S3."""
    observe.finish_replication(DEAD)
    (active,) = aws.active(DEAD)
    before = Replacement(observe.rows(DEAD, observe.DATABASE).rows, active, newest_key(DEAD))
    lab("down", DEAD)
    lab("up", DEAD)
    done = playbook("replace", f"--limit={DEAD}")
    assert done.code == 0, done.text
    return before


def test_it_has_the_only_active_certificate(host: Any, name: str, aws: Aws, replacement: Replacement) -> None:
    if name != DEAD:
        pytest.skip("this one lives")
    assert aws.active(DEAD) == [certificate(host)] != [replacement.certificate]
    assert refused(DEAD, replacement.access_key)


def test_it_goes_on_where_the_old_one_ended(host: Any, name: str, replacement: Replacement) -> None:
    if name != DEAD:
        pytest.skip("this one lives")
    old = replacement.rows
    assert old
    rows = wait_for(lambda: (found := observe.rows(DEAD, observe.DATABASE).rows)[len(old) :] and found)
    assert rows[: len(old)] == old
    assert assert_lossless(host, DEAD)[: len(old)] == old
    wait_for(lambda: host.run("edge-rotator status").rc == 0)
