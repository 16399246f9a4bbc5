"""When the next rotation is due: numbers by hand, and the file that says so, in sh and in Python."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from edge_rotator import schedule
from edge_rotator.clock import Clock
from edge_rotator.errors import KINDS, LATCH, PERMANENT, TRANSIENT, RotatorError
from edge_rotator.files import stat_of
from edge_rotator.state import Failure, State, Success

UNIT = ROOT / "roles/edge_rotator/templates/edge-rotator.service.j2"


def condition(directory: Path) -> str:
    """The very text that the unit gives to sh, as sh sees it."""
    found = re.search(r"^ExecCondition=/bin/sh -c '(.*?)'$", UNIT.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    text = found[1].replace("\\\n", " ").replace("$$", "$")
    assert "%" not in text, "systemd would replace it"
    return text.replace("{{ edge_rotator_run_dir }}", str(directory))


# What `next` holds, and whether it is due at second 1000.5 of the boot; {here} is a directory.
CASES: dict[str, tuple[bytes, bool]] = {
    "not yet": (b"1001 {here}/there\n", False),
    "now": (b"1000 {here}/there\n", True),
    "passed": (b"999 {here}/there\n", True),
    "at once": (b"0 {here}/there\n", True),
    "far": (b"999999999999999 {here}/there\n", False),
    "leading zero": (b"0001001 /\n", False),
    "no file to wait with": (b"1001 /\n", False),
    "file is gone": (b"1001 {here}/gone\n", True),
    "file with a blank": (b"1001 {here}/with blank\n", False),
    "blanks around": (b" \t1001 \t {here}/there \t\n", False),
    "more lines": (b"1001 {here}/there\nnonsense\n", False),
    "empty": (b"", True),
    "empty line": (b"\n", True),
    "no end of line": (b"1001 {here}/there", True),
    "no file": (b"1001\n", True),
    "no second": (b"{here}/there\n", True),
    "relative": (b"1001 there\n", True),
    "negative": (b"-1001 /\n", True),
    "signed": (b"+1001 /\n", True),
    "a fraction": (b"1001.5 /\n", True),
    "hexadecimal": (b"0x1001 /\n", True),
    "too long": (b"9999999999999999 /\n", True),
    "a command": (b"$(echo 1001) /\n", True),
    "an expression": (b"1000+1 /\n", True),
    "a pattern": (b"* /\n", True),
    "quotes": (b"'1001' /\n", True),
    "not UTF-8": (b"\xff\xfe /\n", True),
    "garbage": (bytes(range(1, 256)) * 3, True),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    (made / "there").touch()
    (made / "with blank").touch()
    return made


def in_sh(directory: Path, uptime: Path | None = None) -> bool:
    """Whether the unit would start the rotator; nothing may be said."""
    text = condition(directory)
    if uptime:
        text = text.replace("/proc/uptime", str(uptime))
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, check=False, timeout=10, env={})
    assert done.returncode in (0, 1)
    assert (done.stdout, done.stderr) == (b"", b"")
    return done.returncode == 0


@pytest.mark.parametrize("case", CASES)
def test_sh_and_python_have_one_rule(case: str, here: Path) -> None:
    content, due = CASES[case]
    (here / "next").write_bytes(content.replace(b"{here}", str(here).encode()))
    (here / "uptime").write_text("1000.50 3999.99\n")
    assert schedule.is_due(str(here), 1000.5) == due
    assert in_sh(here, here / "uptime") == due


def test_what_is_no_file_to_read_is_due(tmp_path: Path) -> None:
    """Nothing that lies there in its place may stop the rotator, or make it wait."""
    kinds: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "directory": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
        "dangling": lambda path: path.symlink_to("/nowhere"),
    }
    for name, make in kinds.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "next")
        assert schedule.is_due(str(tmp_path / name), 0), name
        assert in_sh(tmp_path / name), name


def test_a_clock_that_cannot_be_read_is_due(tmp_path: Path) -> None:
    schedule.write_next(str(tmp_path), 1001, "/")
    for content in ("", "nonsense\n", "\n"):
        (tmp_path / "uptime").write_text(content)
        done = subprocess.run(
            ["/bin/sh", "-c", condition(tmp_path).replace("/proc/uptime", str(tmp_path / "uptime"))],
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=10,
        )
        assert done.returncode == 0


def test_next_is_what_sh_reads(tmp_path: Path) -> None:
    """By the real clock."""
    with open("/proc/uptime") as file:  # noqa: PTH123
        now = float(file.read().split()[0])
    schedule.write_next(str(tmp_path), now + 30, "/")
    assert not in_sh(tmp_path)
    assert schedule.read_next(str(tmp_path)) == schedule.Next(int(now + 31), "/")
    schedule.write_next(str(tmp_path), now - 30, "/")
    assert in_sh(tmp_path)
    schedule.write_next(str(tmp_path), schedule.NEVER, "/")
    assert not in_sh(tmp_path)
    with pytest.raises(RotatorError, match="write_failed"):
        schedule.write_next(f"{tmp_path}/none", 0, "/")


def at(boot: float = 1000.0, wall: float | None = None) -> Clock:
    return Clock(1e9 + boot if wall is None else wall, boot)


def fresh(due_after: float = 400.0, usable: float = 840.0) -> State:
    """A state whose rotation was at boot 1000."""
    return State(success=Success(1e9 + 1000, 1000.0, 900.0, usable, due_after))


def test_spread_is_fixed_per_name_and_even() -> None:
    assert schedule.spread("edge01") == pytest.approx(0.8876, abs=0.001)
    values = [schedule.spread(f"edge{n:04}") for n in range(1000)]
    assert all(0 <= value < 1 for value in values)
    for quarter in range(4):
        assert 150 < sum(quarter / 4 <= value < (quarter + 1) / 4 for value in values) < 350


@pytest.mark.parametrize(
    ("lifetime", "mode", "margin", "expected"),
    [
        (900, "process", 300, 450),
        (900, "environment", 300, 600),
        (900, "environment", 400, 500),
        (900, "environment", 450, 450),
        (900, "environment", 451, 600),
        (3600, "process", 300, 1800),
        (3600, "environment", 300, 2400),
        (20, "process", 300, 10),
        (20, "environment", 300, 20 * 2 / 3),
        (43200, "environment", 300, 28800),
        (1e6, "process", 300, 43200),
    ],
)
def test_due_after(
    lifetime: float, mode: str, margin: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "spread", lambda _: 0.0)
    assert schedule.due_after(lifetime, mode, margin, "edge01") == pytest.approx(expected)
    if lifetime < 1e5:
        monkeypatch.setattr(schedule, "spread", lambda name: {"edge01": 0.5}[name])
        spread = schedule.due_after(lifetime, mode, margin, "edge01")
        assert spread == pytest.approx(expected - 0.05 * lifetime)


@pytest.mark.parametrize(
    ("lifetime", "margin", "expected"), [(900, 60, 840), (900, 90, 810), (900, 91, 810), (20, 60, 18)]
)
def test_usable(lifetime: float, margin: float, expected: float) -> None:
    assert schedule.usable(lifetime, margin) == expected


@pytest.mark.parametrize(
    ("kind", "count", "lifetime", "retry_after", "jitter", "expected"),
    [
        ("dns", 1, 3600, None, 1, 60),
        ("dns", 2, 3600, None, 1, 120),
        ("dns", 3, 900, None, 1, 240),
        ("dns", 4, 900, None, 1, 480),
        ("dns", 5, 900, None, 1, 900),
        ("dns", 10**9, 900, None, 1, 900),
        ("dns", 0, 900, None, 1, 60),
        ("dns", 1, 450, None, 1, 30),
        ("dns", 1, 15, None, 1, 1),
        ("dns", 32, 1.5e-6, None, 1, 1e-7 * 2**30),
        ("dns", 1, 900, None, 0, 30),
        ("dns", 1, 900, None, 0.5, 45),
        ("dns", 5, 900, None, 0, 450),
        ("dns", 1, 900, 30.0, 0, 30),
        ("dns", 1, 900, 90.0, 0, 90),
        ("dns", 1, 900, 90.0, 0.5, 105),
        ("throttled", 5, 900, 1800.0, 1, 2250),
        ("dns", 1, 900, 3500.0, 0, 3500),
        ("dns", 1, 900, 9999.0, 0, 3570),
        ("dns", 1, 900, 9999.0, 1, 3600),
        ("policy_denied", 1, 15, None, 0, 900),
        ("policy_denied", 7, 900, None, 1, 990),
        ("policy_denied", 1, 900, 1800.0, 0, 1800),
        ("policy_denied", 1, 900, 1800.0, 1, 1890),
        ("pin_refused", 1, 900, 1800.0, 0, 1800),
        ("busy", 1, 900, None, 1, 0),
    ],
)
def test_backoff(
    kind: str, count: int, lifetime: float, retry_after: float | None, jitter: float, expected: float
) -> None:
    assert schedule.backoff(kind, count, lifetime, retry_after, jitter) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.retry in (PERMANENT, LATCH)])
def test_permanent_means_four_an_hour(kind: str) -> None:
    assert schedule.backoff(kind, 1, 900, None, 0) * 4 >= 3600


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.retry == TRANSIENT])
def test_transient_starts_within_a_minute(kind: str) -> None:
    assert [schedule.backoff(kind, 1, 900, None, drawn) for drawn in (0, 1)] == [30, 60]


@pytest.mark.parametrize("asked", [None, 60.0, 600.0, 1800.0, 3600.0, 86400.0])
def test_a_fleet_that_was_refused_together_does_not_ask_again_together(asked: float | None) -> None:
    """Whatever the provider asks for; the tick, a minute, must not swallow what is drawn."""
    draws = [byte / 256 for byte in range(256)]
    waits = [schedule.backoff("throttled", 5, 3600, asked, drawn) for drawn in draws]
    ticks = [int(wait // 60) for wait in waits]
    assert max(map(ticks.count, ticks)) < len(draws) / 6


def test_fetch_at() -> None:
    assert schedule.fetch_at(State()) == 0
    assert schedule.fetch_at(fresh()) == 1400
    state = fresh()
    state.failure = Failure("dns", "", "schedule", 1e9 + 1500, 1500.0, 1, 60.0)
    assert schedule.fetch_at(state) == 1560


@pytest.mark.parametrize(("step", "told"), [(31, 31), (-31, -31), (30, 0), (-30, 0), (0, 0)])
def test_stepped(step: float, told: float) -> None:
    assert schedule.stepped(fresh(), at(1100, wall=1e9 + 1100 + step)) == told
    assert schedule.stepped(State(), at(1100, wall=1e9 + 1100 + step)) == 0


def test_latch_holds_until_the_pin_file_changes(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("1234")
    state = State(latched=True, pin=stat_of(str(pin)))
    assert schedule.latched(state, str(pin))
    assert not schedule.latched(State(), str(pin))
    pin.rename(tmp_path / "aside")
    assert not schedule.latched(state, str(pin))
    assert schedule.latched(State(latched=True), str(pin)), "refused while there was no file"
    pin.write_text("1234")
    assert not schedule.latched(state, str(pin)), "another file, whatever it holds"


def test_remaining() -> None:
    assert State().remaining(at(), "/") == 0
    assert fresh().remaining(at(1000), "/") == 840
    assert fresh().remaining(at(1100), "/") == 740
    assert fresh().remaining(at(5000), "/") == 0
    assert fresh().remaining(at(1000), "/nowhere") == 0, "nothing there to last"
    assert fresh().remaining(at(900), "/") == 0, "the success of another boot"
