"""The lock of a restore, which goes on in the background on a device whose playbook was ended."""

from __future__ import annotations

import fcntl

LOCK = "/run/litestream-restore.lock"


def under_way() -> str:
    """Return which database is being restored, since when; empty where none is. Raises OSError."""
    try:
        with open(LOCK, encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "it begins"
    except FileNotFoundError:
        pass
    return ""
