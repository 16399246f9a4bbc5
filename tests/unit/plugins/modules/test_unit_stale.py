"""unit_stale: an active unit older than what it runs from is told, by the monotonic clock."""

from __future__ import annotations

import grp
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """A systemctl that says when the unit was started, in seconds before now."""

    def say(state: str, ago: float) -> None:
        stamp = int((time.clock_gettime(time.CLOCK_MONOTONIC) - ago) * 1e6)
        fake = tmp_path / "bin/systemctl"
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f"#!/bin/sh\necho ActiveState={state}\necho ActiveEnterTimestampMonotonic={stamp}\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")

    return say


@pytest.mark.parametrize(
    ("state", "ago", "age", "stale"),
    [
        ("active", 100, 50, True),
        ("active", 100, 200, False),
        ("active", 100, -500, False),  # written before the clock was set back
        ("inactive", 100, 50, False),
    ],
)
def test_what_is_older_than_its_files_is_told(
    run: Run,
    started: Callable[[str, float], None],
    tmp_path: Path,
    state: str,
    ago: float,
    age: float,
    stale: bool,
) -> None:
    started(state, ago)
    old, new = tmp_path / "old", tmp_path / "new"
    for path, seconds in ((old, 1e6), (new, age)):
        path.touch()
        os.utime(path, (time.time() - seconds, time.time() - seconds))
    for check in (False, True):
        done = run(check=check, name="x.service", files=[str(old), str(new), str(tmp_path / "missing")])
        assert (done["changed"], done["stale"]) == (stale, [str(new)] if stale else [])


def test_a_links_own_time_counts(run: Run, started: Callable[[str, float], None], tmp_path: Path) -> None:
    started("active", 100)
    (tmp_path / "version").mkdir()
    os.utime(tmp_path / "version", (1, 1))
    (tmp_path / "current").symlink_to("version")
    assert run(name="x.service", files=[str(tmp_path / "current")])["changed"]


def test_what_has_another_group_is_told(
    run: Run, started: Callable[[str, float], None], tmp_path: Path
) -> None:
    """A group that was deleted, or made again, is not the one that a socket has."""
    started("active", 100)
    socket = tmp_path / "socket"
    socket.touch()
    mine = grp.getgrgid(socket.stat().st_gid).gr_name
    other = next(one.gr_name for one in grp.getgrall() if one.gr_gid != socket.stat().st_gid)
    for group, told in ((mine, []), (other, [str(socket)]), ("no-such-group", [str(socket)])):
        done = run(name="x.service", files=[], groups={str(socket): group, str(tmp_path / "missing"): group})
        assert (done["changed"], done["regrouped"]) == (False, told)
