"""Atomic files: permissions, groups, left-overs."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from edge_rotator.files import stat_of, write_atomic


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [True, False])
def test_replaces(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    write_atomic(str(path), b"one", 0o640, durable=durable)
    assert path.read_bytes() == b"one"
    assert mode(path) == 0o640
    inode = path.stat().st_ino
    write_atomic(str(path), b"", 0o600, durable=durable)
    assert path.read_bytes() == b""
    assert mode(path) == 0o600
    assert path.stat().st_ino != inode
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_umask_does_not_count(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(str(tmp_path / "file"), b"x", 0o644)
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o644


def test_left_over_of_a_killed_run_goes(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half")
    (tmp_path / ".file.tmp").chmod(0o666)
    write_atomic(str(tmp_path / "file"), b"new", 0o600)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".file.tmp").symlink_to(victim)
    (tmp_path / "file").symlink_to(victim)
    write_atomic(str(tmp_path / "file"), b"new", 0o600)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "file").is_symlink()


def test_chown_only_where_the_group_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox forbids the call even when it would change nothing."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda fd, uid, gid: calls.append((uid, gid)))
    path = str(tmp_path / "file")
    write_atomic(path, b"x", 0o600)
    write_atomic(path, b"x", 0o600, os.getgid())
    assert calls == []
    write_atomic(path, b"x", 0o600, os.getgid() + 1)
    assert calls == [(-1, os.getgid() + 1)]
    # With user namespaces every foreign group looks like another one, and cannot be named.
    tmp_path.chmod(0o2700)
    write_atomic(path, b"x", 0o600, os.getgid() + 2)
    assert len(calls) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a foreign group needs root")
def test_set_group_id_directory_gives_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, -1, 54321)
    tmp_path.chmod(0o2750)

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "seccomp")

    monkeypatch.setattr(os, "fchown", forbidden)
    write_atomic(str(tmp_path / "file"), b"x", 0o640, 54321)
    assert (tmp_path / "file").stat().st_gid == 54321
    assert mode(tmp_path / "file") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="a foreign group needs root")
def test_group_is_set(tmp_path: Path) -> None:
    write_atomic(str(tmp_path / "file"), b"x", 0o640, 54321)
    assert (tmp_path / "file").stat().st_gid == 54321


@pytest.mark.parametrize("call", ["fchmod", "fsync", "replace"])
def test_failure_leaves_the_old_file_and_no_other(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(OSError, match="no space"):
            write_atomic(str(path), b"new", 0o600)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert len(list(Path("/proc/self/fd").iterdir())) < 200


def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(str(path), b"x" * 2000, 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_durable_means_file_and_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    write_atomic(str(tmp_path / "file"), b"x", 0o600)
    assert synced == [False, True]
    write_atomic(str(tmp_path / "file"), b"x", 0o600, durable=False)
    assert synced == [False, True]


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(str(tmp_path / "none/file"), b"x", 0o600)


def test_stat_of(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert stat_of(str(path)) is None
    path.write_bytes(b"abc")
    found = path.stat()
    assert stat_of(str(path)) == [found.st_ino, found.st_mtime_ns, 3]
