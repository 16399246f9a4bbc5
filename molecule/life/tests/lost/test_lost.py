"""A lost device gets no credentials, those that it has open nothing, and no other device notices."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from conftest import Aws, Playbook, newest_key, refused

from experiment import observe
from experiment.phases import wait_for

pytestmark = pytest.mark.timeout(900)
# In process mode Litestream keeps the credentials that it has; in environment mode it does not.
LOST, OTHER = "edge02", "edge01"


class Loss(NamedTuple):
    """What was so before, and what the playbook said."""

    access_key: str
    certificates: dict[str, str]
    text: str
    at: float


@pytest.fixture(scope="module")
def loss(aws: Aws, playbook: Playbook) -> Loss:
    access_key, certificates = newest_key(LOST), aws.certificates(LOST)
    assert observe.probe(LOST, access_key) == (200, "")
    at = observe.now(observe.CLOUD)
    done = playbook("lost", f"--extra-vars=thing={LOST}")
    assert done.code == 0, done.text
    return Loss(access_key, certificates, done.text, at)


def test_its_certificate_is_inactive_and_it_is_in_no_group(aws: Aws, loss: Loss) -> None:
    assert aws.certificates(LOST) == dict.fromkeys(loss.certificates, "INACTIVE")
    assert aws.iot.list_thing_groups_for_thing(thingName=LOST)["thingGroups"] == []
    assert "would have worked until" in loss.text


def test_nothing_that_it_has_is_of_use(host: Any, name: str, loss: Loss) -> None:
    if name != LOST:
        pytest.skip("the other one is not lost")
    assert refused(LOST, loss.access_key)
    # Litestream tries, and is refused: to list, and to write.
    wait_for(
        lambda: (
            {"GET", "PUT"} <= {each.method for each in observe.refused(observe.s3_requests(LOST, loss.at))}
        )
    )
    host.run("systemctl start edge-rotator-force.service")
    said = wait_for(lambda: observe.run(observe.CLOUD, f"sudo cloudctl log provider --thing {LOST} --errors"))
    assert "Certificate is invalid on this endpoint" in said
    assert newest_key(LOST) == loss.access_key
    assert "certificate_inactive" in host.run("edge-rotator status").stdout


def test_the_other_device_goes_on(host: Any, name: str, aws: Aws, loss: Loss) -> None:
    if name != OTHER:
        pytest.skip("this one is lost")
    host.check_output("systemctl start edge-rotator-force.service")
    since = observe.now(observe.CLOUD)
    wait_for(lambda: observe.uploads(observe.s3_requests(OTHER, since)), 30)
    assert len(aws.active(OTHER)) == 1
