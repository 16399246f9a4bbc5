"""litestream_databases: shared with the group, whatever the application puts in a database's place."""

from __future__ import annotations

import grp
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
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
    deep = app.parent / "more/in"
    deep.mkdir(parents=True)
    (deep / "x.db").touch(mode=0o644)
    (deep / "other").touch(mode=0o644)
    args: dict[str, Any] = {
        "directories": dict.fromkeys([str(app), str(app.parent / "meta/a"), str(deep.parent)], GROUP),
        "searches": [search(app, "a.db", "a.db-wal", "a.db-shm"), search(deep.parent, "*.db", recurse=True)],
    }
    would = run(check=True, **args)
    assert would["changed"]
    assert mode(app / "a.db") == 0o644
    assert not (app.parent / "meta").exists()
    done = run(**args)
    assert set(would["shared"]) == set(done["shared"])
    assert {mode(file) for file in (app / "a.db", app / "a.db-wal", deep / "x.db")} == {0o660}
    assert {mode(path) for path in (app, app.parent / "meta/a", deep.parent, deep)} == {0o2770}
    assert {mode(file) for file in (app / "other", deep / "other")} == {0o644}
    assert run(**args) == {**done, "changed": False, "shared": []}


def test_a_group_that_is_not_there_yet_is_fine_in_check_mode_alone(run: Run, app: Path) -> None:
    args: dict[str, Any] = {"directories": {str(app): "no-such-group"}}
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
    done = run(directories={str(app): GROUP}, searches=[search(app, "a.db", "a.db-wal")])
    assert [str(app / "a.db") in sentence for sentence in done["refused"]] == [True]
    assert mode(precious) == 0o600
    assert mode(app / "a.db-wal") == 0o660, "the others are shared all the same"


