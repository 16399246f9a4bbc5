"""What a device that pulls fetches: whole, by its checksum, no byte twice, however often the link breaks."""

from __future__ import annotations

import hashlib
import http.server
import random
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import artifacts, bundle

SIZE = 200_000
DATA = random.Random(11).randbytes(SIZE)  # noqa: S311 - not for a secret
NAME = "program.tar.gz"


class Server(http.server.ThreadingHTTPServer):
    """Serves one file by HTTPS, and hangs up where it is told to."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("localhost", 0), Handler)
        self.data, self.cut, self.ranges = DATA, 0, True
        self.given = self.connections = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as a static server does."""

    server: Server

    def do_GET(self) -> None:
        self.server.connections += 1
        data = self.server.data
        if not self.path.endswith(NAME):
            return self.send_error(404)
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if not self.server.ranges:
            begin = 0
        if begin >= len(data):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        end = min(len(data), begin + self.server.cut) if self.server.cut else len(data)
        self.wfile.write(data[begin:end])
        self.server.given += end - begin
        self.close_connection = True
        return None

    def log_message(self, *_words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(artifacts.time, "sleep", lambda _s: None)
    running = Server(certificate, key)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def told(server: Server, tmp_path: Path) -> dict[str, Any]:
    return {
        "url": f"https://localhost:{server.server_port}/",
        "sums": {NAME: hashlib.sha256(DATA).hexdigest()},
        "cache": str(tmp_path / "cache"),
        "installed": str(tmp_path / "opt"),
    }


def test_a_transfer_that_is_cut_at_every_tenth_goes_on_where_it_was(
    server: Server, told: dict[str, Any]
) -> None:
    server.cut = SIZE // 10
    assert artifacts.fetch(NAME, told).read_bytes() == DATA
    assert server.connections == 10
    assert server.given == SIZE, "no byte twice"


def test_what_is_there_of_an_earlier_run_is_not_fetched_again(server: Server, told: dict[str, Any]) -> None:
    cache = Path(told["cache"])
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(DATA[: SIZE - 7])
    assert artifacts.fetch(NAME, told).read_bytes() == DATA
    assert server.given == 7
    assert artifacts.fetch(NAME, told).read_bytes() == DATA
    assert server.connections == 1


def test_a_server_without_ranges_is_taken_from_the_beginning(server: Server, told: dict[str, Any]) -> None:
    server.ranges = False
    Path(told["cache"]).mkdir()
    Path(told["cache"], f"{NAME}.part").write_bytes(DATA[:1000])
    assert artifacts.fetch(NAME, told).read_bytes() == DATA


@pytest.mark.parametrize("part", [b"", b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)])
def test_a_wrong_beginning_is_thrown_away_once(server: Server, told: dict[str, Any], part: bytes) -> None:
    Path(told["cache"]).mkdir()
    Path(told["cache"], f"{NAME}.part").write_bytes(part)
    assert artifacts.fetch(NAME, told).read_bytes() == DATA


def test_another_file_under_the_name_is_refused_and_not_kept(server: Server, told: dict[str, Any]) -> None:
    server.data = DATA[:-1] + b"x"
    with pytest.raises(artifacts.ArtifactError, match=r"repository says [0-9a-f]+: nothing was kept"):
        artifacts.fetch(NAME, told)
    assert list(Path(told["cache"]).iterdir()) == []


def test_a_link_that_brings_nothing_is_given_up_and_what_came_is_kept(
    server: Server, told: dict[str, Any]
) -> None:
    server.cut = SIZE // 2
    server.data = DATA
    cache = Path(told["cache"])
    cache.mkdir()
    (cache / f"{NAME}.part").write_bytes(DATA[:5])
    told["url"] = "https://localhost:1/"
    with pytest.raises(artifacts.ArtifactError, match=r"no byte more in 4 .* after 5 bytes"):
        artifacts.fetch(NAME, told)
    assert (cache / f"{NAME}.part").read_bytes() == DATA[:5]


def test_what_is_not_there_or_not_trusted_is_said(
    server: Server, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        artifacts.ArtifactError, match=r"has no 'other': run edge_litestream.appliance.artifacts"
    ):
        artifacts.fetch("other", told)
    told["sums"]["missing"] = "0" * 64
    with pytest.raises(artifacts.ArtifactError, match="404"):
        artifacts.fetch("missing", told)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(artifacts.ArtifactError, match=r"(?i)certificate"):
        artifacts.fetch(NAME, told)
    assert server.given == 0


def test_a_version_that_is_installed_is_not_fetched(server: Server, told: dict[str, Any]) -> None:
    plan = bundle.Core(told["cache"])
    told["sums"][plan.artifact] = "0" * 64
    with pytest.raises(artifacts.ArtifactError, match="404"):
        artifacts.bundle(plan, told, dry=False)
    assert artifacts.bundle(plan, told, dry=True)["assembled"] is False
    there = Path(told["installed"], plan.version)
    there.mkdir(parents=True)
    (there / "complete").touch()
    before = server.connections
    assert artifacts.bundle(plan, told, dry=False)["version"] == plan.version
    assert server.connections == before


def test_devices_get_the_ansible_core_that_the_tests_run() -> None:
    pins = [
        next(line for line in path.read_text().splitlines() if line.startswith("ansible-core=="))
        for path in (bundle.PULL_LOCK, bundle.COLLECTION / "requirements.lock")
        if path.exists()
    ]
    assert len(set(pins)) == 1, pins


def test_more_than_anything_that_is_made_is_not_kept(
    server: Server, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who serves it must not fill the disk."""
    monkeypatch.setattr(artifacts, "MAX_BYTES", SIZE // 2)
    with pytest.raises(artifacts.ArtifactError, match="is larger than 100000 bytes"):
        artifacts.fetch(NAME, told)
    assert list(Path(told["cache"]).iterdir()) == []
