#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Bring a database back from its replica, beside an application that cannot be trusted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_restore
short_description: Bring a database back from its replica
version_added: 2.0.0
description:
  - Restores a database as Litestream's unit would, with its user, environment and credentials, in a sandbox
    of its own. The same user checks it there, since root parses no database that a device or a bucket made.
  - Works in a directory of root's that the application cannot enter, on the file system of the database
    where there is one, else below C(/var/lib). There must be room for a second copy.
  - The old database and what belongs to it are moved aside, never deleted, into C(DATABASE.before-TIME), or
    C(DIR.before-TIME) for a database of a C(dir). Litestream's own files stay in a directory of that name
    where they are, if that is another file system. Then the new one takes its place, with the old one's owner
    and mode 0660.
  - Before that nothing is changed. What fails leaves the old database where it is.
  - Without O(over) a database is replaced where it is damaged or has no row in any table. Otherwise it stays,
    since what it lacks may have been deleted on purpose. Both are compared row by row.
  - Stops and starts no unit. It fails when a process has the database open, and when an application
    has made a new one meanwhile; the new one is left alone.
options:
  config:
    description: Content of the device's litestream.yml.
    type: dict
    required: true
  database:
    description: Path of the database. Empty for the only one. One of a C(dir) has to be named.
    type: str
    default: ""
  timestamp:
    description: Point in time, like V(2026-11-22T10:00:00Z). Empty for the latest.
    type: str
    default: ""
  over:
    description: Whether a database is replaced that is there already, whatever is in it.
    type: bool
    default: true
  units:
    description:
      - Units that will be stopped before the restore. In check mode it fails where a process of another one,
        Litestream's unit apart, has the database open.
      - Without it nobody is looked for.
    type: list
    elements: str
  unit:
    description: Unit of Litestream.
    type: str
    default: litestream.service
  program:
    description: Path of Litestream, where it is not what the role has installed.
    type: path
attributes:
  check_mode:
    description:
      - Says which database would be restored, and fails when none is found, a process of none of O(units) has
        it open, or a restore is under way on the device. Changes nothing.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The database is that of the replica
  edge_litestream.appliance.litestream_restore:
    config: "{{ content | b64decode | from_yaml }}"
    timestamp: "2026-11-22T10:00:00Z"
  async: 86400
  poll: 3
"""

RETURN = r"""
database:
  description: Path of the database.
  returned: success
  type: str
aside:
  description: Directory of the old database. Empty when there was none, and in check mode.
  returned: success
  type: str
verdict:
  description:
    - V(restored), V(same) where what was there has just what the replica has, V(newer) where it has more, or
      V(differs) where it lacks rows that the replica has. The last three come without O(over) alone, and the
      database stays. Empty in check mode.
  returned: success
  type: str
starters:
  description: Installed units that start Litestream, in the order in which to stop them before a restore.
  returned: success
  type: list
  elements: str
"""

import contextlib
import fcntl
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Collection, Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors, restoring
from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_config import (
    alone,
    choose,
    meta,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_unit import (
    UnitError,
    transient,
    unit_properties,
)

LOCK = restoring.LOCK
FALLBACK = "/var/lib"  # where work is done when the database's file system has no directory of root's
WORK = ".litestream-restore"
BESIDE = ("", "-wal", "-shm", "-journal")  # what SQLite adds to a database's name
# In environment mode every rotation starts Litestream. In process mode the rotator goes on, so that the
# credentials of a long restore stay fresh, and only the file that it writes starts Litestream.
STARTER_PROCESS = "litestream.path"
STARTERS_ENVIRONMENT = (
    "edge-rotator.timer",
    "edge-rotator-due.timer",
    "edge-rotator-due.path",
    "edge-rotator-due.service",
    "edge-rotator.service",
    "edge-rotator-force.service",
)
LITESTREAM = "/usr/local/bin/litestream"
RUN = "/usr/local/lib/litestream-run"  # Litestream with the environment that the role gives it, and no other
CHECK = """
import sqlite3
database = sqlite3.connect("file:database?mode=ro&immutable=1", uri=True)
answer = database.execute("PRAGMA integrity_check").fetchone()[0]
raise SystemExit(answer != "ok" and answer)
"""


# Rows of tables alone, as multisets: views, triggers and virtual tables are not run. The schema is one, too.
# What Litestream keeps for itself is nobody's. Damaged is what SQLite cannot read, and nothing else.
COMPARE = """
import sqlite3, sys, urllib.parse
replica, present = (f"file:{urllib.parse.quote(path)}?mode=ro" for path in sys.argv[1:])
UNTOLD = ("_litestream_", "sqlite_stat")
def quoted(name):
    return '"' + name.replace('"', '""') + '"'
