"""How fresh the replica is, asked of Litestream itself on its control socket.

By hand, since http.client costs more to import than a whole rotation, and socket a fifth of it.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket

from edge_rotator import quickjson
from edge_rotator.clock import parse_iso, read_clock

_TIMEOUT = 5.0  # s
_MAX_ANSWER = 1048576
_FUTURE = 60.0  # s; a sync later than that was dated by a clock that has been set back since


def _ask(socket_path: str, path: str) -> bytes:
    """Return the body of an answer. Raises OSError, or ValueError if it is not a good one."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(_TIMEOUT)
        connection.connect(socket_path)
        # With HTTP/1.0 the answer is neither chunked nor followed by anything.
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while len(answer) < _MAX_ANSWER:  # ends: each turn adds or is the last
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    finally:
        connection.close()
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator or head.split(b" ")[1:2] != [b"200"]:
        raise ValueError(f"answered {head[:40]!r}")
    return body


def ages(socket_path: str) -> dict[str, float | None]:
    """Seconds since the last successful sync, per database path; None where there was none yet.

    Raises OSError or ValueError when Litestream does not tell.
    """
    answer = quickjson.loads(_ask(socket_path, "/list"))
    now = read_clock().wall
    result: dict[str, float | None] = {}
    try:
        for database in answer["databases"]:
            at = parse_iso(str(database.get("last_sync_at", "")))
            path = "".join(c for c in str(database["path"]) if c.isprintable())
            result[path] = None if at is None or at > now + _FUTURE else max(0.0, now - at)
    except (KeyError, TypeError, AttributeError):
        raise ValueError("unexpected answer") from None
    return result


def try_ages(socket_path: str) -> tuple[dict[str, float | None], str]:
    """`ages`, or nothing and the reason why."""
    if not socket_path:
        return {}, "no socket configured"
    try:
        return ages(socket_path), ""
    except (OSError, ValueError, RecursionError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        return {}, f"{socket_path}: {why}"
