"""The lock that every user of the token takes, and what to say of one who does not let it go.

A holder can be stopped at any point (Ctrl-Z, SIGSTOP) and then no limit of its own ends it. So those
who wait remember since when the same process has had it, in `busy` beside the credentials: on tmpfs,
so that the boot clock in it is this boot's.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge_rotator.clock import read_clock
from edge_rotator.errors import RotatorError
from edge_rotator.files import read_regular, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_rotator.config import Config

LIMIT = 300.0  # s; no run takes longer: it is the unit's TimeoutStartSec
_TRIES = 300  # of 0.1 s
_MAX_BYTES = 64


def _path(config: Config) -> str:
    return f"{config.state_directory}/lock"


def _record(config: Config) -> str:
    return f"{config.directory}/busy"


def take(config: Config, patient: bool) -> int:
    """Take the lock; it lasts until the returned file is closed.

    Raises `busy` if another run holds it (after 30 s if `patient`), `lock_stuck` if that run has had
    it for longer than any takes, `state_failed` without a place for it.
    """
    path = _path(config)
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as first:
        try:
            # On a file system that has become read-only the file of an earlier run does as well.
            fd = os.open(path, flags | os.O_RDONLY)
        except OSError:
            raise RotatorError("state_failed", f"{path}: {first.strerror}") from None
    for _ in range(_TRIES if patient else 1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1 if patient else 0)
        else:
            _forget(config)
            return fd
    os.close(fd)
    _remember(config)
    detail = stuck(config)
    raise RotatorError("lock_stuck", detail) if detail else RotatorError("busy", path)


@contextmanager
def held(config: Config, patient: bool = True) -> Iterator[None]:
    """Around what needs the token: `take` and let go."""
    fd = take(config, patient)
    try:
        yield
    finally:
        os.close(fd)


def holder(path: str) -> int:
    """Return the process that has the lock on this file; 0 if there is none or the kernel does not tell."""
    try:
        found = os.stat(path)
        with open("/proc/locks") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids = [words[4] for words in lines if len(words) == 8 and words[1] == "FLOCK" and words[5] == place]
    return int(pids[0]) if pids else 0


def _held(path: str) -> bool:
    """Whether anybody has the lock: no process in /proc/locks is also what is left of one that ended."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def stuck(config: Config) -> str:
    """Say who has had the lock for longer than any run takes; empty if nobody has."""
    pid, since = _read(config)
    held = read_clock().boot - since
    path = _path(config)
    if held < LIMIT or holder(path) != pid or not (pid or _held(path)):
        return ""
    who = f"process {pid} ({_state(pid)})" if pid else "a process that /proc/locks does not tell"
    return f"{who} has held {path} for {held:.0f} s"


def _read(config: Config) -> tuple[int, float]:
    """Process and second of the boot clock in the record; now if there is none."""
    try:
        pid, since = read_regular(_record(config), _MAX_BYTES).split()
        return int(pid), int(since)
    except (OSError, ValueError):
        return 0, read_clock().boot


def _remember(config: Config) -> None:
    """Record since when the present holder has been seen."""
    pid = holder(_path(config))
    if os.path.exists(_record(config)) and _read(config)[0] == pid:
        return
    try:
        write_atomic(_record(config), b"%d %d\n" % (pid, read_clock().boot), 0o640, durable=False)
    except OSError:
        return  # another one who waits has written it, or nobody can


def _forget(config: Config) -> None:
    try:
        os.unlink(_record(config))
    except OSError:
        return


def _state(pid: int) -> str:
    """Tell what a process is and does, such as `python3, T (stopped)`."""
    try:
        with open(f"/proc/{pid}/status") as file:
            told = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return "of another user"
    return f"{told.get('Name', '')}, {told.get('State', '')}"
