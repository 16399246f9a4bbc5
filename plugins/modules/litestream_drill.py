#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Restore a thing's databases from the bucket to a scratch place, and check them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_drill
short_description: Prove that a thing's databases can be restored
version_added: 2.0.0
description:
  - Restores each database of a thing from its replica into a directory that is removed afterwards, has SQLite
    check it, and counts and hashes its rows. The device is not asked, and may be off.
  - Runs on the control node. A database that a device made is opened by a process of its own with limits on
    time, memory and output, which can open no other file and no connection, and is nobody where Ansible runs
    as root. No view, trigger or virtual table is run.
  - Where O(checksums) has what the device said of a database, it is restored as of that transaction, and has
    to be the same. Where that transaction does not come to the bucket for longer than C(status) on the device
    allows, twice the C(sync-interval) and 15 s, replication stands still, and the drill fails. So it does
    where the device has more than its Litestream has read (C(behind)), and the newest transaction in the
    bucket is older than that and C(monitor-interval) together. Where the transaction is in the bucket
    together with later ones alone, the newest is restored, and nothing is compared.
  - The recovery point is the newest transaction in the bucket, by the time at which S3 took it. The recovery
    time is that of restore and check together.
  - Fails when one of the databases could not be proved, after all were tried, and when there is none.
  - Needs the rights C(s3:ListBucket) and C(s3:GetObject), and nothing else.
extends_documentation_fragment:
  - edge_litestream.appliance.aws
options:
  state:
    description: V(drawn) draws the databases and restores none.
    type: str
    choices: [drawn, proved]
    default: proved
  thing:
    description: Name of the thing.
    type: str
    required: true
  config:
    description: Litestream's configuration, as M(edge_litestream.appliance.litestream_config) returns it.
    type: dict
    required: true
  program:
    description: Path of Litestream for this machine, of the series that replicates. Needed to restore.
    type: path
  scratch:
    description:
      - Directory to work in; made if it is not there. What an interrupted run left there is removed.
      - Needed to restore.
    type: path
  drawn:
    description: Paths of databases that were drawn before. Without it they are drawn.
    type: list
    elements: str
  checksums:
    description:
      - What M(edge_litestream.appliance.litestream_checksum) returned as C(databases) on the device. Where it
        is nothing that the module says of a database, that is restored, and fails.
      - Left out where the device gave no answer.
    type: raw
  uncompared:
    description: Why there is nothing in O(checksums).
    type: str
    default: the device was not asked
  history:
    description:
      - Directory to which a line of JSON for each database is added, in C(YYYY-MM-DD.jsonl), which its owner
        alone may read. Empty for none.
    type: path
  most:
    description: Databases to restore at most. Where there are more, some are drawn.
    type: int
    default: 20
  seed:
    description: What they are drawn by.
    type: str
    default: ""
  max_size:
    description: Bytes that a database may have.
    type: int
    default: 10737418240
  timeout:
    description: Seconds that the restore of a database may take, and its check again.
    type: int
    default: 3600
  wait:
    description:
      - Seconds to wait for a transaction of O(checksums) to be in the bucket, where that is more than
        C(status) on the device allows.
    type: int
    default: 0
  ca_file:
    description: CA certificates by which S3 is known, where it is not that of AWS.
    type: path
attributes:
  check_mode:
    description: Looks into the bucket, and restores nothing.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The thing's backups restore
  edge_litestream.appliance.litestream_drill:
    thing: edge-0001
    config: "{{ plan.config }}"
    program: "{{ program.path }}"
    scratch: ~/.cache/edge-litestream/drill
    history: ~/drills
  delegate_to: localhost
"""

RETURN = r"""
databases:
  description:
    - One for each database, as it is in the history. In state V(drawn) there is none.
    - The keys are C(time) (ISO 8601, when it began), C(thing), C(database), C(ok), C(reason), C(restored),
      C(bytes), C(rows), C(tables) (the first 50, with C(name) and C(rows)), C(txid), C(point) (ISO 8601),
      C(point_age_s), C(recovery_s), C(compared) (V(equal), V(differs) or V(no)), C(uncompared), C(checksum).
  returned: always
  type: list
  elements: dict