def connect(uri):
    database = sqlite3.connect(uri, uri=True)
    database.execute("PRAGMA trusted_schema=OFF")
    return database
def tables(database, schema):
    named = f"SELECT name, sql FROM {schema}.sqlite_master WHERE type = 'table' AND rootpage > 0"
    return {name: sql for name, sql in database.execute(named) if not name.startswith(UNTOLD)}
def some(database, schema, name):
    return database.execute(f"SELECT EXISTS (SELECT 1 FROM {schema}.{quoted(name)})").fetchone()[0]
def compare():
    alone = connect(present)
    if not any(some(alone, "main", name) for name in tables(alone, "main")):
        return "empty"
    alone.close()
    database = connect(f"{replica}&immutable=1")
    database.execute("ATTACH ? AS present", (present,))
    known = {schema: tables(database, schema) for schema in ("main", "present")}
    more = {schema: False for schema in known}
    def tell(name, columns, only=""):
        values = ", ".join(f"{quoted(column)} AS c{number}" for number, column in enumerate(columns))
        # 1 is not 1.0, and no collation of a column makes two texts the same.
        group = ", ".join(f"typeof(c{number}), c{number} COLLATE BINARY" for number in range(len(columns)))
        both = " UNION ALL ".join(
            f"SELECT {values}, {sign} AS sign FROM {schema}.{name} {only}"
            for schema, sign in (("main", 1), ("present", -1))
        )
        query = f"SELECT sum(sign) AS rest FROM ({both}) GROUP BY {group} HAVING rest <> 0"
        for (rest,) in database.execute(query):
            more["main" if rest > 0 else "present"] = True
            if all(more.values()):
                break
    # What SQLite and Litestream make by themselves is left out.
    own = "WHERE name NOT LIKE 'sqlite/_%' ESCAPE '/' AND name NOT LIKE '/_litestream/_%' ESCAPE '/'"
    tell("sqlite_master", ("type", "name", "tbl_name", "sql"), own)
    for name in known["main"].keys() | known["present"].keys():
        if known["main"].get(name) == known["present"].get(name):
            columns = database.execute(f"SELECT * FROM main.{quoted(name)} LIMIT 0").description
            tell(quoted(name), [column[0] for column in columns])
        else:
            for schema in known:
                more[schema] |= name in known[schema] and bool(some(database, schema, name))
    return f"{int(more['present'])} {int(more['main'])}"
try:
    print(compare())
except sqlite3.DatabaseError as error:
    # A schema that this SQLite does not understand is none that is damaged.
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if kind not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "schema" in str(error):
        raise
    print("damaged")
