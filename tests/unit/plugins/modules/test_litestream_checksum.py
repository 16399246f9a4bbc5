"""litestream_checksum: with the real Litestream, while an application writes ten rows a second."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import litestream_checksum as checksum

Run = Callable[..., dict[str, Any]]
LITESTREAM = shutil.which("litestream") or str(Path(sys.executable).with_name("litestream"))
pytestmark = pytest.mark.skipif(not Path(LITESTREAM).exists(), reason="needs Litestream")
SOURCE = (Path(__file__).parents[4] / "plugins/module_utils/database_content.py").read_text()


class Application:
    """Writes rows, each a transaction, and waits for a lock no longer than a second: it would fail."""

    litestream: subprocess.Popen[bytes]

    def __init__(self, path: Path) -> None:
        self.path, self.pause_s, self.error, self.ended = path, 0.1, "", threading.Event()
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def write(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=1)) as database:
            while not self.ended.wait(self.pause_s):
                try:
                    database.execute("INSERT INTO t VALUES (hex(randomblob(100)))")
                except sqlite3.Error as error:
                    self.error = str(error)

    def end(self) -> None:
        self.ended.set()
        self.thread.join()


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Litestream's, with the interval that a test names."""
    replica = {"type": "file", "path": str(tmp_path / "replica")}
    entry = {"path": str(tmp_path / "app.db"), "meta-path": str(tmp_path / "meta"), "replica": replica}
    return {
        "socket": {"enabled": True, "path": str(tmp_path / "socket")},
        "dbs": [{**entry, "monitor-interval": getattr(request, "param", "1s")}],
    }


class Query(socketserver.ThreadingUnixStreamServer):
    """Passes syncs on to Litestream, as litestream-query does."""

    asked = 0


