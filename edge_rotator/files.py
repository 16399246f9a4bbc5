"""Files that are either the old or the new one, whole, whenever the power fails."""

from __future__ import annotations

import os

Stat = list[int]


def stat_of(path: str) -> Stat | None:
    """Return what tells versions of a file apart: inode, mtime (ns), size; None if absent."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_mtime_ns, found.st_size]


def write_atomic(path: str, data: bytes, mode: int, gid: int | None = None, durable: bool = True) -> None:
    """Replace `path` by `data`; mode and group are set before any content. Raises OSError.

    Not `durable`: safe against the death of the process, not of the machine, but without a wait.

    The caller holds the lock, so the temporary name is ours and a left-over of a killed run goes.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.tmp")
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        try:
            # In a set-group-ID directory it has the group already, and a sandbox may forbid chown.
            if gid is not None and os.fstat(fd).st_gid != gid:
                os.fchown(fd, -1, gid)
            os.fchmod(fd, mode)
            view = memoryview(data)
            while view:  # ends: os.write takes at least one byte or raises
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if not durable:
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
