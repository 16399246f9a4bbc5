"""Both endpoints in this process, over real TLS, with a small object store behind the gate."""

import hashlib
import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from edge_cloud import sigv4
from edge_cloud.gate import Gate
from edge_cloud.ledger import Key, Ledger
from edge_cloud.provider import Provider
from edge_cloud.settings import Settings
from lab import pki
from lab.settings import Machine, Paths

HOST = "localhost"
REGION = "eu-central-1"


class Store(BaseHTTPRequestHandler):
    """An object store without any check."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) == length:
            cast(Any, self.server).objects[self.path] = body
        self._answer(200, b"")

    do_POST = do_PUT  # noqa: N815

    def do_GET(self) -> None:
        body = cast(Any, self.server).objects.get(self.path)
        self._answer(404 if body is None else 200, body or b"")

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the lab's certificates, and a device's."""
    state = tmp_path_factory.mktemp("lab")
    machine = Machine("cloud01", frozenset(), "bookworm", "10.83.0.10", (HOST,))
    pki.ensure(Paths(state, state), {machine.name: machine})
    directory = state / "pki"
    for command in (
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        " -keyout device.key -subj /CN=edge01 -out device.csr",
        "x509 -req -in device.csr -CA fleet-ca.crt -CAkey fleet-ca.key -out device.crt",
    ):
        subprocess.run(["openssl", *command.split()], check=True, cwd=directory, capture_output=True)
    return directory


@pytest.fixture
def settings(keys: Path, tmp_path: Path) -> Settings:
    settings = Settings(
        region=REGION,
        bucket="backups",
        role_alias="alias",
        provider_host=HOST,
        provider_port=0,
        s3_host=HOST,
        s3_port=0,
        upstream_port=0,
        tls=str(keys),
        ledger=str(tmp_path / "ledger.db"),
        logs=str(tmp_path),
    )
    Ledger(settings.ledger).create("alias", 900)
    return settings


def logged(settings: Settings, name: str) -> dict[str, Any]:
    """Return the last line of a request log, which is written just after the answer."""
    for _ in range(100):
        if lines := settings.log(name).read_text().splitlines():
            return cast(dict[str, Any], json.loads(lines[-1]))
        time.sleep(0.01)
    raise AssertionError("nothing was logged")


# The provider