class Answer(socketserver.StreamRequestHandler):
    """One question, which ends where the asker stops sending."""

    server: Query

    def handle(self) -> None:
        order, _unused, path = self.rfile.read().decode().partition(" ")
        assert order == "sync"
        self.server.asked += 1
        body = json.dumps({"path": path, "wait": True, "timeout": 30}).encode()
        with socket.socket(socket.AF_UNIX) as litestream:
            litestream.connect(str(Path(path).with_name("socket")))
            litestream.sendall(b"POST /sync HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            said = b"".join(iter(lambda: litestream.recv(65536), b""))
        self.wfile.write(b'{"error": ""}' if b" 200 " in said.splitlines()[0] else b'{"error": "no"}')


@pytest.fixture
def query(tmp_path: Path) -> Iterator[Query]:
    with Query(str(tmp_path / "query"), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def application(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Application]:
    """An application and Litestream; no systemd here, commands run as they are."""
    monkeypatch.setattr(checksum, "unit_properties", lambda unit: {"User": ["litestream"]})
    monkeypatch.setattr(checksum, "transient", lambda unit, directory, network: ["env"])
    monkeypatch.setattr(checksum, "LIMIT", "LIMIT_S={}")
    monkeypatch.setattr(checksum, "MODEST", [])
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t(x)")
    (tmp_path / "litestream.yml").write_text(json.dumps(config))
    application = Application(path)
    with subprocess.Popen(
        [LITESTREAM, "replicate", "-config", str(tmp_path / "litestream.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as litestream:
        try:
            deadline = time.monotonic() + 30
            first = "socket" if config["dbs"][0]["monitor-interval"] == "1h" else "replica"
            while not (tmp_path / first).exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            application.litestream = litestream
            yield application
        finally:
            application.end()
            litestream.terminate()


def restored(config: dict[str, Any], tmp_path: Path, txid: str) -> dict[str, Any]:
    """What is in the database as of a transaction, once that is in the replica."""
    output = tmp_path / f"restored-{txid}"
    command = [LITESTREAM, "restore", "-config", str(tmp_path / "litestream.yml"), "-txid", txid]
    command += ["-o", str(output), config["dbs"][0]["path"]]
    for _attempt in range(20):
        if subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0:
            break
        time.sleep(0.5)
    question = json.dumps({"act": "check", "path": str(output), "seconds": 30})
    done = subprocess.run(
        [sys.executable, "-I", "-c", SOURCE], input=question, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def test_what_is_restored_is_what_was_there(
    run: Run, config: dict[str, Any], application: Application, tmp_path: Path
) -> None:
    """Several times, while rows are written, and afterwards; the application never finds a lock."""
    seen = []
    for writing in (True, True, True, False):
        if not writing:
            application.end()
            time.sleep(2)
        told = run(config=config)["databases"][config["dbs"][0]["path"]]
        assert "failed" not in told, told
        found = restored(config, tmp_path, told["txid"])
        assert found["checksum"] == told["checksum"]
        seen.append((told["txid"], found["rows"]))
    assert application.error == ""
    assert len(set(seen)) > 1, "there was something to compare"


def test_too_busy_is_told_and_is_no_failure(
    run: Run, config: dict[str, Any], application: Application
) -> None:
    """Litestream comes no further here, and the application does."""
    application.litestream.send_signal(signal.SIGSTOP)
    time.sleep(1)
    begin = time.monotonic()
    done = run(config=config, wait=2)
    application.litestream.send_signal(signal.SIGCONT)
    assert 2 <= time.monotonic() - begin < 20
    assert "failed" not in done
    (told,) = done["databases"].values()
    assert (told["failed"].split(":")[0], told["behind"]) == ("too busy to compare", True)


@pytest.mark.parametrize("config", ["1h"], indirect=True)
def test_where_litestream_looks_once_an_hour_it_is_asked_to(
    run: Run, config: dict[str, Any], application: Application, tmp_path: Path, query: Query
) -> None:
    """While rows are written; where it cannot be asked, that is the reason, and not a busy database."""
    path, asked = config["dbs"][0]["path"], str(query.server_address)
    # As Litestream's unit does when it has started.
    assert checksum.litestream_query.ask(asked, f"sync {path}") == {"error": ""}
    time.sleep(1)
    told = run(config=config, socket=asked)["databases"][path]
    assert "failed" not in told, told
    found = restored(config, tmp_path, told["txid"])
    assert (found["checksum"], found["rows"] > 5) == (told["checksum"], True)
    assert application.error == ""
    before = query.asked
    for more in ({"check": True, "socket": asked}, {"socket": str(tmp_path / "none")}):
        time.sleep(1)
        told = run(config=config, wait=2, **more)["databases"][path]
        assert (told["behind"], query.asked) == (True, before)
    assert told["failed"].startswith(
        "Litestream looks at it every 3600 s, and did not sync it when asked: Litestream cannot be asked: "
    )


def test_what_cannot_be_read_is_told(
    run: Run, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without Litestream 0.5, or without a database; a directory's databases are found by the pattern."""
    monkeypatch.setattr(checksum, "unit_properties", lambda unit: {})
    monkeypatch.setattr(checksum, "transient", lambda unit, directory, network: ["env"])
    monkeypatch.setattr(checksum, "LIMIT", "LIMIT_S={}")
    monkeypatch.setattr(checksum, "MODEST", [])
    databases = tmp_path / "databases"
    databases.mkdir()
    for name in ("a.db", "b.db", "c.txt"):
        (databases / name).touch()
    config["dbs"].append({"dir": str(databases), "pattern": "*.db", "replica": {"path": "x"}})
    done = run(config=config)
    paths = [str(tmp_path / "app.db"), str(databases / "a.db"), str(databases / "b.db")]
    assert sorted(done["databases"]) == paths
    assert all("No such file" in told["failed"] for told in done["databases"].values())
    assert len(run(config=config, most=1)["databases"]) == 1
    # What was drawn on the control node, and nothing else.
    drawn = [str(databases / "b.db"), "/etc/shadow"]
    done = run(config=config, databases=drawn)
    assert list(done["databases"]) == drawn
    assert done["databases"]["/etc/shadow"]["failed"] == "it is none of the device's databases"


def test_a_program_that_is_ended_is_told(
    run: Run, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "unit_properties", lambda unit: {})
    monkeypatch.setattr(checksum, "transient", lambda unit, directory, network: ["sh", "-c", "kill $$"])
    (told,) = run(config=config)["databases"].values()
    assert told["failed"] == "it ended with -15"
