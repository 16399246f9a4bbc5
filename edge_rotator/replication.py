"""How fresh the replica is, and a sync now: asked of Litestream by the one service that may ask it for us."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterable

from edge_rotator.clock import parse_iso, read_clock
from edge_rotator.config import Config

LIST_TIMEOUT = 10.0  # s; litestream-query gives Litestream 5
NOT_RUNNING = 127
_MAX_ANSWER = 1048576
_FUTURE = 60.0  # s; a sync later than that was dated by a clock that has been set back since


def ask(path: str, request: str, timeout: float) -> tuple[int, bytes]:
    """Exit code and output for a request, `list` or `sync DATABASE`, within `timeout` seconds.

    The code is NOT_RUNNING where Litestream is not. Raises OSError where nobody answers on socket `path`,
    ValueError for an answer that is none.
    """
    end = time.monotonic() + timeout
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65536):
            answer += chunk
            left = end - time.monotonic()
            if left <= 0 or len(answer) > _MAX_ANSWER:
                raise ValueError("answers too slowly or too much")
            connection.settimeout(left)
    found = re.fullmatch(rb"(.*)exit (\d{1,3})\n", answer, re.DOTALL)
    if not found:
        raise ValueError("unexpected answer")
    return int(found[2]), found[1]


def ages(path: str) -> dict[str, float | None]:
    """Seconds since the last successful sync, per database path; None where there was none yet.

    Raises OSError or ValueError when Litestream does not tell.
    """
    code, output = ask(path, "list", LIST_TIMEOUT)
    if code:
        raise ValueError("Litestream is not running" if code == NOT_RUNNING else "Litestream does not answer")
    answer = json.loads(output)
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


def _matches(path: str, pattern: str) -> bool:
    directory, name = os.path.split(pattern)
    top = directory.removesuffix("/**")
    inside = path.startswith(f"{top}/") if top != directory else os.path.dirname(path) == top
    # Litestream's patterns are Go's, which write [^a] for what is [!a] here.
    return inside and fnmatch.fnmatchcase(os.path.basename(path), name.replace("[^", "[!"))


def unmatched(patterns: list[str], paths: Iterable[str]) -> list[str]:
    """Patterns that none of Litestream's databases matches: nothing of what they are for is replicated."""
    return [pattern for pattern in patterns if not any(_matches(path, pattern) for path in paths)]


def unknown(config: Config, paths: Collection[str]) -> list[str]:
    """Return what is configured and not among Litestream's databases, patterns that match none included."""
    return [path for path in config.databases if path not in paths] + unmatched(config.patterns, paths)