"""
# What is there has rows that the replica lacks, and the other way round: what becomes of it. What it lacks
# may have been deleted on purpose, such as what a queue has delivered, and do not come back by themselves.
VERDICTS = {
    "damaged": "restored",
    "empty": "restored",
    "0 0": "same",
    "1 0": "newer",
    "0 1": "differs",
    "1 1": "differs",
}


class RestoreError(Exception):
    """What stands in the way, with what to do about it."""


def starters() -> list[str]:
    """Installed units that start Litestream in its mode of delivery; only process mode has a path unit."""
    names = (STARTER_PROCESS, *STARTERS_ENVIRONMENT)
    show = ["systemctl", "show", "--property=LoadState", "--value", "--", *names]
    told = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()
    loaded = [name for name, state in zip(names, told, strict=True) if state == "loaded"]
    return [STARTER_PROCESS] if STARTER_PROCESS in loaded else loaded


def program(params: dict[str, Any]) -> list[str]:
    """Litestream as its unit starts it; as it is where an older version of the role has written the unit."""
    if params["program"]:
        return [params["program"]]
    return ["/usr/bin/python3", "-IS", RUN] if os.path.exists(RUN) else [LITESTREAM]


def execute(prefix: list[str], command: list[str], what: str) -> str:
    """Run a command and return its output; raise RestoreError with what it said when it fails."""
    done = subprocess.run(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise RestoreError(f"{what}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def groups(pid: str) -> list[str]:
    """Units that a process belongs to, the innermost last."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as lines:
        parts = [part for line in lines for part in line.rstrip("\n").split(":", 2)[2].split("/")]
    return [part for part in parts if part.endswith((".service", ".scope"))]


def users(directory: int, name: str, units: Collection[str] = ()) -> list[str]:
    """Return the processes that have the database or what belongs to it open, as `NAME (PID)`.

    Those of `units` are left out.
    """
    wanted = set()
    for suffix in BESIDE:
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(name + suffix, dir_fd=directory, follow_symlinks=False)
            wanted.add((info.st_dev, info.st_ino))
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{number}")
                    if (info.st_dev, info.st_ino) in wanted:
                        of = groups(pid)
                        if set(of).intersection(units):
                            break
                        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                            unit = f" of {of[-1]}" if of else ""
                            found.append(f"{comm.read().strip()} ({pid}){unit}")
                        break
    return found


def work_base(directory: str) -> str:
    """Nearest directory above whose names root alone can change, on the file system of the database."""
    device = os.stat(directory).st_dev
    chain, here = [], os.path.dirname(os.path.realpath(directory))
    while here != "/":
        chain.append(here)
        here = os.path.dirname(here)
    # One that lies below a directory of somebody else's could be moved away.
    safe = [descriptors.only_roots(os.stat(path)) for path in chain]
    for index, path in enumerate(chain):
        if all(safe[index:]) and os.stat(path).st_dev == device:
            return path
    return FALLBACK


@contextlib.contextmanager
def work_directory(base: str, user: int, group: int) -> Iterator[tuple[str, str]]:
    """Path of a directory that Litestream's group may enter, and of one in it that its user may write."""
    work = os.path.join(base, WORK)
    shutil.rmtree(work, ignore_errors=True)  # what an interrupted run left
    os.mkdir(work, 0o700)
    try:
        out = os.path.join(work, "out")
        os.mkdir(out, 0o700)
        os.chown(out, user, group)
        os.chown(work, -1, group)
        os.chmod(work, 0o710)
        yield work, out
    finally:
        shutil.rmtree(work)


def entries(directory: int, name: str) -> list[str]:
    """Names of a database and what SQLite keeps beside it, as far as they are there."""
    there = set(os.listdir(directory))
    return [name + suffix for suffix in BESIDE if name + suffix in there]


def make_directory(parent: int, name: str) -> int:
    """Make a directory and open it. The caller closes the descriptor."""
    os.mkdir(name, 0o770, dir_fd=parent)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    if os.fstat(made).st_uid != os.geteuid():
        os.close(made)
        raise RestoreError(f"{name} was exchanged while it was made: find out by whom")
    return made


