"""Files that are either the old or the new one, whole, whenever the power fails; the user."""

from __future__ import annotations

import os
import pwd
import stat

from edge_rotator.errors import RotatorError

Stat = list[int]


def stat_of(path: str) -> Stat | None:
    """Return what tells versions of a file apart: inode, mtime (ns), size; None if absent."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_mtime_ns, found.st_size]


def read_regular(path: str, most: int) -> bytes:
    """Read a file of at most `most` bytes that somebody may have tampered with. Raises OSError.

    Neither a link nor a pipe nor a device is followed, waited for or read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"{path} is longer than {most} bytes")
    return data


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
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            # A set-group-ID directory gives it the group, which a sandbox may hide and forbid to set.
            inherited = os.stat(directory).st_mode & stat.S_ISGID
            if gid is not None and os.fstat(fd).st_gid != gid and not inherited:
                os.fchown(fd, -1, gid)
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if durable:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_root(user: str) -> None:
    """Raise `wrong_user` if we are root and `user` is not: root's files would lock that user out."""
    if os.geteuid() == 0 and user != "root":
        raise RotatorError("wrong_user", f"started as root, but service.user is {user}")


def become(user: str) -> None:
    """If we are root, become `user` for good. Raises `wrong_user` if there is no such user."""
    if os.geteuid() != 0 or user == "root":
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise RotatorError("wrong_user", f"there is no user {user}") from None
    os.initgroups(user, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
