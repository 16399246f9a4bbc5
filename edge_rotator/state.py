"""What one run leaves for the next: last success, failure, PIN latch, counters. Never a secret.

JSON in the state directory, replaced whole. It is either understood or taken for a fresh one, which
at worst costs one early rotation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

from edge_rotator.clock import Clock
from edge_rotator.errors import KINDS
from edge_rotator.files import Stat, read_regular, write_atomic

VERSION = 2
FILE_NAME = "state.json"
_MAX_BYTES = 65536
_MAX_NUMBER = 6e10  # s; as a time it is the year 3871, which datetime can still show


class Success(NamedTuple):
    """The last rotation: `wall` and `boot` say when; durations in seconds."""

    wall: float
    boot: float
    lifetime: float  # as the provider granted it
    usable: float  # as handed on: less the safety margin
    due_after: float


class Failure(NamedTuple):
    """The failed attempt that the next one waits for; `delay` (s) is how long."""

    kind: str
    detail: str
    reason: str  # what the attempt was made for
    wall: float
    boot: float
    count: int  # type: ignore[assignment]  # how many in a row; a tuple's own count is of no use here
    delay: float
    retry_after: float | None = None  # what the provider asked for


class LastError(NamedTuple):
    """The last error of all, kept after recovery, for people."""

    kind: str
    detail: str
    wall: float


class State(SimpleNamespace):
    """Everything remembered. A fresh one makes a rotation due at once."""

    success: Success | None = None
    failure: Failure | None = None
    before: Failure | None = None  # what failed before the attempt that is under way
    last_error: LastError | None = None
    latched: bool = False  # the token refused the PIN
    pin: Stat | None = None  # the PIN file as it was then, and at the unknown ones
    unknown: int = 0  # logins with that PIN of which nobody lived to record what became
    accepted: Stat | None = None  # the PIN file with which a login last succeeded
    restart_pending: bool = False  # Litestream has yet to read the environment file
    clock_skew: float = 0.0  # server's clock minus ours (s), at the last answer
    attempts: dict[str, int]  # by outcome: rotated, or the error

    def __init__(self, **known: Any) -> None:
        fresh: dict[str, Any] = {name: getattr(State, name, None) for name in State.__annotations__}
        super().__init__(**fresh | {"attempts": {}} | known)

    def to_json(self) -> bytes:
        """Render for the file."""
        records = {name: each and each._asdict() for name, each in vars(self).items() if name in _RECORDS}
        return json.dumps({"version": VERSION, **vars(self), **records}).encode() + b"\n"

    def remaining(self, clock: Clock, file: str) -> float:
        """Seconds that the credentials in `file` still last; it lies on tmpfs, so they are of this boot."""
        if not self.success or clock.boot < self.success.boot or not os.path.exists(file):
            return 0.0
        return max(0.0, self.success.usable - (clock.boot - self.success.boot))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _MAX_NUMBER


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _stat(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 3 and all(type(n) is int for n in value)
    )


def _counters(value: Any) -> bool:
    return isinstance(value, dict) and all(_count(number) for number in value.values())


_CHECKS = {
    "wall": _number,
    "boot": _number,
    "lifetime": _number,
    "usable": _number,
    "due_after": _number,
    "delay": _number,
    "retry_after": lambda value: value is None or _number(value),
    "clock_skew": _number,
    "count": _count,
    "kind": lambda value: isinstance(value, str) and value in KINDS,
    "detail": lambda value: isinstance(value, str),
    "reason": lambda value: isinstance(value, str),
    "latched": lambda value: isinstance(value, bool),
    "restart_pending": lambda value: isinstance(value, bool),
    "pin": _stat,
    "unknown": _count,
    "accepted": _stat,
    "attempts": _counters,
}
_RECORDS: dict[str, type[Any]] = {
    "success": Success,
    "failure": Failure,
    "before": Failure,
    "last_error": LastError,
}


def _checked(raw: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return a record's fields if it has exactly these. Raises ValueError, LookupError or TypeError."""
    if raw.keys() != set(names):
        raise ValueError("not these fields")
    return {name: _value(name, value) for name, value in raw.items()}


def _value(name: str, value: Any) -> Any:
    record = _RECORDS.get(name)
    if record:
        if value is None:
            return None
        return record(**_checked({**record._field_defaults, **value}, record._fields))
    if not _CHECKS[name](value):
        raise ValueError(name)
    return value


def parse(data: bytes) -> State:
    """Read a state; what is not as written by `to_json` is a fresh one."""
    try:
        raw = json.loads(data)
        if raw.pop("version") != VERSION:
            return State()
        # An older state has none of these; its latch must not be lost.
        raw = {"unknown": 0, "accepted": None, "before": None, **raw}
        return State(**_checked(raw, vars(State())))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return State()


def load(directory: str) -> State:
    """Read the state, a fresh one if there is none that can be read."""
    try:
        return parse(read_regular(f"{directory}/{FILE_NAME}", _MAX_BYTES))
    except OSError:
        return State()


def save(state: State, directory: str, durable: bool = True) -> None:
    """Write to the state directory. Raises OSError."""
    write_atomic(f"{directory}/{FILE_NAME}", state.to_json(), 0o640, durable=durable)
