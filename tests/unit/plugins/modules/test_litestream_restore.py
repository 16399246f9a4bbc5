"""litestream_restore: with the real Litestream, from a replica in a directory; the application is hostile."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils import litestream_config as ls
from ansible_collections.edge_litestream.appliance.plugins.modules import litestream_restore as restore

Run = Callable[..., dict[str, Any]]
LITESTREAM = shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))
pytestmark = [
    pytest.mark.skipif(not Path(LITESTREAM).exists(), reason="needs Litestream"),
    pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users"),
]
NOBODY = pwd.getpwnam("nobody").pw_uid
UNIT = {"User": ["root"], "Group": [grp.getgrgid(0).gr_name]}


def fill(path: Path, *rows: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS t(x)")
        database.executemany("INSERT INTO t VALUES (?)", [(row,) for row in rows])


def rows(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        return [row[0] for row in database.execute("SELECT x FROM t ORDER BY rowid")]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    app = tmp_path / "app"
    app.mkdir()
    app.chmod(0o2770)
    return {"dbs": [{"path": str(app / "a b.db"), "replica": {"path": str(tmp_path / "replica")}}]}


@pytest.fixture
def path(config: dict[str, Any], tmp_path: Path) -> Path:
    """A database with a replica of two rows, and a third row that is not replicated. It is nobody's."""
    path = Path(config["dbs"][0]["path"])
    fill(path, "one", "two")
    known = tmp_path / "replicate.yml"
    known.write_text(f"dbs: [{{path: '{path}', replica: {{type: file, path: '{tmp_path}/replica'}}}}]\n")
    command = [LITESTREAM, "replicate", "-once", "-config", str(known)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    fill(path, "three")
    os.chown(path, NOBODY, 0)
    os.chown(path.parent, NOBODY, 0)
    return path


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No systemd here: commands run in their directory, as they are."""
    monkeypatch.setattr(restore, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(restore, "unit_properties", lambda unit: UNIT)
    monkeypatch.setattr(restore, "starters", lambda: ["litestream.path"])
    monkeypatch.setattr(
        restore, "transient", lambda unit, directory, network: ["env", f"--chdir={directory}"]
    )
    yield
    assert not list(tmp_path.rglob(restore.WORK)), "nothing is left of the work"


def args(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"config": config, "program": LITESTREAM, **more}


def test_the_replica_takes_the_databases_place(run: Run, config: dict[str, Any], path: Path) -> None:
    would = run(check=True, **args(config))
    assert (would["changed"], would["database"], would["aside"]) == (True, str(path), "")
    assert would["starters"] == ["litestream.path"]
    assert rows(path) == ["one", "two", "three"]
    done = run(**args(config))
    assert "failed" not in done, done
    assert rows(path) == ["one", "two"]
    info = path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, info.st_nlink) == (NOBODY, 0, 0o660, 1)
    aside = Path(done["aside"])
    assert aside.name.startswith("a b.db.before-")
    assert rows(aside / "a b.db") == ["one", "two", "three"], "the old one is kept"
    assert {entry.name for entry in aside.iterdir()} >= {"a b.db", ".a b.db-litestream"}
    assert {entry.name for entry in path.parent.iterdir()} == {"a b.db", aside.name}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same file system", "another one"])
def test_litestreams_own_files_go_with_it(
    run: Run, config: dict[str, Any], path: Path, tmp_path: Path, elsewhere: bool
) -> None:
    """They are of the old database, and Litestream must not go on with them."""
    meta = Path("/dev/shm") if elsewhere else tmp_path  # noqa: S108
    if elsewhere and meta.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    meta /= f"meta-{os.getpid()}"
    try:
        (meta / "ltx/0").mkdir(parents=True)
        os.chown(meta, NOBODY, 0)
        config["dbs"][0]["meta-path"] = str(meta)
        done = run(**args(config))
        assert "failed" not in done, done
        aside = Path(done["aside"])
        kept = meta / aside.name if elsewhere else aside
        assert (kept / "ltx/0").is_dir()
        assert not (meta / "ltx").exists()
        assert rows(aside / path.name) == ["one", "two", "three"]
        assert not elsewhere or kept.stat().st_uid == NOBODY, "Litestream looks through all of it"
    finally:
        shutil.rmtree(meta)


def test_litestreams_own_files_are_where_they_are_looked_for(tmp_path: Path) -> None:
    """By the real Litestream, with what the role writes: nothing is beside the databases."""
    state, paths = tmp_path / "state", []
    for name in ("one/a.db", "flat/b.db", "deep/in/c.db"):
        paths.append(tmp_path / name)
        paths[-1].parent.mkdir(parents=True)
        fill(paths[-1], name)
    replica = {"type": "file", "path": str(tmp_path / "replica")}
    config = {
        "dbs": [
            {"path": str(paths[0]), "replica": replica | {"path": str(tmp_path / "other")}},
            {"dir": str(tmp_path / "flat"), "pattern": "*.db", "replica": replica},
            {"dir": f"{tmp_path}/deep/", "pattern": "*.db", "recursive": True, "replica": replica},
        ]
    }
    written = ls.render(config, "0.5.17", meta=str(state)) | {"addr": "", "socket": {"enabled": False}}
    known = tmp_path / "litestream.yml"
    known.write_text(json.dumps(written))
    command = [LITESTREAM, "replicate", "-once", "-config", str(known)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for path, entry in zip(paths, written["dbs"], strict=True):
        place, name = ls.meta(entry, str(path))
        assert Path(place, name).is_relative_to(state)
        assert list(Path(place, name, "ltx/0").iterdir())
        assert {one.name for one in path.parent.iterdir()} <= {
            path.name,
            f"{path.name}-wal",
            f"{path.name}-shm",
        }


def test_a_database_that_is_gone_comes_back(run: Run, config: dict[str, Any], path: Path) -> None:
    for entry in path.parent.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    done = run(**args(config))
    assert done["aside"] == ""
    assert rows(path) == ["one", "two"]
    assert path.stat().st_uid == NOBODY, "its directory's owner"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another group")
def test_what_is_restored_belongs_to_the_directorys_group(
    run: Run, config: dict[str, Any], path: Path
) -> None:
    """Each application has one of its own; the old database may have been a copy that root made."""
    os.chown(path.parent, NOBODY, NOBODY)
    path.parent.chmod(0o2770)
    assert "failed" not in run(**args(config))
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)


def test_a_failure_leaves_everything_as_it_is(run: Run, config: dict[str, Any], path: Path) -> None:
    before = sorted(entry.name for entry in path.parent.iterdir())
    done = run(**args(config, timestamp="2001-01-01T00:00:00Z"))
    assert "Litestream could not restore it: " in done["msg"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == before
    assert rows(path) == ["one", "two", "three"]


def test_a_damaged_replica_is_refused(run: Run, config: dict[str, Any], path: Path, tmp_path: Path) -> None:
    fake = tmp_path / "litestream"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho damaged >"$2"\n')
    fake.chmod(0o755)
    done = run(**args(config, program=str(fake)))
    assert "the restored database is damaged" in done["msg"]
    assert rows(path) == ["one", "two", "three"]


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_what_litestream_leaves_is_not_followed(
    run: Run, config: dict[str, Any], path: Path, tmp_path: Path, kind: str
) -> None:
    """Root would give the file that it leads to to the application."""
    precious = tmp_path / "precious"
    shutil.copy(path, precious)
    precious.chmod(0o600)
    fake = tmp_path / "litestream"
    word = "ln -s" if kind == "symlink" else "ln"
    fake.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{word} {precious} "$2"\n')
    fake.chmod(0o755)
    assert "Litestream left no database" in run(**args(config, program=str(fake)))["msg"]
    assert (precious.stat().st_uid, precious.stat().st_mode & 0o777) == (0, 0o600)


def test_whoever_has_it_open_is_named(run: Run, config: dict[str, Any], path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], stdin=path.open("rb")) as user:
        done = run(**args(config))
        user.kill()
    assert f"is open in sleep ({user.pid})" in done["msg"]
    assert rows(path) == ["one", "two", "three"]


def test_whoever_is_not_stopped_is_named_before_anything_is(
    run: Run, config: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that the restore stops may have it open, and no other; without units nobody is looked for."""
    with subprocess.Popen(["sleep", "60"], stdin=path.open("rb")) as user:
        of = ["system.slice", "other.service"]
        monkeypatch.setattr(restore, "groups", lambda pid: of if pid == str(user.pid) else [])
        refused = run(check=True, **args(config, units=["app.service"]))
        allowed = run(check=True, **args(config, units=["app.service", "other.service"]))
        of = ["litestream.service"]
        litestream = run(check=True, **args(config, units=[]))
        of = ["other.service"]
        unasked = run(check=True, **args(config))
        user.kill()
    assert (
        f"is open in sleep ({user.pid}) of other.service: name its unit in edge_databases" in refused["msg"]
    )
    assert not any("failed" in each for each in (allowed, litestream, unasked))


def test_a_process_tells_its_units() -> None:
    assert all(unit.endswith((".service", ".scope")) for unit in restore.groups(str(os.getpid())))


@pytest.mark.parametrize(
    ("there", "verdict"),
    [
        (None, "restored"),
        ([], "restored"),
        (["one"], "differs"),
        (["one", "two"], "same"),
        (["two", "one"], "same"),
        (["one", "two", "three"], "newer"),
        (["one", "two", "two"], "newer"),
        (["one", "one"], "differs"),
        (["one", "TWO"], "differs"),
        (["one", "three"], "differs"),
        (["three"], "differs"),
    ],
    ids=str,
)
def test_only_what_has_nothing_of_its_own_is_replaced_by_itself(
    run: Run, config: dict[str, Any], path: Path, there: list[str] | None, verdict: str
) -> None:
    """The replica has one and two; the application was killed, and its rows are in the log alone."""
    for entry in path.parent.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if there is not None:
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t(x)")
        writer.executemany("INSERT INTO t VALUES (?)", [(row,) for row in there])
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{suffix}", path.parent.parent / f"kept{suffix}")
        writer.close()
        for suffix in ("", "-wal", "-shm"):
            shutil.move(path.parent.parent / f"kept{suffix}", f"{path}{suffix}")
    done = run(**args(config, over=False))
    assert (done["verdict"], done["changed"]) == (verdict, verdict == "restored"), done
    with contextlib.closing(sqlite3.connect(path)) as database:
        now = [row[0] for row in database.execute("SELECT x FROM t ORDER BY rowid")]
    assert now == (["one", "two"] if verdict == "restored" else there)
    assert bool(done.get("aside")) == (verdict == "restored" and there is not None)


@pytest.mark.parametrize("content", [b"no database at all\n" * 500, b"SQLite format 3\0" + b"\xff" * 8176])
def test_what_is_damaged_goes_aside(run: Run, config: dict[str, Any], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    done = run(**args(config, over=False))
    assert (done["verdict"], rows(path)) == ("restored", ["one", "two"]), done
    assert (Path(done["aside"]) / path.name).read_bytes() == content


def test_what_cannot_be_compared_stays(run: Run, config: dict[str, Any], path: Path) -> None:
    """It is no damage that this SQLite does not understand a schema."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE t(x) OF THE FUTURE'")
    content = path.read_bytes()
    assert f"{path} cannot be compared with the replica" in run(**args(config, over=False))["msg"]
    assert path.read_bytes() == content
    assert run(**args(config))["verdict"] == "restored"


@pytest.mark.parametrize(
    ("schema", "replica", "present", "verdict"),
    [
        ("q(x)", ["a", "b"], ["a"], "differs"),
        ("q(x)", ["a", "a"], ["a", "b"], "differs"),
        ("q(x)", [1], [1.0], "differs"),
        ("q(x COLLATE NOCASE)", ["abc"], ["ABC"], "differs"),
        ("q(x COLLATE NOCASE)", ["abc", "ABC"], ["ABC", "abc"], "same"),
        ("q(x PRIMARY KEY) WITHOUT ROWID", ["a"], ["b"], "differs"),
        ("q(x, y AS (x || x), c0 DEFAULT 7)", ["a"], ["a", "b"], "newer"),
    ],
    ids=str,
)
def test_rows_are_compared_as_they_are(
    tmp_path: Path, schema: str, replica: list[Any], present: list[Any], verdict: str
) -> None:
    """What was deleted, or written over, on the device does not come back by itself."""
    for name, some in (("replica", replica), ("present", present)):
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database, database:
            database.execute(f"CREATE TABLE {schema}")
            database.execute("CREATE TABLE _litestream_seq(id, seq)")
            database.execute("INSERT INTO _litestream_seq VALUES (1, random())")
            database.executemany("INSERT INTO q(x) VALUES (?)", [(one,) for one in some])
    assert restore.compared(UNIT, str(tmp_path / "replica"), str(tmp_path / "present")) == verdict


def test_tables_that_differ_are_compared(run: Run, config: dict[str, Any], path: Path) -> None:
    """Something new is more than the replica has, and something that is gone is less."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM t WHERE x = 'three'")
    assert run(**args(config, over=False))["verdict"] == "same"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE new(a, b)")
        database.execute("CREATE VIEW v AS SELECT load_extension('/tmp/evil')")
    assert run(**args(config, over=False))["verdict"] == "newer"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO new VALUES (1, 2)")
        database.execute("DROP TABLE t")
    assert run(**args(config, over=False))["verdict"] == "differs"


def test_a_database_made_anew_meanwhile_is_left_alone(
    run: Run, config: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = restore.put_aside

    def raced(*given: Any) -> bool:
        moved = bool(real(*given))
        path.write_text("anew")
        return moved

    monkeypatch.setattr(restore, "put_aside", raced)
    done = run(**args(config))
    assert all(part in done["msg"] for part in (str(path), ".before-", "restore_units", "made anew"))
    assert path.read_text() == "anew"


def test_the_old_one_being_a_link_moves_the_link(
    run: Run, config: dict[str, Any], path: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    path.unlink()
    path.symlink_to(precious)
    done = run(**args(config))
    assert "failed" not in done, done
    assert (precious.stat().st_uid, precious.stat().st_mode & 0o777) == (0, 0o600)
    assert (Path(done["aside"]) / path.name).is_symlink()
    assert rows(path) == ["one", "two"]


def test_a_directory_exchanged_for_a_link_is_refused(
    run: Run, config: dict[str, Any], path: Path, tmp_path: Path
) -> None:
    os.chown(tmp_path, NOBODY, 0)
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to("elsewhere")
    assert "is a link that others than root can change" in run(**args(config))["msg"]


def test_another_file_system_gets_a_copy_of_no_name(
    run: Run, config: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The application owns all above its database: the work is done elsewhere."""
    memory = Path("/dev/shm")  # noqa: S108
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    fallback = memory / f"restore-{os.getpid()}"
    fallback.mkdir(mode=0o755)
    try:
        os.chown(tmp_path, NOBODY, 0)
        monkeypatch.setattr(restore, "FALLBACK", str(fallback))
        assert restore.work_base(str(path.parent)) == str(fallback)
        done = run(**args(config))
        assert "failed" not in done, done
        assert rows(path) == ["one", "two"]
        info = path.stat()
        assert (info.st_uid, info.st_mode & 0o7777, info.st_nlink) == (NOBODY, 0o660, 1)
    finally:
        shutil.rmtree(fallback)


def test_one_restore_at_a_time(run: Run, config: dict[str, Any], path: Path, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        ["flock", "--no-fork", tmp_path / "lock", "sh", "-c", "echo held; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    (tmp_path / "lock").write_text("/x.db, since 2026-11-28T10:00:00Z, process 7\n")
    try:
        for check in (True, False):
            said = run(check=check, **args(config))["msg"]
            assert "under way on this device (/x.db, since 2026-11-28T10:00:00Z, process 7)" in said
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert rows(path) == ["one", "two", "three"]
    assert "failed" not in run(check=True, **args(config))
    assert "failed" not in run(**args(config))
    told = (tmp_path / "lock").read_text()
    assert told.startswith(f"{path}, since 2")
    assert "process 7" not in told


def test_what_an_interrupted_run_left_does_not_matter(
    run: Run, config: dict[str, Any], path: Path, tmp_path: Path
) -> None:
    left = Path(restore.work_base(str(path.parent))) / restore.WORK / "out"
    left.mkdir(parents=True)
    (left / "database").write_text("half")
    assert "failed" not in run(**args(config))
    assert rows(path) == ["one", "two"]


def test_a_choice_that_is_none_is_named(run: Run, config: dict[str, Any], path: Path) -> None:
    done = run(check=True, **args(config, database="/var/lib/other.db"))
    assert done["msg"] == f"restore_database is '/var/lib/other.db': give one of {path}."
