"""litestream_databases: shared with the group, whatever the application puts in a database's place."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors
from ansible_collections.edge_litestream.appliance.plugins.modules import litestream_databases

Run = Callable[..., dict[str, Any]]
GROUP = grp.getgrgid(os.getgid()).gr_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
NOBODY = 65534


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def search(directory: Path, *patterns: str, recurse: bool = False) -> dict[str, Any]:
    return {"paths": str(directory), "patterns": list(patterns), "recurse": recurse}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An application that already runs: its files are its own."""
    directory = tmp_path / "app"
    directory.mkdir()
    for name in ("a.db", "a.db-wal", "other"):
        (directory / name).touch(mode=0o644)
    return directory


def test_databases_of_an_application_that_already_runs_are_shared(run: Run, app: Path) -> None:
    deep = app / "more/in"
    deep.mkdir(parents=True)
    (deep / "x.db").touch(mode=0o644)
    (deep / "other").touch(mode=0o644)
    args: dict[str, Any] = {
        "group": GROUP,
        "directories": [str(app), str(app.parent / "meta/a")],
        "searches": [search(app, "a.db", "a.db-wal", "a.db-shm"), search(app / "more", "*.db", recurse=True)],
    }
    would = run(check=True, **args)
    assert would["changed"]
    assert mode(app / "a.db") == 0o644
    assert not (app.parent / "meta").exists()
    done = run(**args)
    assert set(would["shared"]) == set(done["shared"])
    assert {mode(file) for file in (app / "a.db", app / "a.db-wal", deep / "x.db")} == {0o660}
    assert {mode(path) for path in (app, app.parent / "meta/a", deep)} == {0o2770}
    assert {mode(file) for file in (app / "other", deep / "other")} == {0o644}
    assert mode(app / "more") & 0o2000 == 0, "it holds no database and was not named"
    assert run(**args) == {**done, "changed": False, "shared": []}


def test_a_group_that_is_not_there_yet_is_fine_in_check_mode_alone(run: Run, app: Path) -> None:
    args: dict[str, Any] = {"group": "no-such-group", "directories": [str(app)]}
    assert run(check=True, **args)["changed"]
    assert "make it first" in run(**args)["msg"]


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo"])
def test_what_is_no_database_is_left_alone(run: Run, app: Path, tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    (app / "a.db").unlink()
    if kind == "symlink":
        (app / "a.db").symlink_to(precious)
    elif kind == "hardlink":
        (app / "a.db").hardlink_to(precious)
    else:
        os.mkfifo(app / "a.db", 0o600)
    done = run(group=GROUP, searches=[search(app, "a.db", "a.db-wal")])
    assert [str(app / "a.db") in sentence for sentence in done["refused"]] == [True]
    assert mode(precious) == 0o600
    assert mode(app / "a.db-wal") == 0o660, "the others are shared all the same"


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_exchanged_after_the_look_is_not_followed(
    run: Run, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """The application wins every race: the exchange comes right after the list of names was made."""
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    real = descriptors.below

    def raced(*args: Any) -> Any:
        for found in real(*args):
            (app / "a.db").unlink()
            if not gone:
                (app / "a.db").symlink_to(precious)
            yield found

    monkeypatch.setattr(descriptors, "below", raced)
    done = run(group=GROUP, searches=[search(app, "a.db")])
    assert "failed" not in done
    assert mode(precious) == 0o600
    assert len(done["refused"]) == (0 if gone else 1)


def test_a_file_exchanged_while_it_is_open_is_not_touched(
    run: Run, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    real = litestream_databases.Sharing.share

    def raced(self: Any, descriptor: int, path: str, wanted: int) -> None:
        (app / "a.db").unlink()
        (app / "a.db").symlink_to(precious)
        real(self, descriptor, path, wanted)

    monkeypatch.setattr(litestream_databases.Sharing, "share", raced)
    run(group=GROUP, searches=[search(app, "a.db")])
    assert mode(precious) == 0o600


@as_root
def test_a_directory_exchanged_for_a_link_is_not_shared(run: Run, tmp_path: Path) -> None:
    """The application owns what is above: it leads to a directory of somebody else's."""
    home, precious = tmp_path / "home", tmp_path / "precious"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    precious.mkdir(mode=0o700)
    (home / "app").symlink_to(precious)
    done = run(group=GROUP, directories=[str(home / "app")])
    assert "is a link that others than root can change" in done["msg"]
    assert mode(precious) == 0o700
    # Root's own link in a directory of root's is an administrator's choice.
    (tmp_path / "data").symlink_to("precious")
    assert "failed" not in run(group=GROUP, directories=[str(tmp_path / "data")])
    assert mode(precious) == 0o2770


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="a"):
        descriptors.open_directory(str(tmp_path / "a"))
