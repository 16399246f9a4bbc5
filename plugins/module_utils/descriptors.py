# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Directories and files by descriptor, where an application could exchange a name between two looks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

MAX_LINKS = 40  # as many as the kernel follows in one path
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafeError(Exception):
    """Something that root must not follow or touch, with what to do about it."""


def only_roots(info: os.stat_result) -> bool:
    """Whether nobody but root (in tests: whoever runs them) can exchange what is in a directory."""
    return info.st_uid in (0, os.geteuid()) and not info.st_mode & _OTHERS_WRITE


def _roots_name(directory: int, inner: int | None, path: str) -> None:
    """Raise UnsafeError where others than root could exchange what is, or will be, in a directory.

    In a sticky directory nobody but its owner can exchange what root owns.
    """
    here = os.fstat(directory)
    owned = inner is not None and os.fstat(inner).st_uid in (0, os.geteuid())
    sticky = here.st_uid in (0, os.geteuid()) and here.st_mode & stat.S_ISVTX and owned
    if not only_roots(here) and not sticky:
        name = os.readlink(f"/proc/self/fd/{directory}")
        raise UnsafeError(
            f"{path} is below {name}, whose owner or group could put something else in its place: "
            f"have {name} belong to root and writable for nobody else, or choose another path"
        )


def open_directory(path: str, create: bool = False, roots: bool = False) -> int:
    """Open a directory, name by name. The caller closes the descriptor.

    A link is followed where root alone could have made it, else UnsafeError is raised; with `roots` it
    is raised for every directory above that others than root can change. With `create` what is missing
    is made, with mode 0755. Raises FileNotFoundError and other OSErrors.
    """
    names = [name for name in path.split("/") if name]
    here = os.open("/", _DIRECTORY)
    links = 0
    try:
        while names:
            name = names.pop(0)
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=here)
            except FileNotFoundError:
                if roots:
                    _roots_name(here, None, path)
                if not create:
                    raise
                os.mkdir(name, 0o755, dir_fd=here)
                inner = os.open(name, _DIRECTORY, dir_fd=here)
            except OSError as error:
                links += 1
                if error.errno not in (errno.ELOOP, errno.ENOTDIR) or links > MAX_LINKS:
                    raise
                target = _link(here, name, path)
                names = [part for part in target.split("/") if part] + names
                inner = os.open("/", _DIRECTORY) if target.startswith("/") else os.dup(here)
            above, here = here, inner
            try:
                if roots:
                    _roots_name(above, here, path)
            finally:
                os.close(above)
    except BaseException:
        os.close(here)
        raise
    return here


def _link(directory: int, name: str, path: str) -> str:
    """Return what a link leads to that only root could have made."""
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        raise UnsafeError(f"'{name}' in {path} is no directory: move it away, or choose another path")
    if info.st_uid not in (0, os.geteuid()) or not only_roots(os.fstat(directory)):
        raise UnsafeError(
            f"'{name}' in {path} is a link that others than root can change: "
            "put a directory in its place, or name the directory that it leads to"
        )
    return os.readlink(name, dir_fd=directory)


def open_inner(name: str, directory: int) -> int:
    """Open a directory in another one. The caller closes the descriptor.

    Raises UnsafeError when it is a link or no directory; FileNotFoundError.
    """
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except NotADirectoryError as error:
        raise UnsafeError("it is a link or a file, no directory: move it away") from error


def open_file(name: str, directory: int) -> int:
    """Open a regular file that has this one name. The caller closes the descriptor.

    Raises UnsafeError when it is a link, has other names, is exchanged meanwhile or is no regular file;
    FileNotFoundError.
    """
    try:
        file = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UnsafeError("it is a link or a socket, no regular file") from error
        raise
    info = os.fstat(file)
    try:
        # A second name that was removed since the file was opened is not in its count any more.
        same = os.path.samestat(info, os.stat(name, dir_fd=directory, follow_symlinks=False))
    except OSError:
        os.close(file)
        raise
    if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and same:
        return file
    os.close(file)
    if not same:
        raise UnsafeError("it was exchanged while it was looked at")
    raise UnsafeError("it has another name, too" if stat.S_ISREG(info.st_mode) else "it is no regular file")


def below(directory: int, path: str, recurse: bool) -> Iterator[tuple[int, str, list[str]]]:
    """Descriptor, path and names of a directory and, with `recurse`, of those below it.

    A descriptor is closed when the next one comes. Links are not followed.
    """
    with os.scandir(directory) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    yield directory, path, [name for name, is_directory in found if not is_directory]
    for name in [name for name, is_directory in found if is_directory and recurse]:
        try:
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
        except OSError:
            continue  # gone, or exchanged for a link
        try:
            yield from below(inner, f"{path}/{name}", recurse)
        finally:
            os.close(inner)