@as_root
def test_a_second_name_that_is_gone_at_once_is_noticed(
    run: Run, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened by one of its two names, it has one when they are counted."""
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    (app / "a.db").unlink()
    (app / "a.db").hardlink_to(precious)
    real = os.fstat

    def raced(descriptor: int) -> os.stat_result:
        if os.path.samestat(real(descriptor), precious.stat()):
            (app / "a.db").unlink(missing_ok=True)
            (app / "a.db").touch()
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", raced)
    done = run(directories={str(app): GROUP}, searches=[search(app, "a.db")])
    assert "it was exchanged while it was looked at" in done["refused"][0]
    assert mode(precious) == 0o600


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
    done = run(directories={str(app): GROUP}, searches=[search(app, "a.db")])
    assert "failed" not in done
    assert mode(precious) == 0o600
    assert len(done["refused"]) == (0 if gone else 1)


def test_a_file_exchanged_while_it_is_open_is_not_touched(
    run: Run, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    real = litestream_databases.Sharing.share

    def raced(self: Any, descriptor: int, path: str, group: int, wanted: int) -> None:
        if path == str(app / "a.db"):
            (app / "a.db").unlink()
            (app / "a.db").symlink_to(precious)
        real(self, descriptor, path, group, wanted)

    monkeypatch.setattr(litestream_databases.Sharing, "share", raced)
    run(directories={str(app): GROUP}, searches=[search(app, "a.db")])
    assert mode(precious) == 0o600


@as_root
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", ["owner", "group", "others", "sticky"])
def test_a_directory_that_others_could_exchange_is_refused(
    run: Run, tmp_path: Path, kind: str, check: bool
) -> None:
    """Whoever may write above puts another application's directory, or a link, in its place."""
    home = tmp_path / "home"
    (home / "app").mkdir(parents=True)
    (home / "app/a.db").touch(mode=0o600)
    if kind == "owner":
        os.chown(home, NOBODY, NOBODY)
    else:
        home.chmod({"group": 0o775, "others": 0o777, "sticky": 0o1777}[kind])
    if kind == "sticky":
        os.chown(home / "app", NOBODY, NOBODY)
    for path in (home / "app", home / "new", home / "app/more/deeper"):
        done = run(check=check, directories={str(path): GROUP}, searches=[search(path, "a.db")])
        assert f"{path} is below {home}" in done["msg"]
    assert mode(home / "app/a.db") == 0o600
    assert [path.name for path in home.iterdir()] == ["app"]


@as_root
def test_the_way_to_a_directory_may_lead_over_roots_links(run: Run, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    assert "failed" not in run(directories={str(tmp_path / "data"): GROUP})
    assert mode(tmp_path / "disk") == 0o2770


@as_root
def test_a_race_with_the_application_is_never_lost(run: Run, app: Path, tmp_path: Path) -> None:
    """A thread exchanges the database for a link to what is not the application's, and back.

    Not for a second name: the kernel gives none to whoever may not write the file (fs.protected_hardlinks).
    """
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    os.chown(app, NOBODY, NOBODY)
    ended = threading.Event()

    def exchange() -> None:
        spare = app / "spare"
        while not ended.is_set():
            spare.touch()
            spare.replace(app / "a.db")
            spare.symlink_to(precious)
            spare.replace(app / "a.db")

    racer = threading.Thread(target=exchange)
    racer.start()
    try:
        for _ in range(200):
            assert "failed" not in run(directories={str(app): GROUP}, searches=[search(app, "a.db")])
            assert (mode(precious), precious.stat().st_gid) == (0o600, os.getgid())
    finally:
        ended.set()
        racer.join()


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="a"):
        descriptors.open_directory(str(tmp_path / "a"))


LITESTREAM = shutil.which("litestream")
OPEN = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select x from t').fetchall())"


@as_root
@pytest.mark.skipif(LITESTREAM is None, reason="needs Litestream")
def test_an_application_reads_no_others_database_while_both_are_replicated(run: Run) -> None:
    """Real users: two applications, each with a group of its own, and Litestream in both groups."""
    users = {"a": 64001, "b": 64002, "litestream": 64003}
    # Two groups that every Debian has, and nobody else is in on the machine that tests.
    groups = {"a": grp.getgrnam("games").gr_gid, "b": grp.getgrnam("news").gr_gid}

    def as_user(name: str, *command: str) -> subprocess.CompletedProcess[str]:
        member = [str(groups[name])] if name in groups else [str(gid) for gid in groups.values()]
        become = ["setpriv", f"--reuid={users[name]}", f"--regid={member[0]}", f"--groups={','.join(member)}"]
        return subprocess.run([*become, *command], capture_output=True, text=True, timeout=60, check=False)

    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        for app in "ab":
            (top / app).mkdir()
            connection = sqlite3.connect(top / app / "app.db")
            connection.executescript(f"PRAGMA journal_mode=wal; CREATE TABLE t AS SELECT '{app}' AS x")
            connection.close()
            os.chown(top / app, users[app], -1)
            os.chown(top / app / "app.db", users[app], -1)
        names = {app: grp.getgrgid(gid).gr_name for app, gid in groups.items()}
        run(
            directories={str(top / app): names[app] for app in "ab"},
            searches=[search(top / app, "app.db") for app in "ab"],
        )
        replicas = top / "replicas"
        replicas.mkdir()
        os.chown(replicas, users["litestream"], -1)
        dbs = [
            {"path": str(top / app / "app.db"), "replica": {"type": "file", "path": str(replicas / app)}}
            for app in "ab"
        ]
        (top / "litestream.yml").write_text(json.dumps({"dbs": dbs}))
        done = as_user(
            "litestream", str(LITESTREAM), "replicate", "-once", "-config", str(top / "litestream.yml")
        )
        assert done.returncode == 0, done.stderr
        assert all(any((replicas / app).rglob("*.ltx")) for app in "ab")
        for app, other in ("ab", "ba"):
            assert as_user(app, "python3", "-c", OPEN, str(top / app / "app.db")).stdout == f"[('{app}',)]\n"
            for path in (top / other / "app.db", replicas / other):
                assert as_user(app, "python3", "-c", OPEN, str(path)).returncode != 0
            assert as_user(app, "ls", str(top / other)).returncode != 0
