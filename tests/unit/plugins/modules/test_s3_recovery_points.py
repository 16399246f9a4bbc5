"""s3_recovery_points: against moto's S3, in the layouts that Litestream 0.5.17 and 0.3.13 write."""

from __future__ import annotations

import datetime
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils import s3_replicas
from ansible_collections.edge_litestream.appliance.plugins.modules import s3_recovery_points
from moto import mock_aws
from moto.s3.models import s3_backends

from tests.unit import models_once  # noqa: F401 - for what it does

Run = Callable[..., dict[str, Any]]
BUCKET = "backups"
DAY = 86400


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "operator")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client


def put(s3: Any, *keys: str, age_s: float = 0) -> None:
    """Put objects that came so long ago."""
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
        known = next(iter(s3_backends.values()))["aws"].buckets[BUCKET].keys[key]
        came = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
        known.last_modified = came.replace(tzinfo=None)


def ltx(level: int, start: int, end: int) -> str:
    return f"{level:04x}/{start:016x}-{end:016x}.ltx"


def args(*names: str, **more: Any) -> dict[str, Any]:
    return {"things": [{"name": name, "bucket": BUCKET, "max_age": DAY} for name in names], **more}


def test_a_thing_with_one_database_takes_three_requests(run: Run, s3: Any) -> None:
    for number in range(1, 31):
        put(s3, "edge01/app.db/" + ltx(0, number, number), age_s=31 - number)
    put(s3, *("edge01/app.db/" + ltx(*each) for each in ((1, 1, 29), (2, 1, 25), (9, 1, 1))), age_s=5000)
    # One whose name begins like this one's is another.
    put(s3, "edge010/app.db/" + ltx(0, 1, 9999))
    done = run(**args("edge01"))
    (point,) = done["points"]
    assert (point["thing"], point["database"], point["txid"], point["late"]) == (
        "edge01",
        "app.db",
        30,
        False,
    )
    assert point["age_s"] <= 3
    assert (done["requests"], done["changed"]) == (3, False)


def test_many_objects_are_not_listed(run: Run, s3: Any) -> None:
    """More than a page of the lowest level: what the levels above it say spares all but the last of them."""
    for number in range(1, 1101):
        put(s3, "edge01/app.db/" + ltx(0, number, number), age_s=1101 - number)
    put(s3, *("edge01/app.db/" + ltx(1, n, n + 29) for n in range(1, 1081, 30)), age_s=5000)
    put(s3, *("edge01/app.db/" + ltx(2, n, n + 299) for n in range(1, 901, 300)), age_s=5000)
    put(s3, "edge01/app.db/" + ltx(9, 1, 900), age_s=5000)
    done = run(**args("edge01"))
    assert [(point["txid"], point["age_s"] <= 5) for point in done["points"]] == [(1100, True)]
    assert done["requests"] == 6


def test_a_database_that_rests_is_as_old_as_its_last_transaction(run: Run, s3: Any) -> None:
    """Its lowest level is pruned; the snapshot at midnight does not make it any newer."""
    put(s3, "edge01/app.db/" + ltx(1, 1, 40), age_s=2 * DAY)
    put(s3, "edge01/app.db/" + ltx(2, 1, 40), age_s=2 * DAY - 300)
    put(s3, "edge01/app.db/" + ltx(9, 1, 40), age_s=60)
    (point,) = run(**args("edge01"))["points"]
    assert (point["txid"], point["late"]) == (40, True)
    assert point["age_s"] == pytest.approx(2 * DAY, abs=5)


def test_only_a_snapshot_is_left(run: Run, s3: Any) -> None:
    put(s3, "edge01/app.db/" + ltx(9, 1, 40), age_s=60)
    (point,) = run(**args("edge01"))["points"]
    assert (point["txid"], point["age_s"] >= 60) == (40, True)


