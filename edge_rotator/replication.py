"""How fresh the replica is, asked of Litestream itself on its control socket."""

from __future__ import annotations

import http.client
import json
import socket

from edge_rotator.clock import parse_iso, read_clock

_TIMEOUT = 5.0  # s
_MAX_BODY = 1048576


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self.path)


def ages(socket_path: str) -> dict[str, float | None]:
    """Seconds since the last successful sync, per database path; None where there was none yet.

    Raises OSError, http.client.HTTPException or ValueError when Litestream does not tell.
    """
    connection = _UnixConnection(socket_path)
    try:
        connection.request("GET", "/list")
        answer = json.loads(connection.getresponse().read(_MAX_BODY))
        databases = answer["databases"]
        now = read_clock().wall
        result: dict[str, float | None] = {}
        for database in databases:
            at = parse_iso(str(database.get("last_sync_at", "")))
            result[str(database["path"])] = None if at is None else max(0.0, now - at)
        return result
    except (KeyError, TypeError, AttributeError):
        raise ValueError("unexpected answer") from None
    finally:
        connection.close()


def try_ages(socket_path: str) -> tuple[dict[str, float | None], str]:
    """`ages`, or nothing and the reason why."""
    if not socket_path:
        return {}, "no socket configured"
    try:
        return ages(socket_path), ""
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return {}, f"{socket_path}: {exc}"
