"""All files are validated before one is written, and a second time nothing is left to do."""

import getpass
import grp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
OWNER = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}


def wanted(tmp_path: Path, *, validate: str = "test -s %s") -> list[dict[str, Any]]:
    return [
        {"path": str(tmp_path / "etc/app"), "state": "directory", "mode": "0750", **OWNER},
        {"path": str(tmp_path / "etc/app/a"), "content": "new\n", "mode": "0640", **OWNER},
        {"path": str(tmp_path / "b"), "content": "b\n", "validate": validate, **OWNER},
        {"path": str(tmp_path / "old"), "state": "absent"},
    ]


def test_files_are_as_wanted_and_the_second_time_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old").symlink_to(tmp_path)
    done = run(files=wanted(tmp_path))
    assert [Path(path).name for path in done["paths"]] == ["app", "a", "b", "old"]
    assert (tmp_path / "etc/app/a").read_text() == "new\n"
    assert (tmp_path / "etc/app/a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "etc/app").stat().st_mode & 0o777 == 0o750
    assert not (tmp_path / "old").is_symlink()
    assert tmp_path.exists(), "a link is removed, not what it leads to"
    assert run(files=wanted(tmp_path))["paths"] == []


def test_one_that_is_refused_leaves_all_as_they_were(run: Run, tmp_path: Path) -> None:
    done = run(files=wanted(tmp_path, validate="false %s"))
    assert done["failed"]
    assert str(tmp_path / "b") in done["msg"]
    assert list(tmp_path.iterdir()) == []


def test_check_mode_changes_nothing(run: Run, tmp_path: Path) -> None:
    # A unit is refused where its program is missing, which on a bare device it still is.
    files = wanted(tmp_path, validate="false %s")
    files[1]["owner"] = "nobody-made-me-yet"
    done = run(check=True, files=files)
    assert len(done["paths"]) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_a_files_place_is_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("b\n")
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    assert run(files=[wanted(tmp_path)[2]])["changed"]
    assert not (tmp_path / "b").is_symlink()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("kind", ["link", "link above", "file"])
def test_a_directory_is_never_that_of_a_link(run: Run, tmp_path: Path, kind: str) -> None:
    """Whoever may write above must not have root open another directory to the world."""
    precious = tmp_path / "precious/in"
    precious.mkdir(parents=True, mode=0o700)
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    path = loose / "metrics"
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "link above":
        path.symlink_to(precious.parent)
        path = path / "in"
    else:
        path.touch(mode=0o600)
    for check in (True, False):
        done = run(check=check, files=[{"path": str(path), "state": "directory", "mode": "1775", **OWNER}])
        assert "link" in done["msg"]
    assert mode(precious) == 0o700
    # Root's own link in root's directory is not followed either, where the path ends.
    (tmp_path / "own").symlink_to(precious)
    entry = {"path": str(tmp_path / "own"), "state": "directory", "mode": "1775", **OWNER}
    assert "link" in run(files=[entry])["msg"]
    assert mode(precious) == 0o700


def test_attributes_are_never_set_through_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").touch(mode=0o600)
    (tmp_path / "a").symlink_to("precious")
    assert "link" in run(files=[{"path": str(tmp_path / "a"), "mode": "0666", **OWNER}])["msg"]
    (tmp_path / "b").hardlink_to(tmp_path / "precious")
    assert "another name" in run(files=[{"path": str(tmp_path / "b"), "mode": "0666", **OWNER}])["msg"]
    assert mode(tmp_path / "precious") == 0o600
    (tmp_path / "c").touch(mode=0o600)
    done = run(files=[{"path": str(tmp_path / "c"), "mode": "0640", **OWNER}])
    assert (done["paths"], mode(tmp_path / "c")) == ([str(tmp_path / "c")], 0o640)
    assert "is not there" in run(files=[{"path": str(tmp_path / "d"), **OWNER}])["msg"]


def test_nothing_is_written_or_removed_through_a_link_of_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/a").write_text("keep\n")
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    (loose / "in").symlink_to("../precious")
    path = str(loose / "in/a")
    assert "is a link" in run(files=[{"path": path, "content": "new\n", **OWNER}])["msg"]
    assert "is a link" in run(absent=[path])["msg"]
    assert (tmp_path / "precious/a").read_text() == "keep\n"


def test_a_directory_is_removed_with_what_is_in_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old/in").mkdir(parents=True)
    (tmp_path / "old/in/a").touch()
    assert run(check=True, absent=[str(tmp_path / "old")])["changed"]
    assert run(absent=[str(tmp_path / "old")])["changed"]
    assert not (tmp_path / "old").exists()
    assert not run(absent=[str(tmp_path / "old"), str(tmp_path / "old/in/a")])["changed"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_is_in_a_directory_belongs_to_its_user_again(run: Run, tmp_path: Path) -> None:
    """A user that was deleted and made again has another number than its files."""
    state = tmp_path / "state"
    state.mkdir()
    for name in ("lock", "kept", "two-names"):
        (state / name).touch()
    os.link(state / "two-names", tmp_path / "second")
    (state / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").touch()
    os.mkfifo(state / "pipe")
    entry = {
        "path": str(state),
        "state": "directory",
        "owner": "nobody",
        "group": "nogroup",
        "contents": True,
    }
    assert run(check=True, files=[entry])["paths"] == [str(state)]
    assert (state / "lock").stat().st_uid == 0
    assert run(files=[entry])["paths"] == [str(state)]
    owned = [path.name for path in (state / "lock", state / "kept") if path.stat().st_uid == 65534]
    assert owned == ["lock", "kept"]
    assert (state / "lock").stat().st_gid == 65534
    assert (tmp_path / "elsewhere").stat().st_uid == 0
    assert (tmp_path / "second").stat().st_uid == 0
    assert run(files=[entry])["paths"] == []
