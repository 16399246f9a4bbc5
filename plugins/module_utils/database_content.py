# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Check a SQLite database that somebody else has made, and hash what is in it.

This file is a program as well, which a process of its own runs with nothing but the standard library: a
database can be made to do harm to whoever opens it. The question is JSON on standard input, the answer JSON
on standard output. `failed` in it says why there is nothing else.

The hash is of schema, settings and rows, the same wherever they are: on a device, and in what was restored.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import resource
import sqlite3
import struct
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

NOBODY = 65534
MEMORY_BYTES = 1 << 30
ANSWER_BYTES = 1 << 20  # what is printed is no larger
PROBLEMS = 10  # of SQLite's own check
TABLES = 50  # that are told one by one
NAME_SIGNS = 100
POLL_S = 0.005
LTX = re.compile(r"[0-9a-f]{16}-([0-9a-f]{16})[.]ltx")
LTX_HEADER_BYTES = 100
WAL_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
SHM_HEADER_BYTES = 48  # the wal-index begins with two copies of it


class ContentError(Exception):
    """Why a database cannot be read as it should be."""


class BehindError(ContentError):
    """Litestream has not read all of a database."""


def plain(text: object, most: int = 300) -> str:
    """Return a text without what a terminal would obey, and not longer than so many characters."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text)[:most])


def settle(request: dict[str, Any]) -> None:
    """Take limits upon this process that it cannot lift again."""
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, ANSWER_BYTES),
        (resource.RLIMIT_CPU, int(request["seconds"]) + 1),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NPROC, 0),
    ]
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))


def shut() -> None:
    """Be nobody, and open nothing any more: no file, no connection."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def connect(path: str, options: str) -> sqlite3.Connection:
    """Open a database; SQLite reads of it no more than its first 100 bytes yet."""
    name = f"file:{urllib.parse.quote(path)}?{options}"
    connection = sqlite3.connect(name, uri=True, isolation_level=None)
    # Text that is no UTF-8 is told apart, too.
    connection.text_factory = lambda value: value.decode("utf-8", "surrogateescape")
    return connection


def distrust(connection: sqlite3.Connection, deadline: float) -> None:
    """Have SQLite believe nothing that the database says, and give up in time."""
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100000)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "temp_store=MEMORY", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")


def quoted(name: str) -> str:
    """Write a name as SQL does."""
    return '"' + name.replace('"', '""') + '"'


def tables(connection: sqlite3.Connection) -> list[str]:
    """Name the tables that have pages of their own.

    Others, views and virtual tables, would run code; their content is in these.
    """
    named = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY 1"
    return [name for (name,) in connection.execute(named)]


def integrity(connection: sqlite3.Connection) -> list[str]:
    """Have SQLite check the database; return what is wrong, or `ok` alone.

    From 3.44 on its check of a whole database has virtual tables check themselves, which runs their code. So
    where there are some, each of the others is checked alone: pages that are nobody's are not looked at then.
    """
    virtual = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage = 0"
    checks = [str(PROBLEMS)]
    if connection.execute(virtual).fetchone()[0]:
        checks = [quoted(name) for name in tables(connection)]
    found = [
        plain(problem)
        for check in checks
        for (problem,) in connection.execute(f"PRAGMA integrity_check({check})").fetchmany(PROBLEMS)
        if problem != "ok"
    ]
    return found[:PROBLEMS] or ["ok"]


def content(connection: sqlite3.Connection, deadline: float) -> dict[str, Any]:
    """Hash schema and rows of every table; tell how many rows there are."""
    digest = hashlib.sha256()
    for pragma in ("user_version", "application_id", "encoding"):
        digest.update(ascii(connection.execute(f"PRAGMA {pragma}").fetchone()).encode())
    schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2, 3")
    for entry in schema:
        digest.update(ascii(entry).encode())
    counted: dict[str, int] = {}
    for name in tables(connection):
        digest.update(ascii(name).encode())
        counted[name] = 0
        # In the order of the table itself, whatever indexes there are.
        rows = connection.execute(f"SELECT * FROM {quoted(name)} NOT INDEXED")  # noqa: S608 - quoted
        # One by one: a row may have a photograph, and a device little memory.
        for row in rows:
            counted[name] += 1
            digest.update(ascii(row).encode())
            if time.monotonic() > deadline:
                raise ContentError("it takes too long to read it")
    told = [{"name": plain(name, NAME_SIGNS), "rows": rows} for name, rows in counted.items()][:TABLES]
    return {
        "checksum": digest.hexdigest(),
        "rows": sum(counted.values()),
        "tables": told,
        "count": len(counted),
    }


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Check a restored database that nobody else uses: SQLite's own check, and its content."""
    deadline = time.monotonic() + request["seconds"]
    settle(request)
    connection = connect(request["path"], "mode=ro&immutable=1")
    shut()
    distrust(connection, deadline)
    found = integrity(connection)
    if found != ["ok"]:
        return {"integrity": found}
    return {"integrity": found, **content(connection, deadline)}


