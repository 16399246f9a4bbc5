"""Litestream: restart it, ask it to sync, and what is replicated.

It is asked by the one service that may ask it for us, litestream-query.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from typing import Any, NamedTuple

from edge_rotator.clock import parse_iso, read_clock
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError, plain
from edge_rotator.files import write_atomic

RESTART_TIMEOUT = 240.0  # s; in environment mode the unit's TimeoutStopSec is at most 200 s
SYNC_TIMEOUT = 40.0  # s per database; litestream-query gives Litestream 30
LIST_TIMEOUT = 10.0  # s; litestream-query gives Litestream 5
NOT_RUNNING = "not running"
_MAX_ANSWER = 16777216  # bytes; for tens of thousands of databases
_FIRST = 10.0  # s after which a Litestream that has just started has synced; it does so at once
_FUTURE = 60.0  # s; a sync later than that was dated by a clock that has been set back since
_SLACK = 15.0  # s that a sync may take, the application's burst and a slow uplink included


class Database(NamedTuple):
    """What Litestream and the file system say of one database."""

    age: float | None  # s since all that Litestream knew was in the replica; None: not since it started
    status: str  # replicating, stopped; empty while Litestream does not tell
    error: str  # why Litestream cannot read it; while it cannot, `age` says nothing
    missing: bool
    replaced: bool  # Litestream has another file open than the one that is there


class Answer(NamedTuple):
    """What Litestream told: how long it has been running (s), its databases by path.

    Where these and its own files are: the bytes and inodes that are free, by directory. Its version.
    When it last found a database behind its replica (s since 1970, within a day), by the file's name.
    """

    uptime: float
    databases: dict[str, Database]
    rooms: dict[str, tuple[int, int | None]]
    version: str
    behind: dict[str, float]


def ask(path: str, request: str, timeout: float) -> dict[str, Any]:
    """Answer to a request, `list`, `txid DATABASE` or `sync DATABASE`; its `error` is Litestream's.

    It has to be there within `timeout` seconds.
    Raises OSError where nobody answers on socket `path`, ValueError for an answer that is none.
    """
    import socket

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
    try:
        result = json.loads(answer)
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise ValueError("unexpected answer")
    return result


def look(path: str) -> tuple[Answer, str]:
    """Ask for all databases; return nothing, and the reason why, where Litestream does not tell."""
    nothing = Answer(0.0, {}, {}, "", {})
    if not path:
        return nothing, "no socket configured"
    try:
        raw = ask(path, "list", LIST_TIMEOUT)
    except (OSError, ValueError) as exc:
        return nothing, f"{path}: {getattr(exc, 'strerror', None) or exc}"
    if raw.get("error"):
        return nothing, f"{path}: Litestream {raw['error']}"
    now = read_clock().wall
    try:
        databases = {plain(str(each["path"])): _database(each, now) for each in raw["databases"]}
        rooms = {
            plain(path): (int(room), None if inodes is None else int(inodes))
            for path, (room, inodes) in raw.get("rooms", {}).items()
        }
        behind = {plain(name): float(at) for name, at in raw.get("behind", {}).items()}
        version = plain(str(raw.get("version", "")))
        return Answer(float(raw["uptime_s"]), databases, rooms, version, behind), ""
    except (KeyError, TypeError, AttributeError, ValueError):
        return nothing, f"{path}: unexpected answer"


def _database(raw: dict[str, Any], now: float) -> Database:
    at = parse_iso(str(raw.get("last_sync_at", "")), local=True)
    return Database(
        age=None if at is None or at > now + _FUTURE else max(0.0, now - at),
        status=str(raw.get("status", "")),
        error=str(raw.get("error", "")),
        missing=bool(raw.get("missing")),
        replaced=bool(raw.get("replaced")),
    )


def txid(path: str, database: str) -> int:
    """Litestream's newest transaction of a database; 0 where it does not tell."""
    try:
        return int(ask(path, f"txid {database}", LIST_TIMEOUT).get("txid", 0))
    except (OSError, ValueError, TypeError):
        return 0


