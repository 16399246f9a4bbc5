"""How fresh the replica is, asked of Litestream itself on its control socket."""

from __future__ import annotations

import http.client
import json
import socket

from edge_rotator.clock import parse_iso, read_clock

_TIMEOUT = 5.0  # s
_MAX_ANSWER = 1048576
_FUTURE = 60.0  # s; a sync later than that was dated by a clock that has been set back since


class _Connection(http.client.HTTPConnection):
    """HTTP over Litestream's control socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _list(path: str) -> bytes:
    connection = _Connection(path)
    try:
        connection.request("GET", "/list")
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"answered {answer.status}")
        return answer.read(_MAX_ANSWER)
    except http.client.HTTPException as exc:
        raise ValueError(f"answered with {type(exc).__name__}") from None
    finally:
        connection.close()


def ages(path: str) -> dict[str, float | None]:
    """Seconds since the last successful sync, per database path; None where there was none yet.

    Raises OSError or ValueError when Litestream does not tell on its socket `path`.
    """
    answer = json.loads(_list(path))
    now = read_clock().wall
    result: dict[str, float | None] = {}
    try:
        for database in answer["databases"]:
            at = parse_iso(str(database.get("last_sync_at", "")))
            name = "".join(c for c in str(database["path"]) if c.isprintable())
            result[name] = None if at is None or at > now + _FUTURE else max(0.0, now - at)
    except (KeyError, TypeError, AttributeError):
        raise ValueError("unexpected answer") from None
    return result


def try_ages(path: str) -> tuple[dict[str, float | None], str]:
    """`ages`, or nothing and the reason why."""
    if not path:
        return {}, "no socket configured"
    try:
        return ages(path), ""
    except (OSError, ValueError, RecursionError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        return {}, f"{path}: {why}"
