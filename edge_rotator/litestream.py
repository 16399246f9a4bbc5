"""Litestream: restart it, ask it to sync, ask it how fresh the replica is."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess

from edge_rotator.clock import parse_iso, read_clock
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError
from edge_rotator.files import write_atomic

RESTART_TIMEOUT = 240.0  # s; in environment mode the unit's TimeoutStopSec is at most 200 s
SYNC_TIMEOUT = 60.0  # s per database
_SOCKET_TIMEOUT = 5.0  # s
_MAX_ANSWER = 1048576
_FUTURE = 60.0  # s; a sync later than that was dated by a clock that has been set back since


def run(command: list[str], timeout: float) -> int:
    """Run a command, its output to the journal; return its exit code, 137 if it took too long.

    The environment is reduced to PATH: nothing of ours concerns it.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
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

    For a clock that was set back: until it has caught up with the old expiry, Litestream would go on
    with the old credentials. Raises `write_failed`.
    """
    path = f"{config.directory}/restart-litestream"
    try:
        write_atomic(path, b"", 0o640, durable=False)
    except OSError as exc:
        raise RotatorError("write_failed", f"{path}: {exc.strerror}") from None


def sync(config: Config) -> int | None:
    """Ask Litestream to sync each database now, out of its back-off; return how many did not.

    None if there is nothing to ask: no command set, or Litestream is not running.
    """
    if not config.sync_command or not config.databases:
        return None
    if config.litestream_socket and not os.path.exists(config.litestream_socket):
        return None
    codes = [run([*config.sync_command, path], SYNC_TIMEOUT) for path in config.databases]
    return sum(code != 0 for code in codes)


class _Connection(http.client.HTTPConnection):
    """HTTP over Litestream's control socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SOCKET_TIMEOUT)
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
