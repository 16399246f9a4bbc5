"""litestream_drill: with the real Litestream, and moto as the bucket."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import litestream_drill as drill

from edge_rotator import litestream as rotator
from tests.unit.aws_server import aws

Run = Callable[..., dict[str, Any]]
LITESTREAM = shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))
pytestmark = pytest.mark.skipif(not Path(LITESTREAM).exists(), reason="needs Litestream")
BUCKET, THING = "backups", "edge-0001"


class Bucket:
    """A bucket with what Litestream has replicated, and how the drill is asked about it."""

    def __init__(self, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint, self.top = endpoint, tmp_path
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "operator-secret")
        self.s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.s3.create_bucket(Bucket=BUCKET)

    def replica(self, name: str, **more: Any) -> dict[str, Any]:
        where = {"type": "s3", "bucket": BUCKET, "path": f"{THING}/{name}", "region": "us-east-1"}
        return {**where, "endpoint": self.endpoint, "force-path-style": True, **more}

    def fill(self, name: str, *statements: str) -> None:
        """Write into a database, and replicate it."""
        path = self.top / "device" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            for statement in statements:
                database.execute(statement)
        # moto's server takes no upload of Litestream's: it is made in a directory, and brought.
        kept, config = self.top / "replicas" / name, self.top / "replicate.yml"
        replica = {"type": "file", "path": str(kept)}
        config.write_text(json.dumps({"dbs": [{"path": str(path), "replica": replica}]}))
        command = [LITESTREAM, "replicate", "-once", "-config", str(config)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        for file in kept.glob("ltx/*/*.ltx"):
            key = f"{THING}/{name}/{int(file.parent.name):04x}/{file.name}"
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())

    def merge(self, name: str) -> tuple[int, int]:
        """Bring a replica whose transactions Litestream has merged; return one of them, and the last."""
        path, kept = self.top / "device" / name, self.top / "merged"
        path.parent.mkdir(parents=True, exist_ok=True)
        replica = {"type": "file", "path": str(kept)}
        levels = [{"interval": "3s"}, {"interval": "1h"}]
        config = self.top / "replicate.yml"
        config.write_text(json.dumps({"levels": levels, "dbs": [{"path": str(path), "replica": replica}]}))
        with (
            contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database,
            subprocess.Popen(
                [LITESTREAM, "replicate", "-config", str(config)], stderr=subprocess.PIPE
            ) as running,
        ):
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE t(a)")
            deadline = time.monotonic() + 40
            spans: list[tuple[int, int]] = []
            while not spans and time.monotonic() < deadline:
                database.execute("INSERT INTO t VALUES (1)")
                time.sleep(0.5)
                names = (file.stem.split("-") for file in kept.glob("ltx/1/*.ltx"))
                pairs = ((int(first, 16), int(last, 16)) for first, last in names)
                spans = [(first, last) for first, last in pairs if last - first > 1]
            running.terminate()
        ends = set()
        for file in (*kept.glob("ltx/1/*.ltx"), *kept.glob("ltx/9/*.ltx")):
            key = f"{THING}/{name}/{int(file.parent.name):04x}/{file.name}"
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
            ends.add(int(file.stem.split("-")[1], 16))
        # On a busy machine the snapshot may end in the middle of it.
        first, last = spans[0]
        return next(one for one in range(last - 1, first - 1, -1) if one not in ends), last

    def newest(self, name: str) -> str:
        """Key of the object with the newest transaction."""
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{THING}/{name}/0000/")["Contents"]
        return str(max(one["Key"] for one in found))

    def asked(self, *names: str, **more: Any) -> dict[str, Any]:
        dbs = [{"path": f"/var/lib/{name}", "replica": self.replica(name)} for name in names or ("app.db",)]
        files = {
            "program": LITESTREAM,
            "scratch": str(self.top / "scratch"),
            "history": str(self.top / "kept"),
        }
        return {"thing": THING, "config": {"dbs": dbs}, **files, **more}

    def kept(self) -> list[dict[str, Any]]:
        """What is in the history."""
        files = sorted((self.top / "kept").glob("*.jsonl"))
        assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Nothing of what was restored is left, whatever happens."""
    with aws() as endpoint:
        yield Bucket(endpoint, tmp_path, monkeypatch)
    left = [path.name for path in (tmp_path / "scratch").glob("*")]
    assert left in ([], [f"drill-{THING}.lock"])


