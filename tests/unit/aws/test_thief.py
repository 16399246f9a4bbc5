"""A thief with a device's rights against its replica: what is lost is nothing, with the real Litestream.

moto is S3 in this process; a small server on loopback lets Litestream in.
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml
from moto import mock_aws

from tests.unit import models_once  # noqa: F401 - for what it does

ROOT = Path(__file__).resolve().parents[3]
LITESTREAM = shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))
pytestmark = pytest.mark.skipif(not Path(LITESTREAM).exists(), reason="needs Litestream")
BUCKET, THING = "example-edge-backups", "edge-0001"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Door(http.server.BaseHTTPRequestHandler):
    """Hands a request to moto, which answers what `requests` asks of AWS."""

    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        """Pass one request on, and its answer back; the answer to HEAD has a length and no body."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        url = f"https://s3.us-east-1.amazonaws.com{self.path}"
        answer = requests.request(self.command, url, headers=headers, data=body, timeout=30, stream=True)
        content = b"" if self.command == "HEAD" else answer.content
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "content-encoding"}:
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """S3 with the bucket of files/aws-fleet.yaml."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        template = yaml.safe_load((ROOT / "files/aws-fleet.yaml").read_text())
        versioning = template["Resources"]["Bucket"]["Properties"]["VersioningConfiguration"]
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=versioning)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()


def rows(path: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return database.execute("SELECT * FROM t ORDER BY rowid").fetchall()


@pytest.fixture
def config(tmp_path: Path, endpoint: str) -> Path:
    path = tmp_path / "litestream.yml"
    replica = {
        "type": "s3",
        "bucket": BUCKET,
        "path": f"{THING}/app.db",
        "region": "us-east-1",
        "endpoint": endpoint,
        "force-path-style": True,
        "sync-interval": "100ms",
    }
    database = {"path": str(tmp_path / "app.db"), "monitor-interval": "100ms", "replica": replica}
    path.write_text(yaml.safe_dump({"dbs": [database]}))
    return path


def replicate(config: Path, database: Path, rounds: int) -> list[tuple[Any, ...]]:
    """Write rows while Litestream replicates, and let it upload the last of them."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t(x)")
        with config.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                [LITESTREAM, "replicate", "-config", str(config)],
                env=KEYS,
                stdout=log,
                stderr=log,
            )
        try:
            for number in range(rounds):
                connection.execute("INSERT INTO t VALUES (?)", (f"{number} " + os.urandom(2000).hex(),))
                time.sleep(0.25)
            time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        assert process.returncode == 0, config.with_suffix(".log").read_text()
    return rows(database)


def restore(config: Path, tmp_path: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [
        LITESTREAM,
        "restore",
        "-config",
        str(config),
        "-o",
        str(tmp_path / name),
        str(tmp_path / "app.db"),
    ]
    return subprocess.run(command, env=KEYS, capture_output=True, text=True, check=False, timeout=60)


def undelete(endpoint: str, point: str, *options: str, **more: str) -> tuple[int, str]:
    """Run the playbook as an operator does."""
    known = {
        "undelete_bucket": BUCKET,
        "undelete_thing": THING,
        "undelete_time": point,
        "undelete_endpoint": endpoint,
        **more,
    }
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), "--inventory=localhost,", *options),
            *(f"--extra-vars={yaml.safe_dump(known, default_flow_style=True, width=10_000).strip()}",),
            str(ROOT / "playbooks/undelete.yml"),
        ],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.timeout(300)
def test_a_replica_survives_a_thief(tmp_path: Path, config: Path, endpoint: str) -> None:
    written = replicate(config, tmp_path / "app.db", 8)
    assert len(written) == 8
    assert restore(config, tmp_path, "before.db").returncode == 0
    assert rows(tmp_path / "before.db") == written
    # The next whole second: S3 knows no others.
    time.sleep(1 - time.time() % 1)
    point = datetime.datetime.fromtimestamp(int(time.time()) - 0.1, datetime.UTC).isoformat()

    # The device's rights: s3:PutObject and s3:DeleteObject below its prefix, no versions. See test_fleet.py.
    thief = boto3.client("s3", endpoint_url=endpoint)
    found = [entry["Key"] for entry in thief.list_objects_v2(Bucket=BUCKET, Prefix=f"{THING}/")["Contents"]]
    assert len(found) > 3
    for number, key in enumerate(found):
        if number % 3 != 1:
            # As if it were an undelete's copy, as far as a device can: it has no right to write tags.
            known = thief.head_object(Bucket=BUCKET, Key=key)
            forged = {"Body": b"x" * known["ContentLength"], "Metadata": {"undelete-of": known["VersionId"]}}
            thief.put_object(Bucket=BUCKET, Key=key, **forged)
        if number % 3 != 0:
            thief.delete_object(Bucket=BUCKET, Key=key)
    last = sorted(found)[-1]
    thief.put_object(Bucket=BUCKET, Key=f"{last[:-5]}f.ltx", Body=b"pay")
    assert restore(config, tmp_path, "stolen.db").returncode != 0

    code, said = undelete(endpoint, point, "--check")
    assert code == 0, said
    assert f"{len(found)} objects get an older version back, 1 that are newer are hidden" in said
    assert restore(config, tmp_path, "stolen.db").returncode != 0, "check mode changes nothing"

    code, said = undelete(endpoint, point)
    assert code == 0, said
    assert "(item=1 of 1)" in said
    assert "changed=1" in said
    done = restore(config, tmp_path, "after.db")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "after.db") == written

    code, said = undelete(endpoint, point)
    assert code == 0, said
    assert "changed=0" in said


def test_what_is_missing_is_named(endpoint: str) -> None:
    code, text = undelete(endpoint, "", undelete_bucket="", undelete_thing="edge-0001/")
    assert code != 0
    for said in ("give the bucket's name", "without a slash", "undelete_time is not set"):
        assert said in text
