"""Litestream: restart it, have it restarted, ask it to sync."""

from __future__ import annotations

from edge_rotator import replication
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError
from edge_rotator.files import write_atomic

RESTART_TIMEOUT = 240.0  # s; in environment mode the unit's TimeoutStopSec is at most 200 s
SYNC_TIMEOUT = 40.0  # s per database; litestream-query gives Litestream 30


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

    None if there is nothing to ask: no socket or no database configured, or Litestream is not running.
    """
    if not config.litestream_socket or not config.databases:
        return None
    failed = 0
    for path in config.databases:
        error = try_sync(config, path)
        if error == replication.NOT_RUNNING:
            return None
        failed += bool(error)
    return failed


def try_sync(config: Config, path: str) -> str:
    """Sync a database now; return why that failed, in Litestream's words, or nothing."""
    try:
        return str(replication.ask(config.litestream_socket, f"sync {path}", SYNC_TIMEOUT).get("error", ""))
    except (OSError, ValueError) as exc:
        return f"Litestream does not answer: {exc}"