ROWS = ("CREATE TABLE t(a)", "INSERT INTO t VALUES (1), (2), (3)")


def test_a_database_is_restored_and_checked(run: Run, bucket: Bucket) -> None:
    bucket.fill("app.db", *ROWS)
    would = run(check=True, **bucket.asked())
    assert "failed" not in would
    assert (would["databases"][0]["restored"], bucket.kept()) == (False, [])
    done = run(**bucket.asked())
    assert "failed" not in done, done
    (record,) = done["databases"]
    assert (record["thing"], record["database"], record["ok"]) == (THING, "/var/lib/app.db", True)
    assert {"name": "t", "rows": 3} in record["tables"]
    assert record["bytes"] > 0
    assert record["txid"] == bucket.newest("app.db")[-20:-4]
    assert 0 <= record["point_age_s"] < 60
    assert record["recovery_s"] > 0
    assert (record["compared"], record["uncompared"]) == ("no", "the device was not asked")
    assert bucket.kept() == [record]
    run(**bucket.asked())
    assert len(bucket.kept()) == 2, "the history grows"


def test_it_is_what_the_device_had(run: Run, bucket: Bucket) -> None:
    bucket.fill("app.db", *ROWS)
    (record,) = run(**bucket.asked())["databases"]
    then = {"txid": record["txid"], "checksum": record["checksum"]}
    bucket.fill("app.db", "INSERT INTO t VALUES (4)")
    assert bucket.newest("app.db")[-20:-4] != then["txid"]
    (same,) = run(**bucket.asked(checksums={"/var/lib/app.db": then}))["databases"]
    assert (same["ok"], same["compared"], same["txid"]) == (True, "equal", then["txid"])
    other = run(**bucket.asked(checksums={"/var/lib/app.db": {**then, "checksum": "0" * 64}}))
    assert other["failed"]
    assert "/var/lib/app.db: it is not what the device had at transaction" in other["msg"]
    assert bucket.kept()[-1]["compared"] == "differs"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"failed": "too busy\x1b[2J"}, "too busy?[2J"),
    ],
)
def test_what_is_not_compared_is_restored_all_the_same(run: Run, bucket: Bucket, told: Any, why: str) -> None:
    bucket.fill("app.db", *ROWS)
    done = run(**bucket.asked(checksums={"/var/lib/app.db": told}, uncompared="why not"))
    (record,) = done["databases"]
    assert (record["ok"], record["compared"], record["uncompared"]) == (True, "no", why)
    (record,) = run(**bucket.asked(uncompared="why not"))["databases"]
    assert (record["ok"], record["uncompared"]) == (True, "why not")