drawn:
  description: Paths of the databases that were drawn.
  returned: always
  type: list
  elements: str
left:
  description: Databases of the thing that were not drawn.
  returned: always
  type: int
"""

import contextlib
import datetime
import fcntl
import fnmatch
import inspect
import json
import os
import posixpath
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import (
    aws,
    database_content,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils import (
    litestream_config as ls,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.s3_replicas import (
    MAX_DEPTH,
    Newest,
    Prefix,
    TooMuchError,
)

# Where it is missing, aws.serve says so.
with contextlib.suppress(ImportError):
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
TXID = re.compile(r"[0-9a-f]{16}")
CHECKSUM = re.compile(r"[0-9a-f]{64}")
RESERVE_BYTES = 256 * 1024**2  # of the file system's room, not used
MARGIN_S = 30
PAUSE_S = 2
LAST_BYTES = 4096
MISUNDERSTOOD = "the device's answer is not understood"
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")


class DrillError(Exception):
    """Why a database is not proved to restore."""


def understood(told: Any) -> bool:
    """Tell whether it is what the check says of a sound database."""
    if not isinstance(told, dict) or told.get("integrity") != ["ok"] or not isinstance(told.get("rows"), int):
        return False
    tables, checksum = told.get("tables"), told.get("checksum")
    return (
        isinstance(checksum, str)
        and bool(CHECKSUM.fullmatch(checksum))
        and isinstance(tables, list)
        and all(
            isinstance(table, dict)
            and table.keys() == {"name", "rows"}
            and isinstance(table["name"], str)
            and isinstance(table["rows"], int)
            for table in tables
        )
    )


class Database:
    """A database of the thing, and where its replica is."""

    def __init__(self, module: AnsibleModule, path: str, entry: dict[str, Any]) -> None:
        self.path, config, params = path, module.params["config"], module.params
        replica = dict(ls.replicas_of(entry)[0])
        self.limit = ls.sync_limit({**config, "dbs": [entry]})
        self.late = ls.late_limit({**config, "dbs": [entry]})
        if params["endpoint"]:
            replica |= {"endpoint": params["endpoint"], "force-path-style": True}
        # Each series knows a key of its own; 0.5 takes both, and has snapshots of all databases alike.
        self.old = "replicas" in entry and "snapshot" not in config
        self.entry = {"path": path, **({"replicas": [replica]} if self.old else {"replica": replica})}
        self.bucket, place = ls.location(replica, config)
        self.prefix = f"{place}/"
        setting = {**config, **replica}
        self.region = setting.get("region") or params["region"]
        endpoint = setting.get("endpoint")
        by_path = setting.get("force-path-style", bool(endpoint))
        asked = SimpleNamespace(params={"endpoint": endpoint, "region": self.region})
        self.s3 = aws.client(asked, "s3", s3={"addressing_style": "path" if by_path else "auto"})

    def newest(self) -> Newest | None:
        """Find the newest transaction; None where nothing can be restored."""
        below = Prefix(self.s3, self.bucket)
        return below.newest(self.prefix, below.folders(self.prefix))

    def ends_at(self, txid: str) -> bool:
        """Tell whether the bucket has a state of it as of exactly this transaction."""
        return bool(Prefix(self.s3, self.bucket).ends_at(self.prefix, txid))


def databases(module: AnsibleModule) -> list[Database]:
    """Name the databases of the thing: those of the configuration, and what is in the bucket of a `dir`."""
    found = []
    for entry in module.params["config"]["dbs"]:
        if "dir" not in entry:
            found.append(Database(module, entry["path"], entry))
            continue
        top = Database(module, entry["dir"], entry)
        below = Prefix(top.s3, top.bucket)
        for prefix, _folders in below.databases(top.prefix, MAX_DEPTH if entry.get("recursive") else 1):
            name = prefix.removeprefix(top.prefix).rstrip("/")
            path = posixpath.join(entry["dir"], name)
            # A name that leads out of the directory is none of the device's databases.
            if posixpath.normpath(path) != path.replace("//", "/"):
                continue
            if name and fnmatch.fnmatchcase(posixpath.basename(name), entry["pattern"]):
                found.append(Database(module, path, ls.alone(entry, path)))
    return found


@contextlib.contextmanager
def scratch(top: str, thing: str) -> Iterator[str]:
    """Path of an empty directory of this process alone, that is gone afterwards."""
    os.makedirs(top, 0o700, exist_ok=True)
    directory = os.path.join(top, f"drill-{thing}")
    with open(f"{directory}.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise aws.AwsError(f"another drill of {thing} is under way here: wait for its end") from None
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)  # what an interrupted run left
        os.mkdir(directory, 0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory)


class Drill:
    """The drill of one database, in a directory that goes with it."""

    def __init__(self, module: AnsibleModule, directory: str) -> None:
        self.params, self.dry, self.directory = module.params, module.check_mode, directory

    def environment(self, region: str) -> dict[str, str]:
        """Give Litestream the credentials that the SDK finds, and nothing that would mislead it."""
        found = boto3.Session().get_credentials()
        if found is None:
            raise aws.NoCredentialsError
        keys = found.get_frozen_credentials()
        told = {
            "PATH": "/usr/bin:/bin",
            "HOME": self.directory,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": region or "",
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_SESSION_TOKEN": keys.token or "",
            "SSL_CERT_FILE": self.params["ca_file"] or "",
            **{name: os.environ.get(name, "") for name in PROXIES},
        }
        return {name: value for name, value in told.items() if value}

    def room(self, size: int, copies: int) -> int:
        """Bytes that a restored database may have. Raises DrillError where it has more."""
        most = self.params["max_size"]
        if size > most:
            raise DrillError(f"it has {size} bytes, and may have {most}: raise drill_max_size")
        free = (shutil.disk_usage(self.directory).free - RESERVE_BYTES) // copies
        if size > free:
            raise DrillError(f"it has {size} bytes, and {max(free, 0)} are free: name another drill_scratch")
        return int(min(most, free))

    def restore(self, database: Database, output: str, txid: str, most: int) -> None:
        """Have Litestream restore it. Raises DrillError."""
        told, log = os.path.join(self.directory, "litestream.yml"), os.path.join(self.directory, "log")
        with open(told, "w", encoding="utf-8") as file:
            # JSON is YAML.
            json.dump({**self.params["config"], "dbs": [database.entry]}, file)
        command = [self.params["program"], "restore", "-no-expand-env", "-config", told]
        command += ["-o", output]
        command += ["-txid", txid] if txid else []

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        seconds = self.params["timeout"]
        with open(log, "w+b") as said:
            try:
                # SIGXFSZ stays ignored, so that Litestream says what is wrong.
                code = subprocess.run(
                    [*command, database.path],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env=self.environment(database.region),
                    preexec_fn=limit,
                    restore_signals=False,
                    timeout=seconds,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise DrillError(f"the restore took more than {seconds} s: raise drill_timeout") from None
            if code:
                said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_BYTES))
                lines = said.read(LAST_BYTES).decode(errors="replace").strip().splitlines()
                words = database_content.plain(lines[-1] if lines else f"it ended with {code}")
                if "file too large" in words:
                    words = f"it would have more than {most} bytes: raise drill_max_size"
                raise DrillError(f"Litestream could not restore it: {words}")

    def examine(self, database: str) -> dict[str, Any]:
        """Have a process without rights look at it. Raises DrillError."""
        seconds = self.params["timeout"]
        question = json.dumps({"act": "check", "path": database, "seconds": seconds})
        command = [sys.executable, "-I", "-c", inspect.getsource(database_content)]
        with open(os.path.join(self.directory, "answer"), "w+b") as answer:
            try:
                code = subprocess.run(
                    command,
                    input=question.encode(),
                    stdout=answer,
                    stderr=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    timeout=seconds + MARGIN_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = -signal.SIGXCPU
            answer.seek(0)
            said = answer.read(database_content.ANSWER_BYTES)
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            raise DrillError(f"the check took more than {seconds} s: raise drill_timeout")
        try:
            told = json.loads(said)
        except (ValueError, RecursionError):
            raise DrillError(f"the check ended with {code}, which no sound database makes it do") from None
        if isinstance(told, dict) and told.get("failed"):
            raise DrillError(f"it cannot be read: {told['failed']}")
        if isinstance(told, dict) and isinstance(told.get("integrity"), list) and told["integrity"] != ["ok"]:
            raise DrillError(f"it is damaged: {'; '.join(map(str, told['integrity']))}")
        # What reads a hostile database may be made to say anything.
        if not understood(told):
            raise DrillError("the check's answer is none that it gives")
        return dict(told)

    def expected(self, path: str) -> tuple[str, str, str, str]:
        """Transaction and checksum that the device told of a database, why there are none, what is wrong."""
        told = self.params["checksums"]
        if told is None:
            return "", "", database_content.plain(self.params["uncompared"]), ""
        told = told.get(path) if isinstance(told, dict) else None
        if isinstance(told, dict) and isinstance(told.get("failed"), str) and told["failed"]:
            return "", "", database_content.plain(told["failed"]), ""
        txid, checksum = (
            (str(told.get(key)) for key in ("txid", "checksum")) if isinstance(told, dict) else ("", "")
        )
        if TXID.fullmatch(txid) and CHECKSUM.fullmatch(checksum):
            return txid, checksum, "", ""
        return "", "", "", MISUNDERSTOOD

    def behind(self, path: str) -> bool:
        """Tell whether the device has more of a database than its Litestream has read."""
        told = self.params["checksums"]
        told = told.get(path) if isinstance(told, dict) else None
        return isinstance(told, dict) and told.get("behind") is True

    def arrived(self, database: Database, txid: str, newest: Newest) -> tuple[Newest, float]:
        """Wait for a transaction to be in the bucket: the newest there, and for how long it was too old."""
        begun, wait = time.monotonic(), max(self.params["wait"], database.limit)
        while newest.txid < int(txid, 16):
            waited = time.monotonic() - begun
            if waited > wait:
                return newest, waited
            time.sleep(min(PAUSE_S, wait))
            newest = database.newest() or newest
        return newest, 0.0

    def prove(self, database: Database, record: dict[str, Any]) -> None:
        """Restore one and check it; what is found is in its record. Raises DrillError and others."""
        begun = datetime.datetime.now(datetime.UTC)
        newest = database.newest()
        if newest is None:
            raise DrillError(f"nothing can be restored: there is no backup below {database.prefix}")
        record["point"] = newest.time.isoformat(timespec="seconds")
        record["point_age_s"] = max(0, int((begun - newest.time).total_seconds()))
        # Litestream 0.3 has log and database beside one another.
        most = self.room(Prefix(database.s3, database.bucket).size(newest), 1 if newest.key else 2)
        if self.dry:
            return
        # Without a transaction Litestream 0.5 also takes what looks like 0.3's, and opens the result itself.
        if not newest.key and not database.old:
            raise DrillError("its newest backup is one of Litestream 0.3, which this device does not have")
        txid, checksum, record["uncompared"], wrong = self.expected(database.path)
        if self.behind(database.path) and record["point_age_s"] > database.late:
            wrong = (
                f"replication lags: the device has more than its Litestream has read, and the newest in the "
                f"bucket came {record['point_age_s']} s ago, where {database.late:g} s are allowed: "
                f"{record['uncompared']}"
            )
        if txid:
            newest, waited = self.arrived(database, txid, newest)
            if waited:
                behind = int(txid, 16) - newest.txid
                wrong = (
                    f"replication lags: the device has transaction {txid}, and the bucket has not after "
                    f"{waited:.0f} s, where {database.limit:g} s are allowed; its newest is {behind} before "
                    f"it, and came at {newest.time.isoformat(timespec='seconds')}"
                )
                record["uncompared"], txid = f"transaction {txid} did not come to the bucket", ""
        exact = txid or (f"{newest.txid:016x}" if newest.key else "")
        start = time.monotonic()
        output = os.path.join(self.directory, "database")
        try:
            self.restore(database, output, exact, most)
        except DrillError:
            # What was there when it was looked for may have been merged with what came later.
            again = database.newest()
            if not exact or again is None or not again.key or database.ends_at(exact):
                raise
            if txid:
                record["uncompared"] = f"transaction {txid} is in the bucket together with later ones alone"
            exact, txid = f"{again.txid:016x}", ""
            with contextlib.suppress(FileNotFoundError):
                os.unlink(output)
            self.restore(database, output, exact, most)
        record["bytes"] = os.lstat(output).st_size
        record["restored"] = True
        found = self.examine(output)
        record["recovery_s"] = round(time.monotonic() - start, 2)
        record["txid"] = exact
        record |= {name: found[name] for name in ("rows", "tables", "checksum")}
        if txid:
            record["compared"] = "equal" if found["checksum"] == checksum else "differs"
            if found["checksum"] != checksum:
                raise DrillError(f"it is not what the device had at transaction {txid}")
        if wrong:
            raise DrillError(wrong)

    def attempt(self, database: Database) -> dict[str, Any]:
        """Prove one database, or tell why not."""
        record: dict[str, Any] = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "thing": self.params["thing"],
            "database": database_content.plain(database.path),
            "ok": False,
            "reason": "",
            "restored": False,
            "bytes": None,
            "rows": None,
            "tables": [],
            "txid": "",
            "point": None,
            "point_age_s": None,
            "recovery_s": None,
            "compared": "no",
            "uncompared": "",
            "checksum": "",
        }
        try:
            self.prove(database, record)
            record["ok"] = True
        except TooMuchError as error:
            record["reason"] = str(error)
        except (ClientError, BotoCoreError) as error:
            record["reason"] = database_content.plain(aws.explain(error), 1000)
        except (DrillError, OSError) as error:
            record["reason"] = database_content.plain(error, 1000)
        return record


def remember(directory: str, record: dict[str, Any]) -> None:
    """Add a record to the history; several runs may do that at once."""
    os.makedirs(directory, 0o700, exist_ok=True)
    name = os.path.join(directory, f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.jsonl")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600), "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def drill(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    if not THING.fullmatch(params["thing"]):
        raise aws.AwsError(f"thing is '{params['thing']}': give the thing's name")
    if params["ca_file"]:
        os.environ["AWS_CA_BUNDLE"] = params["ca_file"]
    # Ansible ends a task by it: what was restored has to go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        known = {database.path: database for database in databases(module)}
    except TooMuchError as error:
        raise aws.AwsError(f"{params['thing']}: {error}") from None
    drawn = params["drawn"]
    if drawn is None:
        drawn = list(known)
        if len(known) > params["most"]:
            drawn = random.Random(f"{params['seed']} {params['thing']}").sample(drawn, params["most"])  # noqa: S311
    done = {"changed": False, "databases": [], "drawn": drawn, "left": len(known.keys() - set(drawn))}
    if params["state"] == "drawn":
        return done
    records = done["databases"]
    for path in drawn:
        # One that was drawn and is gone since is none that can be left out.
        database = known.get(path) or Database(module, *ls.choose(params["config"], path))
        with scratch(params["scratch"], params["thing"]) as directory:
            records.append(Drill(module, directory).attempt(database))
        # One by one: whatever becomes of the next, this one was drilled.
        if params["history"] and not module.check_mode:
            remember(params["history"], records[-1])
    reasons = [f"{one['thing']}: {one['database']}: {one['reason']}" for one in records if not one["ok"]]
    if not records:
        reasons = [f"{params['thing']}: nothing can be restored: there is no backup of any database"]
    return {**done, "failed": True, "msg": "\n".join(reasons)} if reasons else done


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "thing": {"type": "str", "required": True},
            "config": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["drawn", "proved"], "default": "proved"},
            "program": {"type": "path"},
            "scratch": {"type": "path"},
            "drawn": {"type": "list", "elements": "str"},
            "checksums": {"type": "raw"},
            "uncompared": {"type": "str", "default": "the device was not asked"},
            "history": {"type": "path"},
            "most": {"type": "int", "default": 20},
            "seed": {"type": "str", "default": ""},
            "max_size": {"type": "int", "default": 10 * 1024**3},
            "timeout": {"type": "int", "default": 3600},
            "wait": {"type": "int", "default": 0},
            "ca_file": {"type": "path"},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
        required_if=[("state", "proved", ["program", "scratch"])],
    )
    aws.serve(module, drill)


if __name__ == "__main__":
    main()
