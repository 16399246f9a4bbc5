"""When the next rotation is due: numbers by hand."""

from __future__ import annotations

import pytest

from edge_rotator import schedule
from edge_rotator.clock import Clock
from edge_rotator.errors import KINDS, PERMANENT, TRANSIENT
from edge_rotator.schedule import Facts, decide
from edge_rotator.state import Failure, State, Success

CREDENTIALS = [1, 2, 3]
PIN = [4, 5, 6]
BOOT = "boot-1"


def at(boot: float = 1000.0, wall: float | None = None, boot_id: str = BOOT) -> Clock:
    return Clock(1e9 + boot if wall is None else wall, boot, boot_id)


def fresh(due_after: float = 400.0, usable: float = 840.0) -> State:
    """A state whose rotation was at boot 1000."""
    state = State()
    state.success = Success(1e9 + 1000, 1000.0, BOOT, 900.0, usable, due_after)
    return state


def failed(kind: str = "dns", delay: float = 120.0, state: State | None = None) -> State:
    """A state whose last attempt failed at boot 1000."""
    state = state or State()
    state.failure = Failure(kind, "", 1e9 + 1000, 1000.0, BOOT, 1, delay)
    return state


def facts(
    credentials: list[int] | None = CREDENTIALS,
    pin: list[int] | None = PIN,
    watched: dict[str, list[int] | None] | None = None,
) -> Facts:
    return Facts(credentials, pin, watched or {})


def judged(state: State, clock: Clock, found: Facts | None = None, mode: str = "process") -> tuple[str, str]:
    decision = decide(state, found or facts(), clock, mode)
    assert decision.wait >= 0
    assert bool(decision.wait) == (decision.work == schedule.NOTHING)
    return decision.work, decision.reason


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
        ("dns", 1, 3600, None, 0, 60),
        ("dns", 2, 3600, None, 0, 120),
        ("dns", 3, 900, None, 0, 240),
        ("dns", 4, 900, None, 0, 480),
        ("dns", 5, 900, None, 0, 900),
        ("dns", 10**9, 900, None, 0, 900),
        ("dns", 0, 900, None, 0, 60),
        ("dns", 1, 450, None, 0, 30),
        ("dns", 1, 15, None, 0, 1),
        ("dns", 32, 1.5e-6, None, 0, 1e-7 * 2**30),
        ("dns", 1, 900, None, 0.5, 63),
        ("dns", 1, 900, 30.0, 0, 60),
        ("dns", 1, 900, 90.0, 0, 90),
        ("dns", 1, 900, 3600.0, 0, 3600),
        ("dns", 1, 900, 9999.0, 1, 3960),
        ("policy_denied", 1, 15, None, 0, 900),
        ("policy_denied", 7, 900, None, 1, 990),
        ("policy_denied", 1, 900, 1800.0, 0, 1800),
        ("pin_refused", 1, 900, 1800.0, 1, 0),
        ("busy", 1, 900, None, 1, 0),
    ],
)
def test_backoff(
    kind: str, count: int, lifetime: float, retry_after: float | None, jitter: float, expected: float
) -> None:
    assert schedule.backoff(kind, count, lifetime, retry_after, jitter) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.retry == PERMANENT])
def test_permanent_means_four_an_hour(kind: str) -> None:
    assert schedule.backoff(kind, 1, 900, None, 0) * 4 >= 3600


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.retry == TRANSIENT])
def test_transient_starts_at_a_minute(kind: str) -> None:
    assert schedule.backoff(kind, 1, 900, None, 0) == 60


def test_nothing_there_is_due() -> None:
    assert judged(State(), at()) == ("rotate", "missing")
    assert judged(fresh(), at(), facts(credentials=None)) == ("rotate", "missing")
    assert judged(State(), at(), facts()) == ("rotate", "missing")


def test_due_by_the_boot_clock() -> None:
    assert judged(fresh(), at(1000)) == ("nothing", "fresh")
    decision = decide(fresh(), facts(), at(1100), "process")
    assert decision.wait == 300
    assert judged(fresh(), at(1399.9)) == ("nothing", "fresh")
    assert judged(fresh(), at(1400)) == ("rotate", "schedule")
    assert judged(fresh(), at(9999)) == ("rotate", "schedule")
    # A boot clock that went back, or a state that claims the impossible.
    assert judged(fresh(), at(999)) == ("rotate", "schedule")
    assert judged(fresh(due_after=43200), at(1000)) == ("nothing", "fresh")
    assert judged(fresh(due_after=43201), at(1000)) == ("rotate", "schedule")


def test_another_boot_is_due() -> None:
    assert judged(fresh(), at(1100, boot_id="boot-2")) == ("rotate", "boot")
    state = fresh()
    assert state.success
    state.success.boot_id = ""
    assert judged(state, at(1100, boot_id="")) == ("rotate", "boot")


@pytest.mark.parametrize(
    ("step", "reason"), [(31, "clock_step"), (-31, "clock_step"), (30, "fresh"), (-30, "fresh")]
)
def test_a_clock_that_was_set_is_due(step: float, reason: str) -> None:
    work = "nothing" if reason == "fresh" else "rotate"
    assert judged(fresh(), at(1100, wall=1e9 + 1100 + step)) == (work, reason)


def test_waits_after_a_failure() -> None:
    assert judged(failed(), at(1000)) == ("nothing", "backoff")
    assert decide(failed(), facts(), at(1100), "process").wait == 20
    assert judged(failed(), at(1119.9)) == ("nothing", "backoff")
    assert judged(failed(), at(1120)) == ("rotate", "missing")
    # Within a boot the wall clock counts for nothing.
    assert judged(failed(), at(1001, wall=0)) == ("nothing", "backoff")
    assert judged(failed(), at(1001, wall=2e9)) == ("nothing", "backoff")
    # A boot clock that went back cannot be: do not trust it.
    assert judged(failed(), at(999)) == ("rotate", "missing")