@pytest.mark.parametrize(
    "told",
    [
        {"txid": "-o /etc/passwd", "checksum": "0" * 64},
        {"failed": {"msg": "x"}},
        ["nonsense"],
        None,
    ],
)
def test_an_answer_that_is_none_fails_and_the_others_are_kept(run: Run, bucket: Bucket, told: Any) -> None:
    """What can be restored is restored all the same."""
    for name in ("app.db", "other.db"):
        bucket.fill(name, *ROWS)
    told = {"/var/lib/app.db": told, "/var/lib/other.db": {"failed": "busy"}}
    done = run(**bucket.asked("app.db", "other.db", checksums=told))
    assert done["msg"] == f"{THING}: /var/lib/app.db: the device's answer is not understood"
    kept = [(one["database"], one["ok"], one["restored"]) for one in bucket.kept()]
    assert kept == [("/var/lib/app.db", False, True), ("/var/lib/other.db", True, True)]
    done = run(**bucket.asked(checksums=["whole"]))
    assert done["msg"].endswith("app.db: the device's answer is not understood")


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "7",
        "{}",
        '{"integrity": ["ok"]}',
        '{"integrity": ["ok"], "rows": "many", "tables": [], "checksum": "' + "0" * 64 + '"}',
        "[" * 5000,
    ],
)
def test_a_check_that_is_made_to_say_something_else_fails(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """And what was drilled before it, and after it, is kept."""
    for name in ("a.db", "b.db"):
        bucket.fill(name, *ROWS)
    sources = iter([drill.inspect.getsource(drill.database_content), f"print({said!r})"])
    monkeypatch.setattr(drill.inspect, "getsource", lambda module: next(sources))
    done = run(**bucket.asked("a.db", "b.db"))
    assert done["msg"].startswith(f"{THING}: /var/lib/b.db: the check")
    assert [one["ok"] for one in bucket.kept()] == [True, False]


def test_replication_that_stands_still_fails(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same rule as status on the device; what there is is restored, and says how old it is."""
    monkeypatch.setattr(drill.ls, "_SYNC_SLACK", -1.0)
    bucket.fill("app.db", *ROWS)
    newest = bucket.newest("app.db")[-20:-4]
    ahead = f"{int(newest, 16) + 40:016x}"
    told = {"/var/lib/app.db": {"txid": ahead, "checksum": "0" * 64}}
    done = run(**bucket.asked(checksums=told))
    (record,) = done["databases"]
    assert done["msg"].startswith(
        f"{THING}: /var/lib/app.db: replication lags: the device has transaction {ahead}"
    ), done
    assert "where 1 s are allowed; its newest is 40 before it, and came at 20" in done["msg"]
    assert (record["ok"], record["restored"], record["txid"]) == (False, True, newest)
    assert (record["compared"], record["rows"] >= 3) == ("no", True)


@pytest.mark.parametrize(
    ("key", "look", "age_s", "behind", "late"),
    [
        ("path", "1h", 3700, True, True),
        ("dir", "1h", 3500, True, False),
        ("path", "1h", 90_000, False, False),
        ("dir", "1s", 60, True, True),
        ("path", "1s", 60, "yes", False),
    ],
)
def test_rows_that_litestream_has_not_read_for_too_long_are_a_failure(
    run: Run,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    look: str,
    age_s: int,
    behind: Any,
    late: bool,
) -> None:
    """Whether it only looks rarely, the interval says; where all was read, an old database is at rest."""
    bucket.fill("many/app.db", *ROWS)
    find = drill.Database.newest

    def aged(self: drill.Database) -> drill.Newest | None:
        found = find(self)
        return found and found._replace(time=found.time - drill.datetime.timedelta(seconds=age_s))

    monkeypatch.setattr(drill.Database, "newest", aged)
    place = {"dir": "/var/lib/many", "pattern": "*.db"} if key == "dir" else {"path": "/var/lib/many/app.db"}
    replica = bucket.replica("many" if key == "dir" else "many/app.db")
    config = {"dbs": [{**place, "monitor-interval": look, "replica": replica}]}
    told = {"/var/lib/many/app.db": {"failed": "it was not synced", "behind": behind}}
    done = run(**bucket.asked(config=config, checksums=told))
    (record,) = done["databases"]
    assert (record["ok"], record["restored"], record["uncompared"]) == (not late, True, "it was not synced")
    if late:
        allowed = {"1h": 3617, "1s": 18}[look]
        assert "replication lags: the device has more than its Litestream has read" in done["msg"]
        assert f" s ago, where {allowed} s are allowed: it was not synced" in done["msg"]


def test_the_rule_of_what_is_late_is_that_of_status() -> None:
    """The rotator knows nothing of Ansible, and has it written down once more."""
    config = {"dbs": [{"path": "/a", "replica": {"sync-interval": "30s"}}, {"path": "/b", "replica": {}}]}
    told = SimpleNamespace(sync_interval=drill.ls.sync_interval(config))
    assert drill.ls.sync_limit(config) == rotator.limit(told) == 75.0  # type: ignore[arg-type]


def test_a_transaction_that_was_merged_with_later_ones_is_not_compared(run: Run, bucket: Bucket) -> None:
    """Litestream's retention took its object away; the newest is restored, and that is said."""
    inside, last = bucket.merge("app.db")
    then = f"{inside:016x}"
    told = {"/var/lib/app.db": {"txid": then, "checksum": "0" * 64}}
    (record,) = run(**bucket.asked(checksums=told))["databases"]
    assert (record["ok"], record["compared"]) == (True, "no"), record
    assert int(record["txid"], 16) >= last
    assert record["uncompared"] == f"transaction {then} is in the bucket together with later ones alone"
    told["/var/lib/app.db"]["txid"] = f"{last:016x}"
    assert run(**bucket.asked(checksums=told))["databases"][0]["compared"] == "differs", "this one is there"


def test_no_backup_is_a_failure_and_the_others_are_tried(run: Run, bucket: Bucket) -> None:
    bucket.fill("app.db", *ROWS)
    done = run(**bucket.asked("none.db", "app.db"))
    assert done["failed"]
    assert done["msg"] == (
        f"{THING}: /var/lib/none.db: nothing can be restored: there is no backup below {THING}/none.db/"
    )
    assert [record["ok"] for record in bucket.kept()] == [False, True]


def test_what_looks_like_an_older_litestreams_is_not_opened(run: Run, bucket: Bucket) -> None:
    """Litestream would open it as a database, with the operator's credentials beside it."""
    bucket.fill("app.db", *ROWS)
    old = f"{THING}/app.db/generations/0123456789abcdef/snapshots/00000000.snapshot.lz4"
    time.sleep(1.1)  # of what is as old as the other, that of 0.5 is the newest
    bucket.s3.put_object(Bucket=BUCKET, Key=old, Body=b"from a device")
    done = run(**bucket.asked())
    assert done["failed"]
    assert "its newest backup is one of Litestream 0.3, which this device does not have" in done["msg"]


def test_an_older_litestreams_has_its_limits(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest snapshot is packed and tells the least; log and database lie beside one another."""
    top = f"{THING}/app.db/generations/0123456789abcdef/"
    for name, size in {"snapshots/00000000": 9000, "snapshots/00000001": 2000, "wal/00000001_0": 10}.items():
        bucket.s3.put_object(Bucket=BUCKET, Key=f"{top}{name}.lz4", Body=bytes(size))
        time.sleep(1.1)
    entry = {"path": "/var/lib/app.db", "replicas": [bucket.replica("app.db")]}
    asked = bucket.asked(config={"dbs": [entry]})
    assert "it has 2000 bytes, and may have 1999: raise drill_max_size" in run(**asked, max_size=1999)["msg"]
    free = type("Usage", (), {"free": drill.RESERVE_BYTES + 3000})
    monkeypatch.setattr(drill.shutil, "disk_usage", lambda path: free)
    assert "and 1500 are free: name another drill_scratch" in run(**asked)["msg"]


@pytest.mark.parametrize("series", ["0.3", "0.5"])
def test_an_older_litestreams_backup_is_restored_by_an_older_litestream(
    run: Run, bucket: Bucket, series: str
) -> None:
    """Which knows a list of replicas alone; one of 0.5 that has such a list does not open it either."""
    top = f"{THING}/app.db/generations/0123456789abcdef/"
    bucket.s3.put_object(Bucket=BUCKET, Key=f"{top}snapshots/00000000.snapshot.lz4", Body=bytes(9))
    with contextlib.closing(sqlite3.connect(bucket.top / "was.db")) as database, database:
        database.execute("CREATE TABLE t AS SELECT 1 AS a")
    # What 0.3 does, since there is none here: without a transaction, by the replicas of the only database.
    program = bucket.top / "litestream"
    program.write_text(
        f"#!{sys.executable}\nimport json, shutil, sys\n"
        "order, _, _, config, _, output, path = sys.argv[1:]\n"
        "(entry,) = json.load(open(config))['dbs']\n"
        "(replica,) = entry['replicas']\n"
        f"assert (order, entry['path'], replica['path']) == ('restore', path, '{THING}/app.db')\n"
        f"shutil.copy('{bucket.top}/was.db', output)\n"
    )
    program.chmod(0o755)
    config: dict[str, Any] = {"dbs": [{"path": "/var/lib/app.db", "replicas": [bucket.replica("app.db")]}]}
    if series == "0.5":
        config = drill.ls.render(config, "0.5.17")
    done = run(**bucket.asked(config=config, program=str(program)))
    (record,) = done["databases"]
    if series == "0.5":
        assert "its newest backup is one of Litestream 0.3" in done["msg"]
    else:
        assert (record["ok"], record["restored"], record["rows"], record["txid"]) == (True, True, 1, ""), done


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_object_is_a_failure(run: Run, bucket: Bucket, damage: str) -> None:
    bucket.fill("app.db", *ROWS)
    bucket.fill("app.db", "INSERT INTO t SELECT hex(randomblob(2000)) FROM t")
    key = bucket.newest("app.db")
    body = bytearray(bucket.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    if damage == "changed":
        body[len(body) // 2] ^= 0xFF
    bucket.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(body if damage == "changed" else body[:-60]))
    done = run(**bucket.asked())
    assert done["msg"].startswith(f"{THING}: /var/lib/app.db: Litestream could not restore it: "), done
    assert bucket.kept()[0]["ok"] is False


def test_a_damaged_database_is_a_failure(run: Run, bucket: Bucket) -> None:
    """Litestream replicates it faithfully; SQLite's own check tells."""
    bucket.fill("app.db", *ROWS, "CREATE INDEX i ON t(a)")
    path = bucket.top / "device/app.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("DELETE FROM sqlite_master WHERE name = 'i'")
    bucket.fill("app.db", "INSERT INTO t VALUES (5)")
    done = run(**bucket.asked())
    assert "/var/lib/app.db: it is damaged: " in done["msg"]
    assert bucket.kept()[0]["restored"] is True


@pytest.mark.parametrize("lies", [False, True])
def test_what_is_too_large_is_not_restored(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, lies: bool
) -> None:
    """The device's word is believed where it says too much; a limit holds where it says too little."""
    bucket.fill("app.db", *ROWS, "INSERT INTO t VALUES (randomblob(1000000))")
    if lies:
        monkeypatch.setattr(drill.Prefix, "size", lambda self, newest: 4096)
    done = run(**bucket.asked(max_size=500_000))
    assert "raise drill_max_size" in done["msg"], done
    assert ("it would have more than 500000 bytes" in done["msg"]) == lies


def test_what_finds_no_room_is_not_restored(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.fill("app.db", *ROWS)
    free = type("Usage", (), {"free": drill.RESERVE_BYTES + 100})
    monkeypatch.setattr(drill.shutil, "disk_usage", lambda path: free)
    assert "and 100 are free: name another drill_scratch" in run(**bucket.asked())["msg"]


def test_a_check_that_is_ended_is_a_failure(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash of SQLite would be, or a process that prints without an end."""
    bucket.fill("app.db", *ROWS)
    for source, said in {
        "import os; os.kill(os.getpid(), 11)": "the check ended with -11",
        "import time; time.sleep(60)": "the check took more than 90 s: raise drill_timeout",
    }.items():
        monkeypatch.setattr(drill.inspect, "getsource", lambda module, text=source: text)
        monkeypatch.setattr(drill, "MARGIN_S", -88)
        assert said in run(**bucket.asked(timeout=90))["msg"]


def test_databases_of_a_directory_are_found_in_the_bucket(run: Run, bucket: Bucket) -> None:
    for name in ("many/a.db", "many/c.txt", "many/below/d.db"):
        bucket.fill(name, *ROWS)
    entry = {"dir": "/var/lib/many", "pattern": "*.db", "replica": bucket.replica("many")}
    done = run(**bucket.asked(config={"dbs": [entry]}))
    assert "failed" not in done, done
    assert [record["database"] for record in done["databases"]] == ["/var/lib/many/a.db"]
    config = {"dbs": [{**entry, "recursive": True}]}
    drawn = [
        run(check=True, **bucket.asked(config=config, most=1, seed=seed))
        for seed in ("1", "1", "2", "3", "4", "5")
    ]
    assert all(one["left"] == 1 for one in drawn)
    found = [one["databases"][0]["database"] for one in drawn]
    assert found[0] == found[1]
    assert set(found) == {"/var/lib/many/a.db", "/var/lib/many/below/d.db"}
    chosen = run(**bucket.asked(config=config, most=1, seed="1", state="drawn"))
    assert (chosen["drawn"], chosen["databases"], chosen["left"]) == ([found[0]], [], 1)
    other = ({"/var/lib/many/a.db", "/var/lib/many/below/d.db"} - {found[0]}).pop()
    again = run(check=True, **bucket.asked(config=config, most=1, seed="1", drawn=[other]))
    assert [one["database"] for one in again["databases"]] == [other], "nothing is drawn twice"
    nothing = run(**bucket.asked(config={"dbs": [{**entry, "replica": bucket.replica("none")}]}))
    assert nothing["msg"] == f"{THING}: nothing can be restored: there is no backup of any database"


def test_what_an_interrupted_run_left_is_gone(run: Run, bucket: Bucket) -> None:
    bucket.fill("app.db", *ROWS)
    left = bucket.top / "scratch" / f"drill-{THING}"
    left.mkdir(parents=True)
    (left / "database").write_text("half")
    assert "failed" not in run(**bucket.asked())
    assert not left.exists()
    with (bucket.top / "scratch" / f"drill-{THING}.lock").open("w") as lock:
        drill.fcntl.flock(lock, drill.fcntl.LOCK_EX)
        assert "another drill of edge-0001 is under way here" in run(**bucket.asked())["msg"]


def test_nothing_is_left_of_a_run_that_is_ended(run: Run, bucket: Bucket) -> None:
    """As Ansible ends it where somebody presses Ctrl-C, or a job is stopped."""
    bucket.fill("app.db", *ROWS)
    program = bucket.top / "litestream"
    program.write_text("#!/bin/sh\nkill -TERM $PPID\nsleep 60\n")
    program.chmod(0o755)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(**bucket.asked(program=str(program), timeout=5))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_litestream_has_the_credentials_by_its_environment_alone(
    run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.fill("app.db", *ROWS)
    seen = bucket.top / "seen"
    spy = bucket.top / "litestream"
    spy.write_text(
        f'#!/bin/sh\nexec 3>{seen}\necho "$@" >&3\ncat "$3" >&3\nenv >{seen}.env\nexec {LITESTREAM} "$@"\n'
    )
    spy.chmod(0o755)
    monkeypatch.setenv("SECRET_OF_SOMEBODY", "mine")
    assert "failed" not in run(**bucket.asked(program=str(spy)))
    assert "operator-secret" not in seen.read_text()
    environment = Path(f"{seen}.env").read_text()
    assert "AWS_SECRET_ACCESS_KEY=operator-secret" in environment
    assert "SECRET_OF_SOMEBODY" not in environment


def test_without_credentials_it_says_so(run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill("app.db", *ROWS)
    nothing = SimpleNamespace(get_credentials=lambda: None)
    monkeypatch.setattr(drill.boto3, "Session", lambda: nothing)
    assert "there are no AWS credentials" in run(**bucket.asked())["msg"]


def test_a_thing_is_no_path(run: Run, bucket: Bucket) -> None:
    assert (
        run(**bucket.asked(thing="../elsewhere"))["msg"] == "thing is '../elsewhere': give the thing's name"
    )
