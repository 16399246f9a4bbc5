"""The memory between runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_rotator import state as states
from edge_rotator.errors import RotatorError
from edge_rotator.state import Failure, State, Success


def full() -> State:
    made = State()
    made.success = Success(1.5, 2.5, "boot", 900.0, 840.0, 400.0)
    made.failure = Failure("dns", "no such name", 1.0, 2.0, "boot", 3, 60.0)
    made.last_error = {"kind": "dns", "detail": "x", "wall": 1.0}
    made.pin = [1, 2, 3]
    made.latched = True
    made.applied = [4, 5, 6]
    made.proven = {"/a": [1, 2, 3], "/c": None}
    made.watched = {"/a": [7, 8, 9], "/b": None}
    made.clock_skew = -1.5
    made.attempts = {"rotated": 2}
    made.config = {"version": "1", "values": {"a": [1, "b", None, True]}}
    return made


def test_round_trip(tmp_path: Path) -> None:
    made = full()
    states.save(made, str(tmp_path), "")
    read = states.load(str(tmp_path))
    assert read.to_json() == made.to_json()
    assert read.sequence == 1
    assert read.success and read.success.due_after == 400.0
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o640


def test_nothing_there(tmp_path: Path) -> None:
    assert states.load(str(tmp_path)).to_json() == State().to_json()
    assert states.load(str(tmp_path), str(tmp_path / "none")).to_json() == State().to_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sequence", 1.5),
        ("sequence", True),
        ("success", {}),
        ("success", []),
        ("success", {**json.loads(full().to_json())["success"], "wall": "1"}),
        ("success", {**json.loads(full().to_json())["success"], "wall": True}),
        ("success", {**json.loads(full().to_json())["success"], "wall": 1e300}),
        ("success", {**json.loads(full().to_json())["success"], "boot_id": 1}),
        ("success", {**json.loads(full().to_json())["success"], "more": 1}),
        ("failure", {**json.loads(full().to_json())["failure"], "kind": "unheard_of"}),
        ("failure", {**json.loads(full().to_json())["failure"], "count": 1.5}),
        ("last_error", {"kind": "unheard_of", "wall": 1}),
        ("last_error", {"kind": "dns", "wall": None}),
        ("last_error", 3),
        ("pin", [1, 2]),
        ("pin", [1, 2, "3"]),
        ("latched", 1),
        ("applied", {}),
        ("watched", []),
        ("clock_skew", None),
        ("attempts", []),
        ("config", []),
    ],
)
def test_a_damaged_part_falls_back_to_its_default(key: str, value: object) -> None:
    data = json.loads(full().to_json())
    data[key] = value
    read = json.loads(states.parse(json.dumps(data).encode()).to_json())
    good = json.loads(full().to_json())
    assert read.pop(key) == json.loads(State().to_json())[key]
    good.pop(key)
    assert read == good


def test_damaged_entries_are_left_out() -> None:
    data = json.loads(full().to_json())
    data["watched"] = {"/a": [1, 2, 3], "/b": [1], "/c": None}
    data["attempts"] = {"dns": 1, "connect": 0, "x": True, "y": "z"}
    read = states.parse(json.dumps(data).encode())
    assert read.watched == {"/a": [1, 2, 3], "/c": None}
    assert read.attempts == {"dns": 1}


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"version": 2}', b"[" * 99999, b"NaN"])
def test_what_is_no_state(data: bytes) -> None:
    assert states.parse(data).to_json() == State().to_json()


def test_full_disk_falls_back_to_memory_and_back(tmp_path: Path) -> None:
    disk, memory = tmp_path / "disk", tmp_path / "memory"
    memory.mkdir()
    made = full()
    states.save(made, str(disk), str(memory))
    assert (memory / "state.json").exists()
    assert states.load(str(disk), str(memory)).sequence == 1
    disk.mkdir()
    states.save(made, str(disk), str(memory))
    assert list(memory.iterdir()) == []
    assert states.load(str(disk), str(memory)).sequence == 2


def test_both_places_may_be_one(tmp_path: Path) -> None:
    states.save(full(), str(tmp_path), f"{tmp_path}/")
    assert states.load(str(tmp_path)).sequence == 1


def test_the_newer_of_two_counts(tmp_path: Path) -> None:
    for name, sequence in (("disk", 5), ("memory", 6)):
        (tmp_path / name).mkdir()
        made = State()
        made.sequence = sequence
        (tmp_path / name / "state.json").write_bytes(made.to_json())
    disk, memory = str(tmp_path / "disk"), str(tmp_path / "memory")
    assert states.load(disk, memory).sequence == 6
    assert states.load(memory, disk).sequence == 6
    assert states.load(disk).sequence == 5


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(RotatorError) as caught:
        states.save(full(), str(tmp_path / "a"), str(tmp_path / "b"))
    assert caught.value.kind.name == "state_failed"
    assert caught.value.detail == f"{tmp_path}/a: No such file or directory"
