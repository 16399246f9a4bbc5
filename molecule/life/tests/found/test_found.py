"""A device that was found goes on with its certificate; credentials that a thief may have stay refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from conftest import Aws, Playbook, certificate, newest_key, refused

from experiment import observe
from experiment.phases import assert_lossless, wait_for

pytestmark = pytest.mark.timeout(900)
FOUND = "edge02"


class Find(NamedTuple):
    """The key that it had when it was lost, and when it was found."""

    access_key: str
    at: float


@pytest.fixture(scope="module")
def find(playbook: Playbook) -> Find:
    access_key, at = newest_key(FOUND), observe.now(observe.CLOUD)
    done = playbook("found", f"--extra-vars=thing={FOUND}")
    assert done.code == 0, done.text
    rotated = playbook("rotate", f"--limit={FOUND}")
    assert rotated.code == 0, rotated.text
    return Find(access_key, at)


def test_it_replicates_again_and_has_lost_nothing(host: Any, name: str, aws: Aws, find: Find) -> None:
    if name != FOUND:
        pytest.skip("this one was not lost")
    assert aws.active(FOUND) == [certificate(host)]
    assert len(aws.iot.list_thing_groups_for_thing(thingName=FOUND)["thingGroups"]) == 1
    wait_for(lambda: observe.uploads(observe.s3_requests(FOUND, find.at)), 60)
    assert observe.probe(FOUND, newest_key(FOUND)) == (200, "")
    assert_lossless(host, FOUND)


def test_credentials_from_before_stay_refused(find: Find) -> None:
    assert newest_key(FOUND) != find.access_key
    assert refused(FOUND, find.access_key)
