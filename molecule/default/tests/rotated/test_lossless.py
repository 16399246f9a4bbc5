"""After rotation under load, the replica is the database, row by row."""

from __future__ import annotations

from typing import Any

from experiment import observe
from experiment.phases import assert_lossless


def test_nothing_is_lost(host: Any, name: str, mode: str) -> None:
    since = float(host.file("/run/edge-load-since").content_string)
    assert len(assert_lossless(host, name)) > 500, "there was a load"

    forced = [event for event in observe.events(name, "rotated", since) if event.fields["reason"] == "forced"]
    assert len(forced) == 5
    restarts = observe.starts_between_rotations(name, "litestream.service", since)
    assert set(restarts) == {1 if mode == "environment" else 0}
    requests = observe.s3_requests(name, since)
    assert observe.uploads(requests)
    assert observe.refused(requests) == []
