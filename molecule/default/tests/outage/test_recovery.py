"""After a network outage longer than credentials live, and after a power cut, nothing is lost."""

from __future__ import annotations

import re
from typing import Any

from experiment import observe
from experiment.phases import assert_lossless


def test_the_outage_was_one(host: Any) -> None:
    """Guard: the rotator failed while the network was gone, and said for how long credentials still last."""
    failed = re.findall(
        r"event=failed error=(\w+) .*?credentials_left_s=([\d.]+)",
        host.file("/root/outage.log").content_string,
    )
    assert failed
    assert {error for error, _ in failed} <= {"dns", "connect", "timeout", "connection_lost"}
    assert float(failed[-1][1]) == 0, "credentials ran out during the outage"


def test_attempts_grew_apart(host: Any) -> None:
    waits = [
        float(wait)
        for wait in re.findall(r"retry_in_s=([\d.]+)", host.file("/root/outage.log").content_string)
    ]
    assert len(waits) >= 2
    assert waits[1] > waits[0]


def test_the_boot_fetched_at_once(host: Any, name: str) -> None:
    booted = float(host.check_output("stat -c %Y /proc/1"))
    first = observe.events(name, "rotated", booted - 1)[0]
    assert first.fields["reason"] == "missing"
    assert host.run("runuser -u edge-rotator -- edge-rotator status").rc == 0


def test_nothing_is_lost(host: Any, name: str) -> None:
    assert len(assert_lossless(host, name)) > 500
