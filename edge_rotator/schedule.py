"""When to run next: the file that says so, and the numbers that go into it.

The rotator leaves `SECONDS FILE` in `next` beside the credentials, on tmpfs: the second of the boot
clock at which it wants to run, and a file that has to exist until then. The unit's `ExecCondition=`
reads it in sh; `is_due` is the same rule in Python. Whatever cannot be understood is due.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from typing import NamedTuple

from edge_rotator.clock import Clock
from edge_rotator.errors import KINDS, LATCH, PERMANENT, TRANSIENT, RotatorError
from edge_rotator.files import read_regular, stat_of, write_atomic
from edge_rotator.state import State

FILE_NAME = "next"
NEVER = 10**14  # s; more than any boot lasts
FIRST_BACKOFF = 60.0  # s
MAX_BACKOFF = 900.0  # s; also every permanent error's, which makes four attempts an hour
MAX_RETRY_AFTER = 3600.0  # s; more than the provider would ever mean, and no wait is longer
MAX_LIFETIME = 43200.0  # s; the longest the provider grants
BACKOFF_JITTER = 0.5  # of a transient wait is drawn anew each time, or a fleet asks again together
PERMANENT_JITTER = 0.1  # added, so that it never shortens the wait
LIFETIME_JITTER = 0.1  # of the life time, taken off
UNKNOWN_LOGINS = 2  # with a PIN that was never accepted; a token has three tries or more
CLOCK_STEP = 30.0  # s; less is the slewing of a time service

_NEXT = re.compile(rb"[ \t]*([0-9]{1,15})[ \t]+(/[^\n]*?)[ \t]*\n")
_MAX_BYTES = 4096


class Next(NamedTuple):
    """What `next` says: a second of the boot clock, and the file that has to exist until then."""

    at: int
    file: str

    def due(self, boot: float) -> bool:
        """Whether it is time, or the file is gone."""
        return boot >= self.at or not os.path.exists(self.file)


def read_next(directory: str) -> Next | None:
    """Read `next`; None if there is none or it makes no sense."""
    try:
        found = _NEXT.match(read_regular(f"{directory}/{FILE_NAME}", _MAX_BYTES))
    except OSError:
        return None
    return Next(int(found[1]), os.fsdecode(found[2])) if found else None


def write_next(directory: str, at: float, file: str) -> None:
    """Ask to be run at second `at` of the boot clock, or as soon as `file` is gone.

    Raises `write_failed`: without this memory there must be no request.
    """
    path = f"{directory}/{FILE_NAME}"
    try:
        write_atomic(path, os.fsencode(f"{math.ceil(at)} {file}\n"), 0o640, durable=False)
    except OSError as exc:
        raise RotatorError("write_failed", f"{path}: {exc.strerror}") from None


def is_due(directory: str, boot: float) -> bool:
    """Whether the rotator has something to do."""
    entry = read_next(directory)
    return entry is None or entry.due(boot)


def spread(name: str) -> float:
    """Give a number in [0, 1) fixed per name, so that a fleet started together spreads out."""
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
    if retry == TRANSIENT:
        first = min(FIRST_BACKOFF, lifetime / 15)
        longest = min(first * 2.0 ** min(max(count, 1) - 1, 30), MAX_BACKOFF)
        drawn = BACKOFF_JITTER * longest
        shortest = longest - drawn
    elif retry in (PERMANENT, LATCH):
        shortest, drawn = MAX_BACKOFF, PERMANENT_JITTER * MAX_BACKOFF
    else:
        return 0.0
    # What the provider asks for is the same for all, so it must not swallow what is drawn.
    return max(shortest, min(retry_after or 0.0, MAX_RETRY_AFTER - drawn)) + drawn * jitter


def stepped(state: State, clock: Clock) -> float:
    """Seconds by which the clock was set since the last success of this boot; 0.0 for slewing."""
    if not state.success:
        return 0.0
    step = clock.offset - (state.success.wall - state.success.boot)
    return step if abs(step) > CLOCK_STEP else 0.0


def latched(state: State, pin_file: str) -> bool:
    """Whether the token refused the PIN, or may have, and the PIN file is still the same."""
    return (state.latched or state.unknown >= UNKNOWN_LOGINS) and stat_of(pin_file) == state.pin


def fetch_at(state: State) -> float:
    """Second of the boot clock at which credentials are to be fetched again."""
    if state.failure:
        return state.failure.boot + state.failure.delay
    return state.success.boot + state.success.due_after if state.success else 0.0
