"""All files are validated before one is written, and a second time nothing is left to do."""

import getpass
import grp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
