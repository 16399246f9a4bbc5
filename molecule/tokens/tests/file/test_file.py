"""A device without any token: its key is a file, and it says so."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import switched_at

from experiment import observe
from experiment.impostor import assert_provider_refused
from experiment.phases import assert_lossless, wait_for

KEY = "/etc/edge-key/device.key"


def test_it_rotates_and_warns(host: Any, name: str) -> None:
    since = switched_at(host)
    wait_for(lambda: observe.events(name, "rotated", since))
    warned = observe.events(name, "key_in_file", since)
    assert {event.fields["file"] for event in warned} == {KEY}
    wait_for(lambda: host.run("edge-rotator doctor --login").rc == 0, 30)


def test_only_the_rotator_reads_the_key(host: Any) -> None:
    file = host.file(KEY)
    assert (file.user, file.group, file.mode) == ("root", "edge-rotator", 0o640)
    for user in ("litestream", "sample-app", "operator", "nobody"):
        assert host.run(f"runuser -u {user} -- cat {KEY}").rc != 0


def test_the_pin_is_handed_to_nobody_any_more(host: Any) -> None:
    shown = host.check_output("systemctl cat edge-rotator.service")
    assert "Credential=pin" not in shown


def test_replication_goes_on(host: Any, name: str) -> None:
    assert_lossless(host, name)


@pytest.mark.usefixtures("at_rest")
def test_a_false_provider_is_sent_nothing(host: Any) -> None:
    assert_provider_refused(host)