def test_waits_after_a_failure_in_another_boot() -> None:
    other = "boot-2"
    assert judged(failed(), at(5, 1e9 + 1000, other)) == ("nothing", "backoff")
    assert decide(failed(), facts(), at(5, 1e9 + 1100, other), "process").wait == 20
    assert judged(failed(), at(5, 1e9 + 1120, other)) == ("rotate", "missing")
    assert judged(failed(), at(5, 1e9 + 999, other)) == ("rotate", "missing")
    nowhere = failed()
    assert nowhere.failure
    nowhere.failure.boot_id = ""
    assert judged(nowhere, at(5000, 1e9 + 1000, "")) == ("nothing", "backoff")


def test_a_claimed_wait_is_bounded() -> None:
    assert decide(failed(delay=1e12), facts(), at(1000), "process").wait == pytest.approx(3960)


def test_fresh_credentials_need_no_backoff() -> None:
    assert judged(failed(state=fresh()), at(1001)) == ("nothing", "fresh")


def test_permanent_error_is_lifted_by_a_changed_file() -> None:
    state = failed("policy_denied", 900)
    state.watched = {"/ca": [1, 1, 1]}
    assert judged(state, at(1001), facts(watched={"/ca": [1, 1, 1]})) == ("nothing", "backoff")
    assert judged(state, at(1001), facts(watched={"/ca": [1, 2, 1]})) == ("rotate", "missing")
    transient = failed("dns", 900)
    transient.watched = {"/ca": [1, 1, 1]}
    assert judged(transient, at(1001), facts(watched={"/ca": None})) == ("nothing", "backoff")


def test_clock_error_is_lifted_by_setting_the_clock() -> None:
    assert judged(failed("clock_wrong"), at(1001, wall=1e9 + 1001 + 31)) == ("rotate", "missing")
    assert judged(failed("clock_wrong"), at(1001)) == ("nothing", "backoff")
    assert judged(failed("dns"), at(1001, wall=1e9 + 1001 + 31)) == ("nothing", "backoff")
    assert judged(failed("clock_wrong"), at(5, 1e9 + 1001, "boot-2")) == ("nothing", "backoff")


def test_latch_holds_until_the_pin_file_changes() -> None:
    state = failed("pin_refused", 0)
    state.latched, state.pin = True, PIN
    decision = decide(state, facts(), at(9e5), "process")
    assert (decision.work, decision.reason, decision.wait) == ("nothing", "pin_latched", 900)
    assert schedule.latched(state, facts())
    assert judged(state, at(1001), facts(pin=[4, 5, 7])) == ("rotate", "missing")
    assert judged(state, at(1001), facts(pin=None)) == ("rotate", "missing")
    state.latched = False
    assert not schedule.latched(state, facts())
    # A latch kind never makes a wait, whatever its delay.
    state = failed("pin_refused", 900)
    assert judged(state, at(1001)) == ("rotate", "missing")


def test_remaining() -> None:
    assert schedule.remaining(State(), at()) == 0
    assert schedule.remaining(fresh(), at(1000)) == 840
    assert schedule.remaining(fresh(), at(1100)) == 740
    assert schedule.remaining(fresh(), at(5000)) == 0
    assert schedule.remaining(fresh(usable=1e9), at(1100)) == 43100
    assert schedule.remaining(fresh(), at(900)) == 840
    assert schedule.remaining(fresh(), at(1100, boot_id="boot-2")) == 0


def test_restart_pending() -> None:
    state = fresh()
    assert schedule.restart_pending(state, facts(), "environment", at(1001))
    assert judged(state, at(1001), mode="environment") == ("restart", "restart_pending")
    assert not schedule.restart_pending(state, facts(), "process", at(1001))
    assert judged(state, at(1001)) == ("nothing", "fresh")
    assert not schedule.restart_pending(state, facts(credentials=None), "environment", at(1001))
    # No use in restarting for credentials that have expired.
    assert not schedule.restart_pending(state, facts(), "environment", at(1840))
    assert schedule.restart_pending(state, facts(), "environment", at(1839.9))
    state.applied = CREDENTIALS
    assert not schedule.restart_pending(state, facts(), "environment", at(1001))
    # Rotation comes first; the restart follows it in the same run.
    assert judged(fresh(), at(1400), mode="environment") == ("rotate", "schedule")
    # A failure to fetch does not keep good credentials from being used.
    waiting = failed(state=fresh(due_after=0))
    assert judged(waiting, at(1001), mode="environment") == ("restart", "restart_pending")


def test_a_changed_file_is_tried_at_once() -> None:
    state = fresh()
    assert judged(state, at(1001), facts(watched={"/ca": [1, 1, 1]})) == ("nothing", "fresh")
    state.proven = {"/ca": [1, 1, 1]}
    assert judged(state, at(1001), facts(watched={"/ca": [1, 1, 1]})) == ("nothing", "fresh")
    assert judged(state, at(1001), facts(watched={"/ca": [1, 2, 1]})) == ("rotate", "configuration")
    assert judged(failed(state=state), at(1001), facts(watched={"/ca": None})) == ("nothing", "backoff")


@pytest.mark.parametrize(("step", "back"), [(-31, True), (-30, False), (0, False), (31, False)])
def test_stepped_back(step: float, back: bool) -> None:
    assert schedule.stepped_back(fresh(), at(1100, wall=1e9 + 1100 + step)) == back
    assert not schedule.stepped_back(fresh(), at(1100, wall=1e9 + 1100 + step, boot_id="boot-2"))
    assert not schedule.stepped_back(State(), at(1100, wall=1e9 + 1100 + step))