def put_aside(directory: int, path: str, entry: dict[str, Any], aside: str) -> bool:
    """Move the old database, its companions and Litestream's own files; say whether there was anything."""
    moves = [(directory, name) for name in entries(directory, os.path.basename(path))]
    own_moves: list[tuple[int, str]] = []
    where, own = meta(entry, path)
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(FileNotFoundError):
            place = descriptors.open_directory(where)
            opened.callback(os.close, place)
            own_moves = [(place, name) for name in os.listdir(place) if name == own or not own]
        if not moves + own_moves:
            return False
        parent = descriptors.open_directory(os.path.dirname(aside))
        opened.callback(os.close, parent)
        kept = make_directory(parent, os.path.basename(aside))
        opened.callback(os.close, kept)
        device = os.fstat(kept).st_dev
        if any(os.fstat(source).st_dev != device for source, _unused in moves):
            os.rmdir(os.path.basename(aside), dir_fd=parent)
            raise RestoreError(
                f"{path} and {aside} are on two file systems: move {path} and its -wal away by hand"
            )
        own_kept = kept
        if own_moves and os.fstat(place).st_dev != device:
            own_kept = make_directory(place, os.path.basename(aside))
            opened.callback(os.close, own_kept)
            # Litestream looks through all of its directory when it starts.
            os.fchown(own_kept, os.fstat(place).st_uid, os.fstat(place).st_gid)
        for target, some in ((kept, moves), (own_kept, own_moves)):
            for source, name in some:
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    return True


def publish(file: int, directory: int, name: str) -> None:
    """Give an open file its name, in one step. Raises FileExistsError when the name is taken."""
    try:
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        raise
    except OSError:
        # Another file system, or one that knows no links: a copy that has no name until it is complete.
        with open(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=directory), "wb") as copy:
            with open(os.dup(file), "rb") as source:
                shutil.copyfileobj(source, copy, 1 << 20)
            info = os.fstat(file)
            os.fchown(copy.fileno(), info.st_uid, info.st_gid)
            os.fchmod(copy.fileno(), stat.S_IMODE(info.st_mode))
            copy.flush()
            os.fsync(copy.fileno())
            os.link(f"/proc/self/fd/{copy.fileno()}", name, dst_dir_fd=directory, follow_symlinks=True)


def restored(work: str, out: str, group: int) -> int:
    """Take the restored database over from Litestream's user; return its descriptor."""
    os.chown(out, os.geteuid(), group)
    os.chmod(out, 0o750)
    directory = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        database: int = descriptors.open_file("database", directory)
        return database
    except (FileNotFoundError, descriptors.UnsafeError) as error:
        raise RestoreError(f"Litestream left no database in {work}: {error}") from error
    finally:
        os.close(directory)


def owner(directory: int, name: str) -> tuple[int, int]:
    """User and group of the old database, or of its directory; where that is set-group-ID, its group."""
    above = os.fstat(directory)
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        info = above
    return info.st_uid, above.st_gid if above.st_mode & stat.S_ISGID else info.st_gid


def compared(unit: dict[str, list[str]], restored_file: str, path: str) -> str:
    """Return what becomes of a database that is there, beside what was restored. Raises RestoreError."""
    if not os.path.lexists(path):
        return "restored"
    hint = "look at both, and say restore_over=true to have the replica's, with this one moved aside"
    compare = ["/usr/bin/python3", "-I", "-c", COMPARE, restored_file, path]
    # SQLite may have to make a file beside a database that is only read.
    prefix = transient(unit, os.path.dirname(path), network=False)
    told = execute(prefix, compare, f"{path} cannot be compared with the replica ({hint})").strip()
    if told not in VERDICTS:
        raise RestoreError(f"{path} cannot be compared with the replica ({hint})")
    return VERDICTS[told]