def test_litestream_0_3(run: Run, s3: Any) -> None:
    """And the other way round, what it left before an upgrade to 0.5 counts for nothing."""
    for thing in ("old", "upgraded"):
        top = f"{thing}/app.db/generations/"
        put(s3, top + "aaaaaaaaaaaaaaaa/wal/00000009_00000000.wal.lz4", age_s=900)
        put(s3, top + "5054da0141bfac6c/snapshots/00000000.snapshot.lz4", age_s=800)
        put(s3, top + "5054da0141bfac6c/wal/00000000_00004080.wal.lz4", age_s=700)
    put(s3, "upgraded/app.db/" + ltx(0, 1, 1), age_s=5)
    put(s3, "fresh/app.db/generations/5054da0141bfac6c/snapshots/00000000.snapshot.lz4", age_s=30)
    found = {point["thing"]: point for point in run(**args("old", "upgraded", "fresh"))["points"]}
    assert [found[thing]["age_s"] // 60 for thing in ("old", "upgraded", "fresh")] == [11, 0, 0]
    assert (found["old"]["txid"], found["upgraded"]["txid"]) == (None, 1)


def test_a_prefix_without_anything_and_one_of_something_else(run: Run, s3: Any) -> None:
    put(s3, "foreign/readme.txt", "foreign/0000/notes.ltx", "foreign/photos/2026/a.jpg")
    put(s3, "mixed/readme.txt", "mixed/photos/a.jpg", "mixed/deep/er/app.db/" + ltx(0, 1, 7))
    put(s3, "mixed/deep/er/app.db/0000/zzz", "mixed/deep/er/app.db/0000/" + "f" * 16 + ".ltx")
    done = run(**args("empty", "foreign", "mixed"))
    assert [
        (point["thing"], point["database"], point["txid"], point["problem"]) for point in done["points"]
    ] == [
        ("empty", None, None, "nothing can be restored"),
        ("foreign", None, None, "nothing can be restored"),
        ("mixed", "deep/er/app.db", 7, ""),
    ]
    assert done["lines"][-1] == "3 things, 2 with a recovery point that is late or missing"


def configured(**more: Any) -> dict[str, Any]:
    """What edge01 has, and of it three databases and a directory."""
    dbs: list[dict[str, Any]] = [
        {"path": f"/var/lib/{name}", "replica": {"type": "s3", "bucket": BUCKET, "path": f"edge01/{name}"}}
        for name in ("a.db", "b.db")
    ]
    dbs.append({"path": "/var/lib/c.db", "replicas": [{"url": f"s3://{BUCKET}-2/edge01/a.db"}]})
    dbs.append(
        {
            "dir": "/var/lib/many",
            "pattern": "*.db",
            "replica": {"type": "s3", "bucket": BUCKET, "path": "edge01/many"},
        }
    )
    return {"name": "edge01", "bucket": BUCKET, "max_age": DAY, "config": {"dbs": dbs}, **more}


def test_a_configured_database_that_is_not_there_is_missing(run: Run, s3: Any, tmp_path: Path) -> None:
    """Also one of a directory without any, and one whose replica is in another bucket."""
    s3.create_bucket(Bucket=f"{BUCKET}-2")
    put(s3, "edge01/a.db/" + ltx(0, 1, 1), "edge01/other.db/" + ltx(0, 1, 1))
    s3.put_object(Bucket=BUCKET, Key="edge01/b.db/0000/notes.txt", Body=b"")
    metrics = tmp_path / "edge.prom"
    done = run(things=[configured()], metrics_file=str(metrics))
    assert {point["database"]: (point["missing"], bool(point["time"])) for point in done["points"]} == {
        "a.db": (False, True),
        "b.db": (True, False),
        f"s3://{BUCKET}-2/edge01/a.db": (True, False),
        "many/*.db": (True, False),
        "other.db": (False, True),
    }
    assert done["lines"][-1].endswith("; 3 configured databases are missing")
    text = metrics.read_text()
    assert 'edge_recovery_point_missing{thing="edge01",database="b.db"} 1' in text
    assert 'edge_recovery_point_missing{thing="edge01",database="a.db"} 0' in text
    put(s3, "edge01/many/x.db/" + ltx(0, 1, 1), "edge01/b.db/" + ltx(0, 1, 1))
    done = run(things=[configured()])
    assert [point["database"] for point in done["points"] if point["missing"]] == [
        f"s3://{BUCKET}-2/edge01/a.db"
    ]


def test_a_device_that_fills_its_prefix_holds_nobody_up(
    run: Run, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is configured is known all the same, and what is not known is in a metric."""
    monkeypatch.setattr(s3_replicas, "MAX_REQUESTS", 20)
    s3.create_bucket(Bucket=f"{BUCKET}-2")
    put(s3, *(f"edge01/{number:03}/x" for number in range(30)))
    put(s3, "edge01/a.db/" + ltx(0, 1, 1), "edge02/app.db/" + ltx(0, 1, 1))
    metrics = tmp_path / "edge.prom"
    done = run(things=[configured(), *args("edge02")["things"]], metrics_file=str(metrics))
    problems = {(point["thing"], point["database"]): point["problem"] for point in done["points"]}
    assert problems["edge01", None].startswith("given up after 20 requests: there is more below edge01/0")
    assert problems["edge01", "a.db"] == problems["edge02", "app.db"] == ""
    assert ("edge01", "many/*.db") not in problems, "nobody has seen all"
    text = metrics.read_text()
    assert 'edge_recovery_point_unknown{thing="edge01"} 1' in text
    assert 'edge_recovery_point_unknown{thing="edge02"} 0' in text


def test_a_hundred_and_fifty_databases_of_a_directory_are_known(run: Run, s3: Any) -> None:
    put(s3, *(f"edge01/many/{number:03}.db/" + ltx(0, 1, 1) for number in range(150)))
    thing = configured()
    thing["config"]["dbs"] = thing["config"]["dbs"][3:]
    done = run(things=[thing])
    assert len(done["points"]) == 150
    assert not any(point["problem"] for point in done["points"])
    assert done["requests"] == 2 + 2 * 150, "more than one prefix may take, and two for each"


def test_databases_without_an_end_come_to_one(run: Run, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_REQUESTS": 10, "EACH_REQUESTS": 1, "MAX_DATABASES": 5}.items():
        monkeypatch.setattr(s3_replicas, name, value)
    put(s3, *(f"edge01/{number:03}.db/" + ltx(0, 1, 1) for number in range(40)))
    done = run(**args("edge01"))
    assert done["requests"] == 15
    assert [point["problem"][:24] for point in done["points"] if point["unknown"]] == [
        "given up after 15 reques"
    ]


def test_names_that_look_the_same_make_no_sample_twice(run: Run, s3: Any, tmp_path: Path) -> None:
    """The collector would read nothing of the file, of any device."""
    put(s3, "edge01/a\u2028.db/" + ltx(0, 1, 1), "edge01/a\u2029.db/" + ltx(0, 1, 1))
    run(**args("edge01"), metrics_file=str(tmp_path / "edge.prom"))
    samples = [
        line.rpartition(" ")[0]
        for line in (tmp_path / "edge.prom").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert len(samples) == len(set(samples))


def test_metrics_and_data(run: Run, s3: Any, tmp_path: Path) -> None:
    put(s3, "edge01/a.db/" + ltx(0, 1, 1), "edge01/b.db/" + ltx(0, 1, 1), age_s=100)
    put(s3, 'edge02/"\\\n\u2028.db/' + ltx(0, 1, 1))
    files = {"metrics_file": str(tmp_path / "edge.prom"), "data_file": str(tmp_path / "points.json")}
    run(check=True, **args("edge01"), **files)
    assert list(tmp_path.iterdir()) == []
    done = run(**args("edge01", "edge02", "edge03"), **files)
    text = (tmp_path / "edge.prom").read_text()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    now = float(samples["edge_recovery_point_updated_timestamp_seconds"])
    name = "edge_recovery_point_timestamp_seconds"
    assert now - float(samples[name + '{thing="edge01",database="a.db"}']) == pytest.approx(100, abs=3)
    assert name + '{thing="edge02",database="\\"\\\\??.db"}' in samples
    counts = [samples[f'edge_recovery_point_databases{{thing="edge0{n}"}}'] for n in (1, 2, 3)]
    assert counts == ["2", "1", "0"]
    assert samples['edge_recovery_point_max_age_seconds{thing="edge03"}'] == "86400"
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")} == set(
        s3_recovery_points.METRICS
    )
    assert json.loads((tmp_path / "points.json").read_text())["points"] == done["points"]
    assert stat.S_IMODE((tmp_path / "points.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "edge.prom").stat().st_mode) == 0o644


def test_a_file_that_cannot_be_written_is_named(run: Run, s3: Any, tmp_path: Path) -> None:
    done = run(**args("edge01"), metrics_file=str(tmp_path / "none/edge.prom"))
    assert done["failed"]
    assert (
        f"metrics_file is '{tmp_path}/none/edge.prom', which cannot be written: No such file" in done["msg"]
    )


def test_a_bucket_that_is_not_there_is_an_error(run: Run, s3: Any) -> None:
    done = run(things=[{"name": "edge01", "bucket": "nobodys", "max_age": 1}])
    assert done["failed"]
    assert "NoSuchBucket" in done["msg"]
