"""Hand the credentials to Litestream: the file, then a restart or a nudge where one is needed."""

from __future__ import annotations

import os
import select

from edge_rotator import credentials as creds
from edge_rotator.errors import RotatorError
from edge_rotator.files import write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edge_rotator.config import Config
    from edge_rotator.credentials import Credentials

RESTART_TIMEOUT = 240.0  # s; in environment mode the unit's TimeoutStopSec is at most 200 s
SYNC_TIMEOUT = 60.0  # s per database
_KILLED = 137


def _gid(group: str) -> int | None:
    if not group:
        return None
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise RotatorError("write_failed", f"no group {group} (delivery.group)") from None


def write(config: Config, credentials: Credentials, expires: float) -> None:
    """Replace the credentials file; `expires` in seconds since 1970 by our own clock.

    Raises `write_failed`; the old file is then still there.
    """
    if config.mode == "process":
        data, mode = creds.process_json(credentials, expires), 0o640
        gid = _gid(config.group)
    else:
        # systemd reads it as root; nobody else has to.
        data, mode, gid = creds.environment_file(credentials, config.region), 0o600, None
    try:
        write_atomic(config.credentials_file, data, mode, gid)
    except OSError as exc:
        detail = f"{config.credentials_file}: {exc.strerror}"
        raise RotatorError("write_failed", detail) from None


def run(command: list[str], timeout: float) -> int:
    """Run a command, its output to the journal; return its exit code, 137 if it had to be killed.

    The environment is reduced to PATH: nothing of ours concerns it.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        pid = os.posix_spawn(command[0], command, environment)
    except OSError:
        return 127
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle)
        if not poll.poll(timeout * 1000):
            # It may run as root by sudo; then it outlives us, which harms nothing.
            try:
                os.kill(pid, 9)
            except PermissionError:
                return _KILLED
    finally:
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def restart(config: Config) -> None:
    """Restart Litestream so that it reads the new file. Raises `restart_failed`."""
    code = run(config.restart_command, RESTART_TIMEOUT)
    if code:
        detail = f"exit code {code} of {' '.join(config.restart_command)}"
        raise RotatorError("restart_failed", detail)


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


def nudge(config: Config) -> int | None:
    """Ask Litestream to sync each database now, out of its back-off; return how many did not.

    None if there is nothing to ask: no command set, or Litestream is not running.
    """
    if not config.sync_command or not config.databases:
        return None
    if config.litestream_socket and not os.path.exists(config.litestream_socket):
        return None
    codes = [run([*config.sync_command, path], SYNC_TIMEOUT) for path in config.databases]
    return sum(code != 0 for code in codes)