Fetch = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def fetch(settings: Settings, keys: Path) -> Iterator[Fetch]:
    with serving(Provider(settings)) as port:

        def request(
            thing: str | None = "edge01", alias: str = "alias", *, certificate: bool = True
        ) -> tuple[int, dict[str, Any]]:
            context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
            if certificate:
                context.load_cert_chain(keys / "device.crt", keys / "device.key")
            connection = http.client.HTTPSConnection(HOST, port, timeout=5, context=context)
            headers = {"x-amzn-iot-thingname": thing} if thing else {}
            connection.request("GET", f"/role-aliases/{alias}/credentials", headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            connection.close()
            return answer.status, body

        yield request


def test_credentials_are_issued_and_remembered(settings: Settings, fetch: Fetch) -> None:
    status, body = fetch()
    content = body["credentials"]
    key = Ledger(settings.ledger).key(content["accessKeyId"])
    assert status == 200
    assert key is not None
    assert (key.thing, key.secret, key.token) == (
        "edge01",
        content["secretAccessKey"],
        content["sessionToken"],
    )
    log = settings.log("provider").read_text()
    assert content["secretAccessKey"] not in log
    assert content["sessionToken"] not in log


@pytest.mark.parametrize(
    ("change", "arguments", "expected"),
    [
        (None, {"alias": "other"}, (404, "Role alias does not exist")),
        (None, {"thing": "edge02"}, (403, "Invalid thing name passed")),
        ("detach", {}, (403, "Invalid thing name passed")),
        ("revoke", {}, (403, "Certificate is invalid on this endpoint")),
    ],
)
def test_refusals(
    settings: Settings,
    fetch: Fetch,
    change: str | None,
    arguments: dict[str, str],
    expected: tuple[int, str],
) -> None:
    ledger = Ledger(settings.ledger)
    fetch()
    if change == "detach":
        ledger.set_attached("edge01", False)
    elif change == "revoke":
        assert ledger.set_certificates("edge01", active=False) == 1
    status, body = fetch(**arguments)
    assert (status, body["message"]) == expected


def test_nobody_comes_in_without_a_certificate(fetch: Fetch) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        fetch(certificate=False)


def test_a_fault_happens_as_often_as_asked(settings: Settings, fetch: Fetch) -> None:
    ledger = Ledger(settings.ledger)
    ledger.add_fault("policy-denied", {}, "edge01", 1)
    ledger.add_fault("untrusted-ca", {}, None, 1)
    with pytest.raises(ssl.SSLCertVerificationError):
        fetch()
    assert fetch()[0] == 403
    assert fetch()[0] == 200
    assert ledger.faults() == []


# The gate


class Client:
    """Signs requests with a key, and keeps its connection like Litestream does."""

    def __init__(self, port: int, keys: Path, key: Key) -> None:
        context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
        self.key = key
        self.connection = http.client.HTTPSConnection(HOST, port, timeout=5, context=context)

    def __call__(
        self, method: str, target: str, body: bytes = b"", digest: str | None = None
    ) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = {
            "host": HOST,
            "x-amz-content-sha256": digest or hashlib.sha256(body).hexdigest(),
            "x-amz-date": stamp,
            "x-amz-security-token": self.key.token or "",
        }
        request = sigv4.Request(method, path, query, list(headers.items()))
        claim = sigv4.Authorization(self.key.access_key, stamp[:8], REGION, "s3", tuple(sorted(headers)), "")
        headers["authorization"] = (
            f"{sigv4.ALGORITHM} Credential={claim.access_key}/{claim.scope},"
            f"SignedHeaders={';'.join(claim.signed)},"
            f"Signature={sigv4.signature(request, claim, self.key.secret)}"
        )
        self.connection.request(method, target, body or None, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def client(settings: Settings, keys: Path) -> Iterator[Client]:
    key = Ledger(settings.ledger).issue("edge01", "alias", "01", 900)
    store = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    cast(Any, store).objects = {}
    with serving(store) as upstream_port:
        gate = Gate(Settings(**{**vars(settings), "upstream_port": upstream_port}))
        with serving(gate) as port:
            client = Client(port, keys, key)
            yield client
            client.connection.close()


def test_what_is_put_can_be_got_over_one_connection(settings: Settings, client: Client) -> None:
    body = b"x" * 300_000
    assert client("PUT", "/backups/edge01/a%20b", body) == (200, b"")
    assert client("GET", "/backups/edge01/a%20b") == (200, body)
    assert client("HEAD", "/backups/edge01/a%20b") == (200, b"")
    assert client("PUT", "/backups/edge01/u", b"y", sigv4.UNSIGNED) == (200, b"")
    record = logged(settings, "gate")
    assert record["thing"] == "edge01"
    assert record["at_ms"] == pytest.approx(time.time() * 1000, abs=5000)


def test_a_refusal_leaves_the_connection_usable(settings: Settings, client: Client) -> None:
    status, body = client("PUT", "/backups/edge02/a", b"x" * 300_000)
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)
    assert client("PUT", "/backups/edge01/a", b"x") == (200, b"")
    Ledger(settings.ledger).expire("edge01")
    status, body = client("PUT", "/backups/edge01/a", b"x")
    assert (status, b"<Code>ExpiredToken</Code>" in body) == (400, True)


def test_a_body_that_is_not_what_was_signed_is_never_stored(client: Client) -> None:
    status, body = client("PUT", "/backups/edge01/a", b"x", hashlib.sha256(b"y").hexdigest())
    assert (status, b"XAmzContentSHA256Mismatch" in body) == (400, True)
    assert client("GET", "/backups/edge01/a")[0] == 404


@pytest.mark.parametrize(("key", "status"), [("edge01/a", 200), ("edge02/a", 403)])
def test_a_batch_delete_is_read_before_it_is_passed_on(client: Client, key: str, status: int) -> None:
    body = f"<Delete><Object><Key>{key}</Key></Object></Delete>".encode()
    assert client("POST", "/backups?delete=", body)[0] == status
