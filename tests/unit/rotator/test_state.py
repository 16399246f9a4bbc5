"""The memory between runs: understood, or a fresh one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_rotator import state as states
from edge_rotator.state import Failure, LastError, State, Success


def full() -> State:
    return State(
        success=Success(1.5, 2.5, 900.0, 840.0, 400.0),
        failure=Failure("dns", "no such name", "schedule", 1.0, 2.0, 3, 60.0),
        last_error=LastError("dns", "x", 1.0),
        latched=True,
        pin=[1, 2, 3],
        unknown=1,
        accepted=[4, 5, 6],
        restart_pending=True,
        clock_skew=-1.5,
        attempts={"rotated": 2},
    )


def test_round_trip(tmp_path: Path) -> None:
    for made in (full(), State()):
        states.save(made, str(tmp_path))
        assert states.load(str(tmp_path)) == made
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o640
    assert states.load(str(tmp_path / "none")) == State()
    with pytest.raises(FileNotFoundError):
        states.save(State(), str(tmp_path / "none"))


def changed(record: str, **changes: Any) -> dict[str, Any]:
    inner = json.loads(full().to_json())[record] | changes
    return {record: {key: value for key, value in inner.items() if value != "gone"}}


WRONG: tuple[Any, ...] = ("1", True, None, 1e300, -1e300, 10**400, [], "gone")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": None},
        {"more": 1},
        {"success": {}},
        {"success": []},
        {"success": 1},
        *(changed("success", wall=value) for value in WRONG),
        changed("success", more=1),
        changed("failure", kind="unheard_of"),
        changed("failure", kind=["dns"]),
        changed("failure", count=1.5),
        changed("failure", count=True),
        changed("failure", detail=None),
        changed("failure", reason=1),
        changed("failure", retry_after="soon"),
        {"before": 3},
        changed("last_error", kind="unheard_of"),
        {"last_error": 3},
        {"pin": [1, 2]},
        {"pin": [1, 2, "3"]},
        {"pin": {}},
        {"latched": 1},
        {"unknown": -1},
        {"accepted": [1]},
        {"restart_pending": "yes"},
        {"clock_skew": None},
        {"attempts": []},
        {"attempts": {"dns": -1}},
        {"attempts": {"dns": True}},
    ],
)
def test_what_is_damaged_is_a_fresh_one(change: dict[str, Any]) -> None:
    good = json.loads(full().to_json())
    assert states.parse(json.dumps(good).encode()) == full()
    assert states.parse(json.dumps(good | change).encode()) == State()


def test_what_is_missing_is_a_fresh_one() -> None:
    for key in json.loads(full().to_json()):
        data = json.loads(full().to_json())
        del data[key]
        parsed = states.parse(json.dumps(data).encode())
        # What came later than version 2.0.0 may be absent: a latch must outlive an upgrade.
        assert parsed.latched if key in ("unknown", "accepted", "before") else parsed == State(), key


def test_a_failure_of_an_older_version_is_understood() -> None:
    data = json.loads(full().to_json())
    del data["failure"]["retry_after"]
    assert states.parse(json.dumps(data).encode()).latched


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_what_is_no_number_is_a_fresh_one(number: str) -> None:
    text = full().to_json().decode().replace("-1.5", number)
    assert states.parse(text.encode()) == State()


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b"1", b'{"version": 2}', b"[" * 99999, b"NaN"])
def test_what_is_no_state(data: bytes) -> None:
    assert states.parse(data) == State()


def test_what_somebody_put_in_its_place_is_not_read(tmp_path: Path) -> None:
    """Root looks at it too; neither may it be led elsewhere, nor hang, nor fill its memory."""
    path = tmp_path / "state.json"
    (tmp_path / "elsewhere").write_bytes(full().to_json())
    path.symlink_to(tmp_path / "elsewhere")
    assert states.load(str(tmp_path)) == State()
    path.unlink()
    os.mkfifo(path)
    assert states.load(str(tmp_path)) == State()
    path.unlink()
    path.mkdir()
    assert states.load(str(tmp_path)) == State()
    path.rmdir()
    path.write_bytes(full().to_json() + b" " * 65536)
    assert states.load(str(tmp_path)) == State()
    path.write_bytes(full().to_json())
    assert states.load(str(tmp_path)) == full()
