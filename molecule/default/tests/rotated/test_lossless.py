"""After rotation under load, the replica is the database, row by row."""

from __future__ import annotations

from typing import Any

from experiment import observe


def test_nothing_is_lost(host: Any, name: str, mode: str) -> None:
    since = float(host.file("/run/edge-load-since").content_string)
    observe.finish_replication(name)
    here, there = observe.rows(name, observe.DATABASE), observe.restore(name)
    assert there.integrity == here.integrity == "ok"
    assert len(here.rows) > 500, "there was a load"
    assert there.rows == here.rows

    forced = [event for event in observe.events(name, "rotated", since) if event.fields["reason"] == "forced"]
    assert len(forced) == 5
    restarts = observe.starts_between_rotations(name, "litestream.service", since)
    assert set(restarts) == {1 if mode == "environment" else 0}
    requests = observe.s3_requests(name, since)
    assert observe.uploads(requests)
    assert observe.refused(requests) == []
