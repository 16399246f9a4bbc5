"""When the next rotation is due: pure functions of state, clocks and files."""

from __future__ import annotations

from edge_rotator.clock import Clock
from edge_rotator.errors import KINDS, LATCH, PERMANENT, TRANSIENT
from edge_rotator.files import Stat
from edge_rotator.state import Failure, State

FIRST_BACKOFF = 60.0  # s
MAX_BACKOFF = 900.0  # s; also every permanent error's, which makes four attempts an hour
MAX_RETRY_AFTER = 3600.0  # s; more than the provider would ever mean
MAX_LIFETIME = 43200.0  # s; the longest the provider grants
BACKOFF_JITTER = 0.1  # added, so that it never shortens the wait
LIFETIME_JITTER = 0.1  # of the life time, taken off
CLOCK_STEP = 30.0  # s; less is the slewing of a time service

NOTHING, RESTART, ROTATE = "nothing", "restart", "rotate"


class Facts:
    """What the file system says now; a stat is None where there is no such file."""

    __slots__ = ("credentials", "pin", "watched")

    def __init__(self, credentials: Stat | None, pin: Stat | None, watched: dict[str, Stat | None]) -> None:
        self.credentials = credentials
        self.pin = pin
        self.watched = watched


class Decision:
    """What a tick has to do and why; `wait` (s) is how long until it should be asked again."""

    __slots__ = ("reason", "wait", "work")

    def __init__(self, work: str, reason: str, wait: float = 0.0) -> None:
        self.work = work
        self.reason = reason
        self.wait = wait


def spread(name: str) -> float:
    """Give a number in [0, 1) fixed per name, so that a fleet started together spreads out."""
    import zlib

    return zlib.crc32(name.encode()) / 2**32


def due_after(lifetime: float, mode: str, refresh_margin: float, thing: str) -> float:
    """Seconds after a rotation at which the next one is due.

    Half of the life time in process mode, two thirds in environment mode, but `refresh_margin`
    before the end where that leaves at least half; less the thing's jitter.
    """
    delay = lifetime * (1 / 2 if mode == "process" else 2 / 3)
    if lifetime >= 2 * refresh_margin:
        delay = min(delay, lifetime - refresh_margin)
    return min(delay - LIFETIME_JITTER * lifetime * spread(thing), MAX_LIFETIME)


def usable(lifetime: float, safety_margin: float) -> float:
    """Seconds of the life time that we advertise: the margin is at most a tenth of it."""
    return lifetime - min(safety_margin, 0.1 * lifetime)


def backoff(kind: str, count: int, lifetime: float, retry_after: float | None, jitter: float) -> float:
    """Seconds to wait after the `count`-th failure in a row, of class `kind`.

    `lifetime` is the one expected: where it is short, so are the waits. `jitter` is in [0, 1).
    """
    retry = KINDS[kind].retry
    if retry == PERMANENT:
        delay = MAX_BACKOFF
    elif retry == TRANSIENT:
        first = min(FIRST_BACKOFF, lifetime / 15)
        delay = min(first * 2 ** min(max(count, 1) - 1, 30), MAX_BACKOFF)
    else:
        return 0.0
    if retry_after is not None:
        delay = max(delay, min(retry_after, MAX_RETRY_AFTER))
    return delay * (1 + BACKOFF_JITTER * jitter)


def _stepped(clock: Clock, wall: float, boot: float) -> bool:
    return abs(clock.offset - (wall - boot)) > CLOCK_STEP


def _wait_left(failure: Failure, clock: Clock) -> float:
    """Seconds until the next attempt. A clock that went back between two boots makes it zero."""
    if failure.boot_id and failure.boot_id == clock.boot_id:
        passed = clock.boot - failure.boot
    else:
        passed = clock.wall - failure.wall
    # Whatever the state claims, a wait has its bound.
    delay = min(failure.delay, MAX_RETRY_AFTER * (1 + BACKOFF_JITTER))
    return max(0.0, delay - passed) if passed >= 0 else 0.0


def _lifted(failure: Failure, state: State, facts: Facts, clock: Clock) -> bool:
    """Whether what the failure was about has been touched since."""
    if KINDS[failure.kind].retry == PERMANENT:
        return facts.watched != state.watched
    # Another boot counts from elsewhere; what was set there shows in the wall clock alone.
    same_boot = failure.boot_id == clock.boot_id
    return failure.kind == "clock_wrong" and same_boot and _stepped(clock, failure.wall, failure.boot)


def stepped_back(state: State, clock: Clock) -> bool:
    """Whether the clock was set back in this boot since the last rotation."""
    success = state.success
    if not success or success.boot_id != clock.boot_id:
        return False
    return clock.offset < success.wall - success.boot - CLOCK_STEP


def remaining(state: State, clock: Clock) -> float:
    """Seconds that the credentials handed over in this boot still last by our word; else 0."""
    success = state.success
    if not success or success.boot_id != clock.boot_id:
        return 0.0
    return max(0.0, min(success.usable, MAX_LIFETIME) - max(0.0, clock.boot - success.boot))


def restart_pending(state: State, facts: Facts, mode: str, clock: Clock) -> bool:
    """Whether Litestream has yet to be restarted with the environment file that is there."""
    if mode != "environment" or not facts.credentials or facts.credentials == state.applied:
        return False
    return remaining(state, clock) > 0


def latched(state: State, facts: Facts) -> bool:
    """Whether the token refused the PIN and the PIN file is still the same."""
    return state.latched and facts.pin == state.pin


def _wanted(state: State, facts: Facts, clock: Clock) -> Decision:
    """Tell what the credentials' age alone asks for."""
    success = state.success
    if not success or not facts.credentials:
        return Decision(ROTATE, "missing")
    if not success.boot_id or success.boot_id != clock.boot_id:
        return Decision(ROTATE, "boot")
    if _stepped(clock, success.wall, success.boot):
        return Decision(ROTATE, "clock_step")
    # A new configuration, certificate or key is tried at once, while the old credentials still last.
    if state.proven and state.proven != facts.watched:
        return Decision(ROTATE, "configuration")
    wait = success.due_after - (clock.boot - success.boot)
    if wait <= 0 or wait > min(success.due_after, MAX_LIFETIME):
        return Decision(ROTATE, "schedule")
    return Decision(NOTHING, "fresh", wait)


def decide(state: State, facts: Facts, clock: Clock, mode: str) -> Decision:
    """Tell what this tick has to do."""
    decision = _wanted(state, facts, clock)
    if decision.work == ROTATE:
        failure = state.failure
        if latched(state, facts):
            decision = Decision(NOTHING, "pin_latched", MAX_BACKOFF)
        elif failure and KINDS[failure.kind].retry != LATCH:
            wait = _wait_left(failure, clock)
            lifted = _lifted(failure, state, facts, clock)
            if wait > 0 and not lifted:
                decision = Decision(NOTHING, "backoff", wait)
    if decision.work == NOTHING and restart_pending(state, facts, mode, clock):
        return Decision(RESTART, "restart_pending")
    return decision