def _matches(path: str, pattern: str) -> bool:
    import fnmatch

    directory, name = os.path.split(pattern)
    top = directory.removesuffix("/**")
    inside = path.startswith(f"{top}/") if top != directory else os.path.dirname(path) == top
    # Litestream's patterns are Go's, which write [^a] for what is [!a] here.
    return inside and fnmatch.fnmatchcase(os.path.basename(path), name.replace("[^", "[!"))


def unknown(config: Config, paths: Collection[str]) -> list[str]:
    """Return what is configured and not among Litestream's databases, patterns that match none included."""
    patterns = [each for each in config.patterns if not any(_matches(path, each) for path in paths)]
    return [path for path in config.databases if path not in paths] + patterns


def limit(config: Config) -> float:
    """Seconds after which a database that is not in the replica is late."""
    return 2 * config.sync_interval + _SLACK


def _problem(config: Config, database: Database, uptime: float) -> str:
    """Why what the application wrote a moment ago may not be in the replica; empty where it is."""
    if database.missing:
        return "is gone, and what an application still writes to it is lost"
    if database.replaced:
        return "was replaced, and Litestream has the old file open"
    if database.status not in ("replicating", ""):
        return f"is not being replicated: Litestream has it {database.status}"
    if database.error:
        return f"cannot be read by Litestream: {database.error}"
    # In environment mode each rotation restarts it: what was late before must not look young again.
    if uptime > _FIRST if database.age is None else database.age > limit(config):
        return "has not been replicated lately"
    return ""


def problems(config: Config, answer: Answer) -> dict[str, str]:
    """Say what is not replicated, by path or pattern, and why: the one judge of it."""
    found = {path: _problem(config, each, answer.uptime) for path, each in answer.databases.items()}
    for path in unknown(config, answer.databases):
        found[path] = "matches no database" if path in config.patterns else "is not known to Litestream"
    return {path: why for path, why in found.items() if why}


def run(command: list[str], timeout: float) -> int:
    """Run a command, its output to the journal; return its exit code, 137 if it took too long.

    The environment is reduced to PATH: nothing of ours concerns it.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    import subprocess

    try:
        process = subprocess.Popen(command, env=environment)  # noqa: S603 (the configuration is root's)
    except OSError:
        return 127
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        try:
            process.kill()
            process.wait()
        except PermissionError:
            pass  # it runs as root by sudo; it outlives us, which harms nothing
        return 137
    return code if code >= 0 else 128 - code


def restart(config: Config) -> None:
    """Restart Litestream so that it reads the new file. Raises `restart_failed`."""
    code = run(config.restart_command, RESTART_TIMEOUT)
    if code:
        raise RotatorError("restart_failed", f"exit code {code} of {' '.join(config.restart_command)}")


def request_restart(config: Config) -> None:
    """Have systemd restart Litestream, which in process mode we may not.

    It would go on with the old credentials until the expiry it was told. Raises `write_failed`.
    """
    path = f"{config.directory}/restart-litestream"
    try:
        write_atomic(path, b"", 0o640, durable=False)
    except OSError as exc:
        raise RotatorError("write_failed", f"{path}: {exc.strerror}") from None


def sync(config: Config) -> int | None:
    """Ask Litestream to sync each database now, out of its back-off; return how many did not.

    None if there is nothing to ask: no socket or no database configured, or Litestream is not running.
    """
    if not config.litestream_socket or not config.databases:
        return None
    failed = 0
    for path in config.databases:
        error = try_sync(config, path)
        if error == NOT_RUNNING:
            return None
        failed += bool(error)
    return failed


def try_sync(config: Config, path: str) -> str:
    """Sync a database now; return why that failed, in Litestream's words, or nothing."""
    try:
        return str(ask(config.litestream_socket, f"sync {path}", SYNC_TIMEOUT).get("error", ""))
    except (OSError, ValueError) as exc:
        return f"Litestream does not answer: {exc}"
