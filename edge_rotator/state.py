"""What one run leaves for the next: outcome, back-off, PIN latch. Never a secret.

JSON in the state directory, replaced atomically. Anything unreadable in it is dropped, which at
worst costs one early rotation. When the disk is full it goes beside the credentials (tmpfs), so
that a full disk neither stops rotation nor makes every tick a request.
"""

from __future__ import annotations

import os

from edge_rotator import quickjson
from edge_rotator.errors import KINDS, RotatorError
from edge_rotator.files import Stat, stat_of, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
FILE_NAME = "state.json"
_MAX_BYTES = 262144


class Success:
    """The last rotation. `boot`, `boot_id` and `wall` say when; durations in seconds."""

    __slots__ = ("boot", "boot_id", "due_after", "lifetime", "usable", "wall")

    def __init__(
        self,
        wall: float,
        boot: float,
        boot_id: str,
        lifetime: float,
        usable: float,
        due_after: float,
    ) -> None:
        self.wall = wall
        self.boot = boot
        self.boot_id = boot_id
        self.lifetime = lifetime  # as the provider granted it
        self.usable = usable  # as handed on: less the safety margin
        self.due_after = due_after


class Failure:
    """The failed attempt that the next one waits for; `delay` (s) is how long."""

    __slots__ = ("boot", "boot_id", "count", "delay", "detail", "kind", "wall")

    def __init__(
        self,
        kind: str,
        detail: str,
        wall: float,
        boot: float,
        boot_id: str,
        count: int,
        delay: float,
    ) -> None:
        self.kind = kind
        self.detail = detail
        self.wall = wall
        self.boot = boot
        self.boot_id = boot_id
        self.count = count
        self.delay = delay


class State:
    """Everything remembered. A fresh one makes a rotation due at once."""

    def __init__(self) -> None:
        self.sequence = 0
        self.success: Success | None = None
        self.failure: Failure | None = None
        self.last_error: dict[str, Any] = {}  # kind, detail, wall: kept after recovery, for people
        self.pin: Stat | None = None  # the PIN file as it was when the token refused it
        self.latched = False
        self.applied: Stat | None = None  # the environment file Litestream was last restarted with
        self.watched: dict[str, Stat | None] = {}  # files whose change lifts a permanent error
        self.proven: dict[str, Stat | None] = {}  # the same files, as they were at the last success
        self.clock_skew = 0.0  # server's clock minus ours, at the last answer
        self.attempts: dict[str, int] = {}  # by outcome: "rotated" or the error's name
        self.config: dict[str, Any] = {}  # version, path, stat and values of the checked file

    def to_json(self) -> bytes:
        """Render for the file."""
        data: dict[str, Any] = {"version": VERSION}
        for key, value in vars(self).items():
            if isinstance(value, Success | Failure):
                value = {name: getattr(value, name) for name in value.__slots__}  # noqa: PLW2901
            data[key] = value
        return quickjson.dumps(data).encode() + b"\n"


def _number(value: Any) -> bool:
    """Whether it is a number a clock can show: no NaN, and nothing that overflows a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_stat(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(n) is int for n in value)


def _stats(value: Any) -> dict[str, Stat | None]:
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if v is None or _is_stat(v)}


def _record(cls: type[Any], value: Any, texts: tuple[str, ...]) -> Any:
    """Build a Success or Failure from its fields, or None unless all are there and well typed."""
    if not isinstance(value, dict) or value.keys() != set(cls.__slots__):
        return None
    for key, item in value.items():
        if not (isinstance(item, str) if key in texts else _number(item)):
            return None
    return cls(**value)


def parse(data: bytes) -> State:
    """Read a state; every part that is not as written by `to_json` is left at its default."""
    state = State()
    try:
        raw = quickjson.loads(data)
    except (ValueError, RecursionError):
        return state
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        return state
    if type(raw.get("sequence")) is int:
        state.sequence = raw["sequence"]
    state.success = _record(Success, raw.get("success"), ("boot_id",))
    state.failure = _record(Failure, raw.get("failure"), ("boot_id", "kind", "detail"))
    if state.failure and (state.failure.kind not in KINDS or type(state.failure.count) is not int):
        state.failure = None
    last = raw.get("last_error")
    if isinstance(last, dict) and last.get("kind") in KINDS and _number(last.get("wall")):
        state.last_error = {
            "kind": last["kind"],
            "detail": str(last.get("detail")),
            "wall": last["wall"],
        }
    state.pin = raw.get("pin") if _is_stat(raw.get("pin")) else None
    state.latched = raw.get("latched") is True
    state.applied = raw.get("applied") if _is_stat(raw.get("applied")) else None
    state.watched = _stats(raw.get("watched"))
    state.proven = _stats(raw.get("proven"))
    if _number(raw.get("clock_skew")):
        state.clock_skew = raw["clock_skew"]
    attempts = raw.get("attempts")
    if isinstance(attempts, dict):
        state.attempts = {k: v for k, v in attempts.items() if type(v) is int and v > 0}
    config = raw.get("config")
    if isinstance(config, dict):
        state.config = config
    return state


def _read(path: str) -> State | None:
    try:
        with open(path, "rb") as file:
            return parse(file.read(_MAX_BYTES))
    except OSError:
        return None


def load(directory: str, fallback: str = "") -> State:
    """Read the newer of the two places; a fresh state if there is none."""
    state = _read(f"{directory}/{FILE_NAME}")
    spare = _read(f"{fallback}/{FILE_NAME}") if fallback else None
    if spare and (not state or spare.sequence > state.sequence):
        return spare
    return state or State()


def save(state: State, directory: str, fallback: str, durable: bool = True) -> None:
    """Write to the state directory, else to `fallback`. Raises `state_failed` if neither works.

    Without memory there must be no request: the caller gives up, so that nothing is hammered.
    """
    state.sequence += 1
    data = state.to_json()
    path, spare = f"{directory}/{FILE_NAME}", f"{fallback}/{FILE_NAME}"
    try:
        write_atomic(path, data, 0o640, durable=durable)
    except OSError as first:
        try:
            write_atomic(spare, data, 0o640, durable=durable)
        except OSError:
            detail = f"{directory}: {first.strerror}"
            raise RotatorError("state_failed", detail) from None
        return
    # Both may be one place.
    if stat_of(spare) not in (None, stat_of(path)):
        try:
            os.unlink(spare)
        except OSError:
            return
