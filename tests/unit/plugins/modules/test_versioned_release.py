"""versioned_release: one link decides which version runs; what is in use or was until now stays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


def install(base: Path, *versions: str) -> None:
    """Directories of these versions, one day after the other."""
    for day, version in enumerate(versions):
        (base / version).mkdir(parents=True)
        (base / version / "program").write_text(version)
        os.utime(base / version, (day * 86400, day * 86400))


def versions(base: Path) -> set[str]:
    return {path.name for path in base.iterdir() if not path.is_symlink()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "opt/program"


@pytest.fixture
def command(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin/program"


def test_the_version_is_put_to_use_once(run: Run, base: Path, command: Path) -> None:
    install(base, "1", "2")
    args: dict[str, Any] = {
        "base": str(base),
        "version": "2",
        "links": [{"path": str(command), "target": "current/program"}],
    }
    would = run(check=True, **args)
    assert would["changed"] and not command.is_symlink() and not (base / "current").is_symlink()
    assert would["links"] == [str(base / "current"), str(command)]
    done = run(**args)
    assert (done["changed"], done["current"], done["previous"], done["removed"]) == (True, "2", "", [])
    assert command.read_text() == "2"
    assert (base / "current").readlink() == Path("2"), "relative, so that the tree can be moved"
    again = run(**args)
    assert (again["changed"], again["links"]) == (False, [])
    assert sorted(path.name for path in base.iterdir()) == ["1", "2", "current"], "no link is left over"


def test_the_one_in_use_until_now_stays_whatever_its_age(run: Run, base: Path) -> None:
    install(base, "1", "2", "3", "4")
    (base / "current").symlink_to("1")
    assert run(check=True, base=str(base), version="4")["removed"] == ["3", "2"]
    assert versions(base) == {"1", "2", "3", "4"}
    done = run(base=str(base), version="4")
    assert (done["removed"], done["previous"]) == (["3", "2"], "1")
    assert versions(base) == {"1", "4"}


@pytest.mark.parametrize(
    ("keep", "left"), [(1, {"4"}), (2, {"4", "3"}), (3, {"4", "3", "2"}), (9, {"4", "3", "2", "1"})]
)
def test_the_newest_stay(run: Run, base: Path, keep: int, left: set[str]) -> None:
    install(base, "1", "2", "3", "4")
    (base / "current").symlink_to("4")
    done = run(base=str(base), version="4", keep=keep)
    assert versions(base) == left
    assert done["changed"] == bool(done["removed"])


def test_a_link_below_the_base_is_no_version(run: Run, base: Path, tmp_path: Path) -> None:
    install(base, "1")
    (tmp_path / "precious").mkdir()
    (base / "old").symlink_to(tmp_path / "precious")
    run(base=str(base), version="1", keep=1)
    assert (tmp_path / "precious").is_dir()
    assert (base / "old").is_symlink()


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_link_is_left_alone(run: Run, base: Path, command: Path, kind: str, check: bool) -> None:
    """Somebody unpacked the program there by hand."""
    install(base, "1", "2")
    (base / "current").symlink_to("1")
    if kind == "file":
        command.write_text("by hand")
    else:
        command.mkdir()
    links = [{"path": str(command), "target": "current/program"}]
    done = run(check=check, base=str(base), version="2", links=links)
    assert done["failed"]
    assert f"{command} is a {kind}" in done["msg"]
    assert "move it away" in done["msg"]
    assert not command.is_symlink()
    assert (base / "current").readlink() == Path("1"), "nothing was changed before the refusal"


def test_a_bare_device_can_be_asked_in_check_mode(run: Run, base: Path, command: Path) -> None:
    links = [{"path": str(command), "target": "current/program"}]
    done = run(check=True, base=str(base), version="1", links=links)
    assert (done["changed"], done["current"]) == (True, "1")
    assert not base.exists()
    done = run(base=str(base), version="1", links=links)
    assert "is not there" in done["msg"]
    assert not command.is_symlink()


@pytest.mark.parametrize("version", ["", ".", "..", "current", "a/b", "../other"])
def test_a_version_is_the_name_of_a_directory(run: Run, base: Path, version: str) -> None:
    install(base, "1")
    assert "give the name of a directory" in run(base=str(base), version=version)["msg"]


def test_back_to_the_version_before_and_no_further(run: Run, base: Path) -> None:
    install(base, "1", "2", "3")
    (base / "current").symlink_to("3")
    assert run(check=True, base=str(base), state="previous")["current"] == "2"
    assert (base / "current").readlink() == Path("3")
    done = run(base=str(base), state="previous")
    assert (done["changed"], done["current"], done["previous"], done["removed"]) == (True, "2", "3", [])
    (base / "current").unlink()
    (base / "current").symlink_to("1")
    done = run(base=str(base), state="previous")
    assert (done["changed"], done["current"], done["previous"]) == (False, "1", "1")
    assert versions(base) == {"1", "2", "3"}


def test_without_any_version_there_is_none_before(run: Run, base: Path) -> None:
    done = run(base=str(base), state="previous")
    assert (done["changed"], done["current"], done["previous"]) == (False, "", "")


def test_a_program_is_described_as_it_is(run: Run, base: Path, tmp_path: Path) -> None:
    install(base, "1")
    args = {"base": str(base), "version": "1", "program": "program"}
    program = base / "1/program"
    program.chmod(0o4755)
    owner = base.stat().st_uid, base.stat().st_gid
    sha256 = hashlib.sha256(b"1").hexdigest()
    described = {"uid": owner[0], "gid": owner[1], "mode": "4755", "sha256": sha256}
    assert run(check=True, **args)["program"] == described
    assert run(check=True, base=str(base), version="1")["program"] == {}
    assert run(check=True, **{**args, "version": "2"})["program"] == {}
    program.rename(tmp_path / "elsewhere")
    others: tuple[Callable[[], None], ...] = (
        lambda: program.symlink_to(tmp_path / "elsewhere"),
        lambda: os.mkfifo(program),
        program.mkdir,
    )
    for number, make in enumerate(others):
        make()
        assert run(check=True, **args)["program"] == {}
        program.rename(tmp_path / str(number))
