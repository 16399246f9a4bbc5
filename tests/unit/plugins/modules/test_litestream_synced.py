"""litestream_synced: against a socket that answers as litestream-query does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import litestream_synced

Run = Callable[..., dict[str, Any]]
LISTED = {"uptime_s": 1, "databases": [{"path": "/a.db", "error": ""}, {"path": "/b.db", "error": ""}]}


class Query(socketserver.ThreadingUnixStreamServer):
    """Answers from a list for each question, the last one for ever."""

    def __init__(self, path: str) -> None:
        super().__init__(path, Answer)
        self.asked: list[str] = []
        self.answers: dict[str, list[Any]] = {"list": [LISTED]}


class Answer(socketserver.StreamRequestHandler):
    """One question, which ends where the asker stops sending."""

    server: Query

    def handle(self) -> None:
        question = self.rfile.read().decode()
        self.server.asked.append(question)
        answers = self.server.answers.get(question, [{"error": ""}])
        said = answers.pop(0) if len(answers) > 1 else answers[0]
        self.wfile.write(json.dumps(said).encode())


@pytest.fixture
def query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Query]:
    monkeypatch.setattr(litestream_synced, "PAUSE_S", 0.01)
    with Query(str(tmp_path / "query.sock")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(query: Query) -> dict[str, Any]:
    return {"socket": str(query.server_address)}


def test_every_database_is_synced(query: Query, run: Run) -> None:
    done = run(**asked(query))
    assert (done["databases"], done["asked"], done["changed"]) == (["/a.db", "/b.db"], True, False)
    assert query.asked == ["list", "sync /a.db", "sync /b.db"]
    query.asked.clear()
    assert run(check=True, **asked(query))["databases"] == ["/a.db", "/b.db"]
    assert query.asked == ["list"]


def test_what_comes_late_is_waited_for(query: Query, run: Run) -> None:
    query.answers = {
        "list": [{"error": "not running"}, LISTED],
        "sync /b.db": [{"error": "no credentials"}, {"error": ""}],
    }
    assert not run(**asked(query)).get("failed")
    assert query.asked.count("sync /b.db") == 2


def test_what_is_not_in_s3_is_named(query: Query, run: Run) -> None:
    query.answers["sync /b.db"] = [{"error": "AccessDenied"}]
    assert run(**asked(query), timeout=0)["msg"] == "/b.db: AccessDenied"
    query.answers["list"] = [{"error": "not running"}]
    assert run(**asked(query), timeout=0)["msg"] == "Litestream: not running"
    query.answers["list"] = ["no answer of ours"]
    assert "cannot be asked" in run(**asked(query), timeout=0)["msg"]


def test_without_a_socket_nothing_is_proven(tmp_path: Path, run: Run) -> None:
    done = run(socket=str(tmp_path / "none"))
    assert (done["asked"], done["databases"]) == (False, [])