def ends(ltx: str) -> tuple[int, bytes]:
    """Where in the log one of Litestream's files ends, and the salts of the log as it was then."""
    with open(ltx, "rb") as file:
        header = file.read(LTX_HEADER_BYTES)
    if len(header) < LTX_HEADER_BYTES or not header.startswith(b"LTX1"):
        raise ContentError("Litestream's own files are not of a kind that is known here")
    start, size = struct.unpack(">QQ", header[48:64])
    return start + size, header[64:72]


def committed(shared: int) -> tuple[int, bytes, bytes] | None:
    """Where the log ends, its salts, and all of SQLite's header of it; None while somebody writes that."""
    both = os.pread(shared, 2 * SHM_HEADER_BYTES, 0)
    header = both[:SHM_HEADER_BYTES]
    if len(both) < 2 * SHM_HEADER_BYTES or header != both[SHM_HEADER_BYTES:]:
        return None
    page, frames = struct.unpack("=H", header[14:16])[0], struct.unpack("=I", header[16:20])[0]
    page = 65536 if page == 1 else page  # as SQLite writes it
    # The salts are there as in the log, byte by byte.
    return WAL_HEADER_BYTES + frames * (FRAME_HEADER_BYTES + page), header[32:40], header


def newest(directory: str) -> tuple[str, str]:
    """Name and transaction of the newest of Litestream's files of the lowest level."""
    found = [(match[1], match[0]) for match in map(LTX.fullmatch, os.listdir(directory)) if match]
    if not found:
        raise ContentError("Litestream has not read it yet")
    txid, name = max(found)
    return os.path.join(directory, name), txid


def snapshot(connection: sqlite3.Connection, shared: int, ltx: str, deadline: float) -> str:
    """Begin to read what is exactly one of Litestream's transactions; return that.

    Litestream reads the log about once a second, all that was committed until then. So this waits for it, and
    looks at once: nobody who writes is kept waiting. Where the log has grown meanwhile, it is tried again.
    """
    tried = ""
    while time.monotonic() < deadline:
        file, txid = newest(ltx)
        if txid != tried:
            tried = txid
            before = committed(shared)
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            after = committed(shared)
            if before and after and before == after and before[:2] == ends(file):
                return txid
            connection.execute("ROLLBACK")
        time.sleep(POLL_S)
    raise BehindError("too busy to compare: at no moment had Litestream all that was written")


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Hash a database that is in use as of one of Litestream's transactions."""
    path, begin = request["path"], time.monotonic()
    # Closed at the end alone: to close it would take SQLite's locks away, which are this process' as well.
    shared = os.open(path + "-shm", os.O_RDONLY | os.O_NOFOLLOW)
    connection = connect(path, "mode=ro")
    deadline = begin + request["seconds"]
    distrust(connection, deadline)
    txid = snapshot(connection, shared, os.path.join(request["meta"], "ltx", "0"), begin + request["wait"])
    waited = time.monotonic() - begin
    found = content(connection, deadline)
    return {"txid": txid, "checksum": found["checksum"], "waited_s": round(waited, 2)}


def names(request: dict[str, Any]) -> dict[str, Any]:
    """Find the databases that a pattern means."""
    found: Iterator[str] = glob.iglob(request["pattern"], recursive=True)
    most = request["most"]
    return {"paths": [path for path, _number in zip(found, range(most), strict=False)]}


ACTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "check": check,
    "compare": compare,
    "names": names,
}


def main() -> None:
    """Answer the question on standard input."""
    request = json.load(sys.stdin)
    told: dict[str, Any]
    try:
        told = ACTS[request["act"]](request)
    except MemoryError:
        told = {"failed": f"it takes more than {MEMORY_BYTES >> 20} MiB of memory to read it"}
    except sqlite3.OperationalError as error:
        slow = str(error) == "interrupted"
        told = {"failed": "it takes too long to read it" if slow else f"SQLite says: {plain(error)}"}
    except (sqlite3.Error, ContentError, OSError, ValueError) as error:
        said = isinstance(error, sqlite3.Error)
        told = {"failed": f"SQLite says: {plain(error)}" if said else plain(error)}
        if isinstance(error, BehindError):
            told["behind"] = True
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
