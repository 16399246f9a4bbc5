"""database_content: the program that opens what a hostile device has made, as the drill runs it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = (Path(__file__).parents[4] / "plugins/module_utils/database_content.py").read_text()


def program(code: str, request: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def check(path: Path, seconds: int = 30) -> dict[str, Any]:
    """Ask the program; it has to answer whatever it is given."""
    done = program(SOURCE, {"act": "check", "path": str(path), "seconds": seconds})
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    def make(*statements: str, name: str = "made.db") -> Path:
        path = tmp_path / name
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            for statement in statements:
                database.execute(statement)
        return path

    return make


def test_rows_are_counted_and_hashed(made: Callable[..., Path]) -> None:
    table = "CREATE TABLE t(a, b)"
    path = made(
        table, "INSERT INTO t VALUES (1, 'x'), (2.5, NULL)", "CREATE TABLE u(a PRIMARY KEY) WITHOUT ROWID"
    )
    told = check(path)
    assert told["integrity"] == ["ok"]
    assert (told["rows"], told["count"]) == (2, 2)
    assert told["tables"] == [{"name": "t", "rows": 2}, {"name": "u", "rows": 0}]
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        database.execute("VACUUM")
    assert check(copy)["checksum"] == told["checksum"], "it is of the content, not of the pages"


@pytest.mark.parametrize("value", ["'1'", "x'31'", "1.0", "NULL", "2"])
def test_another_value_has_another_checksum(made: Callable[..., Path], value: str) -> None:
    one, other = (
        made(f"CREATE TABLE t AS SELECT {each} AS a", name=f"{number}.db")
        for number, each in enumerate(["1", value])
    )
    assert check(one)["checksum"] != check(other)["checksum"]


def test_text_that_is_no_utf_8_is_read(made: Callable[..., Path]) -> None:
    path = made("CREATE TABLE t(a)", "INSERT INTO t VALUES (CAST(x'ff00fe' AS TEXT))")
    assert check(path)["rows"] == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no database at all\n" * 1000,
        b"SQLite format 3\0" + bytes(4080),
        b"SQLite format 3\0" + b"\xff" * 8176,
    ],
    ids=["empty", "text", "zeros", "ones"],
)
def test_what_is_no_database_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "none.db"
    path.write_bytes(content)
    told = check(path)
    assert "failed" in told or told["count"] == 0
    if content:
        assert told["failed"].startswith("SQLite says: ")


def test_whatever_is_damaged_there_is_an_answer(made: Callable[..., Path]) -> None:
    """Bytes of every kind of page are changed, at random but the same each time."""
    sound = made(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
        "CREATE INDEX i ON t(b)",
        "WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM n WHERE x < 2000) "
        "INSERT INTO t SELECT x, hex(randomblob(20)) FROM n",
    )
    whole = sound.read_bytes()
    draw, found = random.Random(7), 0  # noqa: S311
    for _each in range(12):
        damaged = bytearray(whole)
        for _byte in range(30):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        sound.write_bytes(damaged)
        told = check(sound)
        found += "failed" in told or told["integrity"] != ["ok"]
        assert len(json.dumps(told)) < 10_000
    assert found >= 10


def test_views_triggers_and_virtual_tables_are_not_run(made: Callable[..., Path]) -> None:
    path = made(
        "CREATE TABLE t(a)",
        "INSERT INTO t VALUES (1)",
        "CREATE VIEW v AS SELECT load_extension('/tmp/evil')",
        "CREATE VIEW w AS WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM n) SELECT x FROM n",
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT load_extension('/tmp/evil'); END",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "INSERT INTO f VALUES ('words')",
    )
    told = check(path)
    assert told["integrity"] == ["ok"]
    assert {"t", "f_data"} <= {table["name"] for table in told["tables"]}
    assert not {"v", "w", "f"} & {table["name"] for table in told["tables"]}


VIRTUAL = ("CREATE VIRTUAL TABLE f USING fts5(x)", "INSERT INTO f VALUES ('words')")


def test_virtual_tables_do_not_check_themselves(made: Callable[..., Path]) -> None:
    """From SQLite 3.44 on its own check would have them do so, and this one says that it is malformed.

    A table whose name is a number is no number of problems, with which all would be checked.
    """
    path = made(
        "CREATE TABLE t(a)", 'CREATE TABLE "5"(a)', *VIRTUAL, "UPDATE f_content SET c0 = 'other words'"
    )
    assert check(path)["integrity"] == ["ok"]


def test_what_is_damaged_beside_a_virtual_table_is_found(made: Callable[..., Path]) -> None:
    path = made("CREATE TABLE t(a)", "CREATE INDEX i ON t(a)", "INSERT INTO t VALUES (1), (2)", *VIRTUAL)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t(a DESC)' WHERE name = 'i'")
    assert check(path)["integrity"] != ["ok"]


@pytest.mark.parametrize(
    "expression",
    ["length(hex(zeroblob(450000000 + a)))", "length(replace(hex(zeroblob(30000000)), '0', 'ab' || a))"],
    ids=["memory", "time"],
)
def test_what_takes_too_much_ends(made: Callable[..., Path], expression: str) -> None:
    path = made("CREATE TABLE t(a, b AS (a))", "BEGIN", *["INSERT INTO t(a) VALUES (1)"] * 2000, "COMMIT")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_master SET sql = ?", (f"CREATE TABLE t(a, b AS ({expression}))",))
    # All of it would be two minutes, and this waits for one.
    done = program(SOURCE, {"act": "check", "path": str(path), "seconds": 1})
    if done.returncode == 0:
        assert json.loads(done.stdout)["failed"]
    else:
        assert done.returncode < 0, "the kernel has ended it"


def test_a_name_is_data(made: Callable[..., Path]) -> None:
    """Neither quotes nor what a terminal obeys; the one that is told is not longer than it may be."""
    names = ['a"; DROP TABLE t; --', "\x1b[2J\x07evil\u202e", "x" * 5000, "{{ lookup('pipe', 'id') }}"]
    quoted = [name.replace('"', '""') for name in names]
    told = check(made(*(f'CREATE TABLE "{name}"(a)' for name in quoted)))
    assert told["count"] == 4
    found = [table["name"] for table in told["tables"]]
    assert all(name.isprintable() and len(name) <= 100 for name in found)
    assert {"?[2J?evil?", names[0]} <= set(found)


def test_thousands_of_tables_make_no_long_answer(made: Callable[..., Path]) -> None:
    path = made("BEGIN", *(f"CREATE TABLE t{number}(a)" for number in range(1500)), "COMMIT")
    told = check(path)
    assert told["count"] == 1500
    assert len(told["tables"]) == 50


def test_a_schema_that_is_nonsense_is_told(made: Callable[..., Path]) -> None:
    path = made("CREATE TABLE t(a)")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE \x1b[2Jt('")
    said = check(path)["failed"]
    assert "malformed database schema" in said
    assert said.isprintable()


def test_it_can_do_nothing_to_this_machine(made: Callable[..., Path]) -> None:
    """What SQLite could be made to do once it reads: this is tried in its place."""
    path = made("CREATE TABLE t(a)")
    tried = """
import socket
def content(connection, deadline):
    said = {}
    def attempt(name, act):
        try:
            act()
            said[name] = "done"
        except Exception as error:
            said[name] = type(error).__name__
    attempt("open", lambda: open("/etc/hostname"))
    attempt("connect", socket.socket)
    attempt("pipe", os.pipe)
    attempt("lift", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    if os.geteuid():
        attempt("fork", os.fork)
    attempt("root", lambda: os.setuid(0))
    attempt("memory", lambda: bytearray(2 << 30))
    return {"said": said, "user": os.geteuid(), "groups": os.getgroups()}
"""
    code = SOURCE.replace("def check(", tried + "\n\ndef check(")
    done = program(code, {"act": "check", "path": str(path), "seconds": 30})
    told = json.loads(done.stdout)
    assert told["said"].pop("open") == "OSError"
    assert "done" not in told["said"].values(), told
    assert set(told["said"]) >= {"connect", "pipe", "lift", "memory"}
    if os.geteuid() == 0:
        assert (told["user"], told["groups"]) == (65534, [])
        assert told["said"]["root"] == "PermissionError"
        assert told["said"]["fork"] == "BlockingIOError"