def restore(
    params: dict[str, Any], path: str, entry: dict[str, Any], unit: dict[str, list[str]]
) -> tuple[str, str]:
    """Restore, check and exchange; return the verdict, and the directory of the old database or nothing."""
    user, group = ids(unit)
    name = os.path.basename(path)
    kept = f"{entry.get('dir', path).rstrip('/')}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    with contextlib.ExitStack() as opened:
        directory = descriptors.open_directory(os.path.dirname(path))
        opened.callback(os.close, directory)
        refuse_users(directory, path)
        base = work_base(os.path.dirname(path))
        work, out = opened.enter_context(work_directory(base, user, group))
        # JSON is YAML, and the device's Python knows it.
        told = os.path.join(work, "litestream.yml")
        with open(told, "w", encoding="utf-8") as file:
            json.dump({**params["config"], "dbs": [alone(entry, path)]}, file, ensure_ascii=False)
        os.chown(told, -1, group)
        os.chmod(told, 0o640)
        command = [*program(params), "restore", "-config", told, "-o", os.path.join(out, "database")]
        command += ["-timestamp", params["timestamp"]] if params["timestamp"] else []
        execute(transient(unit, out, network=True), [*command, path], "Litestream could not restore it")
        database = restored(work, out, group)
        opened.callback(os.close, database)
        check = ["/usr/bin/python3", "-I", "-c", CHECK]
        execute(transient(unit, out, network=False), check, "the restored database is damaged")
        if not params["over"]:
            verdict = compared(unit, os.path.join(out, "database"), path)
            if verdict != "restored":
                return verdict, ""
        refuse_users(directory, path)
        os.fchown(database, *owner(directory, name))
        os.fchmod(database, 0o660)
        os.fsync(database)
        aside = kept if put_aside(directory, path, entry, kept) else ""
        try:
            publish(database, directory, name)
        except FileExistsError as error:
            raise RestoreError(
                f"{path} was made anew meanwhile, and is left alone. The old database is in {kept}. "
                "Name the unit that made it in edge_databases or restore_units, and run this again, "
                "with a restore_timestamp from before."
            ) from error
        os.fsync(directory)
    return "restored", aside


def refuse_users(directory: int, path: str, units: Collection[str] = ()) -> None:
    """Raise RestoreError when somebody has the database open, who belongs to none of `units`."""
    found = users(directory, os.path.basename(path), units)
    if found:
        raise RestoreError(
            f"{path} is open in {', '.join(found)}: "
            "name its unit in edge_databases or restore_units, or end it"
        )


def ids(unit: dict[str, list[str]]) -> tuple[int, int]:
    """User and group of Litestream's unit."""
    account = pwd.getpwnam(unit["User"][0])
    return account.pw_uid, grp.getgrnam(unit["Group"][0]).gr_gid if "Group" in unit else account.pw_gid


@contextlib.contextmanager
def locked(path: str, check: bool) -> Iterator[None]:
    """Let no other restore begin, and tell it of this one. Raises RestoreError while one is under way.

    In check mode it is only looked, before anything is stopped: one may go on whose playbook was ended.
    """
    if check and not os.path.exists(LOCK):
        yield
        return
    with open(LOCK, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if check else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise RestoreError(
                f"a restore is under way on this device ({lock.read().strip()}), maybe of a playbook that "
                "was ended. Nothing was stopped now, and what that one has stopped stays stopped: wait for "
                "the end of its process, then run this again"
            ) from error
        if not check:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            lock.truncate(0)
            lock.write(f"{path}, since {since}, process {os.getpid()}\n")
            lock.flush()
        yield


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the module is for; return its result. Raises RestoreError and others."""
    path, entry = choose(params["config"], params["database"])
    unit = unit_properties(params["unit"])
    verdict, aside = "", ""
    if check and params["units"] is not None:
        with contextlib.suppress(FileNotFoundError):
            directory = descriptors.open_directory(os.path.dirname(path))
            try:
                refuse_users(directory, path, [*params["units"], params["unit"]])
            finally:
                os.close(directory)
    with locked(path, check):
        if not check:
            verdict, aside = restore(params, path, entry, unit)
    return {
        "changed": verdict in ("", "restored"),
        "verdict": verdict,
        "database": path,
        "aside": aside,
        "starters": starters(),
    }


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict", "required": True},
            "database": {"type": "str", "default": ""},
            "timestamp": {"type": "str", "default": ""},
            "over": {"type": "bool", "default": True},
            "units": {"type": "list", "elements": "str"},
            "unit": {"type": "str", "default": "litestream.service"},
            "program": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except (
        RestoreError,
        UnitError,
        descriptors.UnsafeError,
        ValueError,
        OSError,
        subprocess.SubprocessError,
    ) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
