"""Both endpoints in this process, over real TLS, with a small object store behind the gate."""

import asyncio
import base64
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import botocore.session
import pytest
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from edge_cloud import body as bodies
from edge_cloud.gate import Gate
from edge_cloud.ledger import Key, Ledger
from edge_cloud.provider import Provider
from edge_cloud.settings import Settings
from lab import pki
from lab.settings import Machine, Paths

HOST = "localhost"
REGION = "eu-central-1"


@contextmanager
def serving(start: Callable[[], Awaitable[asyncio.Server]]) -> Iterator[int]:
    """Serve in a thread; yield the port."""

    async def begin() -> asyncio.Server:
        return await start()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def end(server: asyncio.Server) -> None:
    server.close()
    open_connections = asyncio.all_tasks() - {asyncio.current_task()}
    for task in open_connections:
        task.cancel()
    await asyncio.gather(*open_connections, return_exceptions=True)


class Store:
    """An object store without any check."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}

    async def start(self) -> asyncio.Server:
        server = web.Server(cast(Any, self.handle))
        return await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if request.method in {"PUT", "POST"}:
            self.headers = {name.lower(): value for name, value in request.headers.items()}
            self.objects[path] = await request.content.read()
            return web.Response()
        body = self.objects.get(path)
        return web.Response(status=404 if body is None else 200, body=body)


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
        control_url="",
        tls=str(keys),
        ledger=str(tmp_path / "ledger.db"),
        logs=str(tmp_path),
    )
    Ledger(settings.ledger).create("alias", 900)
    return settings


def logged(settings: Settings, name: str, **wanted: Any) -> dict[str, Any]:
    """Return the newest line with these fields of a request log, which is written just after the answer."""
    for _ in range(500):
        for line in reversed(settings.log(name).read_text().splitlines()):
            record = cast(dict[str, Any], json.loads(line))
            if wanted.items() <= record.items():
                return record
        time.sleep(0.01)
    raise AssertionError(f"nothing was logged with {wanted}")


# The provider


Fetch = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def fetch(settings: Settings, keys: Path) -> Iterator[Fetch]:
    with serving(lambda: Provider(settings).start()) as port:

        def request(
            thing: str | None = "edge01", alias: str = "alias", host: str = HOST, *, certificate: bool = True
        ) -> tuple[int, dict[str, Any]]:
            context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
            if certificate:
                context.load_cert_chain(keys / "device.crt", keys / "device.key")
            connection = http.client.HTTPSConnection(HOST, port, timeout=5, context=context)
            headers = {"Host": host, **({"x-amzn-iot-thingname": thing} if thing else {})}
            connection.request("GET", f"/role-aliases/{alias}/credentials", headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            connection.close()
            return answer.status, body

        cast(Any, request).port = port
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


def test_nobody_comes_in_without_a_certificate(settings: Settings, fetch: Fetch) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        fetch(certificate=False)
    assert logged(settings, "provider", error="Tls")


def test_no_credentials_for_another_host(settings: Settings, fetch: Fetch) -> None:
    status, body = fetch(host="elsewhere.test")
    assert (status, body["message"]) == (403, "Certificate is invalid on this endpoint")
    assert logged(settings, "provider", error="Certificate is invalid on this endpoint")
    assert fetch(host=f"{HOST}:443")[0] == 200


def test_no_credentials_without_sni(settings: Settings, keys: Path, fetch: Fetch) -> None:
    context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
    context.check_hostname = False
    context.load_cert_chain(keys / "device.crt", keys / "device.key")
    port = cast(Any, fetch).port
    with socket.create_connection((HOST, port), 5) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(f"GET /role-aliases/alias/credentials HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert tls.recv(4096).startswith(b"HTTP/1.1 403 ")
    assert logged(settings, "provider", status=403)


def test_a_request_that_is_no_http_is_in_the_log(settings: Settings, keys: Path, fetch: Fetch) -> None:
    context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
    context.load_cert_chain(keys / "device.crt", keys / "device.key")
    with (
        socket.create_connection((HOST, cast(Any, fetch).port), 5) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as tls,
    ):
        tls.sendall(b"NONSENSE\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.")
    assert logged(settings, "provider", status=400)


@pytest.mark.parametrize(
    ("fault", "options", "error"),
    [
        ("reset", {}, ConnectionResetError),
        ("truncated-body", {}, http.client.IncompleteRead),
        ("wrong-host", {}, ssl.SSLCertVerificationError),
        ("not-json", {}, json.JSONDecodeError),
    ],
)
def test_faults_of_a_connection(
    settings: Settings, fetch: Fetch, fault: str, options: dict[str, Any], error: type[Exception]
) -> None:
    Ledger(settings.ledger).add_fault(fault, options, None, 1)
    with pytest.raises(error):
        fetch()
    assert fetch()[0] == 200


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


@pytest.fixture
def store() -> Store:
    return Store()


def gate(settings: Settings, upstream_port: int) -> Awaitable[asyncio.Server]:
    return Gate(Settings(**{**vars(settings), "upstream_port": upstream_port})).start()


@pytest.fixture
def port(settings: Settings, store: Store) -> Iterator[int]:
    with serving(store.start) as upstream_port, serving(lambda: gate(settings, upstream_port)) as port:
        yield port


@pytest.fixture
def key(settings: Settings) -> Key:
    return Ledger(settings.ledger).issue("edge01", "alias", "01", 900)


class Client:
    """Signs requests with a key, and keeps its connection like Litestream does."""

    def __init__(self, port: int, keys: Path, key: Key) -> None:
        context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
        self.credentials = Credentials(key.access_key, key.secret, key.token)
        self.connection = http.client.HTTPSConnection(HOST, port, timeout=5, context=context)

    def sign(self, method: str, target: str, declared: str, headers: dict[str, str]) -> AWSRequest:
        class Auth(S3SigV4Auth):  # type: ignore[misc]
            def payload(self, _request: AWSRequest) -> str:
                return declared

        self.auth = Auth(self.credentials, "s3", REGION)
        request = AWSRequest(method, f"https://{HOST}{target}", {"Host": HOST, **headers})
        self.auth.add_auth(request)
        return request

    def __call__(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        declared: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        signed = self.sign(method, target, declared or hashlib.sha256(body).hexdigest(), headers or {})
        return self.send(method, target, body, dict(signed.headers))

    def send(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self.connection.request(method, target, body or None, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def send_in_chunks(
        self, pieces: list[bytes], trailer: bytes, *, alter: Callable[[bytes], bytes] = lambda wire: wire
    ) -> tuple[int, bytes]:
        """Upload with a signature per chunk, and one of the trailer, if any."""
        declared = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
        size = sum(map(len, pieces))
        headers = {"x-amz-decoded-content-length": str(size), "Content-Encoding": "aws-chunked"}
        if trailer:
            headers["x-amz-trailer"] = trailer.partition(b":")[0].decode()
        signed = self.sign("PUT", "/backups/edge01/a", declared, headers)
        previous = signed.headers["Authorization"].rpartition("=")[2]

        def sign(kind: str, *digests: str) -> str:
            nonlocal previous
            scope = self.auth.credential_scope(signed)
            text = "\n".join(
                [f"AWS4-HMAC-SHA256-{kind}", signed.context["timestamp"], scope, previous, *digests]
            )
            previous = self.auth.signature(text, signed)
            return str(previous)

        wire = b""
        for piece in [*pieces, b""]:
            signature = sign("PAYLOAD", EMPTY, hashlib.sha256(piece).hexdigest())
            wire += f"{len(piece):x};chunk-signature={signature}\r\n".encode() + piece
            wire += b"\r\n" if piece else b""
        if trailer:
            wire += trailer + b"\r\n"
            wire += f"x-amz-trailer-signature:{sign('TRAILER', sha256(trailer + NEWLINE))}\r\n".encode()
        return self.send("PUT", "/backups/edge01/a", alter(wire + b"\r\n"), dict(signed.headers))


EMPTY = hashlib.sha256(b"").hexdigest()
NEWLINE = b"\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def client(port: int, keys: Path, key: Key) -> Iterator[Client]:
    client = Client(port, keys, key)
    yield client
    client.connection.close()


def test_what_is_put_can_be_got_over_one_connection(settings: Settings, client: Client) -> None:
    body = b"x" * 3_000_000
    assert client("PUT", "/backups/edge01/a%20b", body) == (200, b"")
    assert client("GET", "/backups/edge01/a%20b") == (200, body)
    assert client("HEAD", "/backups/edge01/a%20b") == (200, b"")
    assert client("PUT", "/backups/edge01/u", b"y", "UNSIGNED-PAYLOAD") == (200, b"")
    record = logged(settings, "gate", key="edge01/u")
    assert (record["thing"], record["status"], record["error"]) == ("edge01", 200, None)
    assert (record["operation"], record["bytes_in"]) == ("s3:PutObject", 1)
    assert record["at_ms"] == pytest.approx(time.time() * 1000, abs=5000)


def test_a_refusal_leaves_the_connection_usable(settings: Settings, client: Client) -> None:
    status, body = client("PUT", "/backups/edge02/a", b"x" * 300_000)
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)
    assert client("PUT", "/backups/edge01/a", b"x") == (200, b"")
    Ledger(settings.ledger).expire("edge01")
    status, body = client("PUT", "/backups/edge01/a", b"x")
    assert (status, b"<Code>ExpiredToken</Code>" in body) == (400, True)
    assert logged(settings, "gate", error="ExpiredToken", thing="edge01")


def test_a_missing_object_is_not_told_from_a_forbidden_one(client: Client) -> None:
    """AWS answers 404 only to those who may list the bucket; a device may list its prefix."""
    assert client("GET", "/backups/edge01/none")[0] == 403
    assert client("HEAD", "/backups/edge01/none")[0] == 403


BAD_BODIES = {
    "digest": (b"x", sha256(b"y"), {}, "XAmzContentSHA256Mismatch"),
    "no digest": (b"x", "nonsense", {}, "InvalidArgument"),
    "MD5": (
        b"x",
        None,
        {"Content-MD5": base64.b64encode(hashlib.md5(b"y", usedforsecurity=False).digest()).decode()},
        "BadDigest",
    ),
    "checksum": (b"x", None, {"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"),
    "unknown checksum": (b"x", None, {"x-amz-checksum-crc7": "AAAAAA=="}, "InvalidRequest"),
    "checksum that is not there": (b"x", None, {"x-amz-sdk-checksum-algorithm": "CRC32"}, "InvalidRequest"),
    "unknown streaming": (b"x", "STREAMING-NOVELTY", {}, "NotImplemented"),
    "tags": (b"x", None, {"x-amz-tagging": "a=b"}, "AccessDenied"),
}


@pytest.mark.parametrize("case", list(BAD_BODIES))
def test_a_body_that_is_not_what_was_signed_is_never_stored(
    settings: Settings, store: Store, client: Client, case: str
) -> None:
    body, declared, headers, code = BAD_BODIES[case]
    store.objects["/backups/edge01/a"] = b"before"
    _, said = client("PUT", "/backups/edge01/a", body, declared, headers)
    assert f"<Code>{code}</Code>".encode() in said
    assert store.objects == {"/backups/edge01/a": b"before"}
    assert logged(settings, "gate", error=code, thing="edge01")


CRC32 = b"x-amz-checksum-crc32:" + base64.b64encode(zlib.crc32(b"x" * 9000 + b"yy").to_bytes(4, "big"))


@pytest.mark.parametrize("trailer", [b"", CRC32])
def test_signed_chunks_are_decoded(store: Store, client: Client, trailer: bytes) -> None:
    assert client.send_in_chunks([b"x" * 9000, b"yy"], trailer)[0] == 200
    assert store.objects == {"/backups/edge01/a": b"x" * 9000 + b"yy"}
    assert "content-encoding" not in store.headers


@pytest.mark.parametrize(
    ("alter", "trailer", "code"),
    [
        (lambda wire: wire.replace(b"xyy", b"xyz").replace(b"yy", b"yz"), b"", "SignatureDoesNotMatch"),
        (lambda wire: wire[:-2] + b"z\r\n", b"", "InvalidRequest"),
        (lambda wire: wire + b"z", b"", "InvalidRequest"),
        (lambda wire: wire[: wire.index(b"\r\n2;") + 2], b"", "IncompleteBody"),
        (lambda wire: wire.replace(b"crc32:", b"crc32:A"), CRC32, "SignatureDoesNotMatch"),
        (lambda wire: wire.replace(CRC32 + b"\r\n", b""), CRC32, "SignatureDoesNotMatch"),
        (lambda wire: wire[: wire.index(b"x-amz-trailer-s")] + b"\r\n", CRC32, "MalformedTrailerError"),
    ],
)
def test_an_altered_chunk_is_never_stored(
    store: Store, client: Client, alter: Callable[[bytes], bytes], trailer: bytes, code: str
) -> None:
    _, said = client.send_in_chunks([b"x" * 9000, b"yy"], trailer, alter=alter)
    assert f"<Code>{code}</Code>".encode() in said
    assert store.objects == {}


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")],
)
def test_checksums_of_the_check_string(algorithm: str, expected: str) -> None:
    digest = bodies.ALGORITHMS[algorithm]()
    digest.update(b"1234")
    digest.update(b"56789")
    assert digest.digest().hex() == expected


def test_a_client_of_aws_with_its_defaults(
    settings: Settings, keys: Path, port: int, key: Key, store: Store
) -> None:
    """The defaults of botocore: a checksum trails the body, in chunks that are not signed."""
    client = botocore.session.Session().create_client(
        "s3",
        REGION,
        endpoint_url=f"https://{HOST}:{port}",
        verify=str(keys / "server-ca.crt"),
        aws_access_key_id=key.access_key,
        aws_secret_access_key=key.secret,
        aws_session_token=key.token,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    body = b"z" * 2_500_000
    for algorithm in ("CRC32", "SHA256"):
        client.put_object(Bucket="backups", Key="edge01/x", Body=body, ChecksumAlgorithm=algorithm)
        assert store.objects.pop("/backups/edge01/x") == body
    client.put_object(Bucket="backups", Key="edge01/x", Body=body)
    assert client.get_object(Bucket="backups", Key="edge01/x")["Body"].read() == body
    assert client.delete_objects(Bucket="backups", Delete={"Objects": [{"Key": "edge01/x"}]})
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.put_object_acl(Bucket="backups", Key="edge01/x", ACL="private")


def test_an_unsigned_trailer_is_checked(store: Store, client: Client) -> None:
    headers = {"x-amz-trailer": "x-amz-checksum-crc32", "x-amz-decoded-content-length": "1"}
    for checksum, status in ((zlib.crc32(b"x"), 200), (zlib.crc32(b"y"), 400)):
        store.objects.clear()
        text = base64.b64encode(checksum.to_bytes(4, "big"))
        wire = b"1\r\nx\r\n0\r\nx-amz-checksum-crc32:" + text + b"\r\n\r\n"
        declared = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        assert client("PUT", "/backups/edge01/a", wire, declared, headers)[0] == status
        assert bool(store.objects) == (status == 200)


MD5 = "Content-MD5"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        ("<Object><Key>edge01/a</Key></Object>", [MD5], 200),
        ("<Object><Key>edge02/a</Key></Object>", [MD5], 403),
        ("<Object><Key>edge01/a</Key></Object><Object/>", [MD5], 400),
        ("<Object><Key>edge01/a</Key></Object>", [], 400),
    ],
)
def test_a_batch_delete_is_read_before_it_is_passed_on(
    store: Store, client: Client, content: str, headers: list[str], status: int
) -> None:
    body = f"<Delete>{content}</Delete>".encode()
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    found, _ = client("POST", "/backups?delete=", body, headers=dict.fromkeys(headers, digest))
    assert found == status
    assert bool(store.objects) == (status == 200)


def test_an_upload_waits_for_the_gate_to_agree(port: int, keys: Path, client: Client) -> None:
    """A client that asks first is told to go on, or is refused before it has sent anything."""
    context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
    for target, first in (("/backups/edge01/a", b"HTTP/1.1 100 "), ("/backups/edge02/a", b"HTTP/1.1 403 ")):
        signed = client.sign("PUT", target, sha256(b"x"), {"Expect": "100-continue", "Content-Length": "1"})
        head = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
        with (
            socket.create_connection((HOST, port), 5) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as tls,
        ):
            tls.sendall(f"PUT {target} HTTP/1.1\r\n{head}\r\n".encode())
            assert tls.recv(4096).startswith(first)
            if b"100" in first:
                tls.sendall(b"x")
                assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_server_behind_that_is_gone(settings: Settings, keys: Path, key: Key) -> None:
    with serving(Store().start) as upstream_port:
        pass
    with serving(lambda: gate(settings, upstream_port)) as port:
        client = Client(port, keys, key)
        assert client("PUT", "/backups/edge01/a", b"x")[0] == 503
        client.connection.close()


def fault(settings: Settings, name: str, requests: str = "all", **options: Any) -> None:
    Ledger(settings.ledger).add_fault(name, {"requests": requests, **options}, "edge01", None)


def test_s3_can_refuse_writes_alone_or_reads_alone(
    settings: Settings, store: Store, client: Client, key: Key
) -> None:
    assert client("PUT", "/backups/edge01/a", b"x") == (200, b"")
    for requests, put, get in (("writes", 503, 200), ("reads", 200, 503), ("all", 503, 503)):
        fault(settings, "s3-error", requests, code="SlowDown")
        status, body = client("PUT", "/backups/edge01/a", b"y")
        assert (status, b"<Code>SlowDown</Code>" in body) == (put, put == 503)
        assert client("GET", "/backups/edge01/a")[0] == get
        Ledger(settings.ledger).clear_faults()
    assert logged(settings, "gate", error="SlowDown", faults=["s3-error"], thing="edge01")
    fault(settings, "s3-error", code="SlowDown")
    other = Ledger(settings.ledger).issue("edge02", "alias", "02", 900)
    client.credentials = Credentials(other.access_key, other.secret, other.token)
    assert client("PUT", "/backups/edge02/a", b"x")[0] == 200, "it concerns one thing"


def test_s3_can_be_late_and_hang_up(settings: Settings, client: Client) -> None:
    fault(settings, "s3-delay", seconds=0.3)
    begun = time.monotonic()
    assert client("PUT", "/backups/edge01/a", b"x")[0] == 200
    assert time.monotonic() - begun >= 0.3
    fault(settings, "s3-reset")
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        client("PUT", "/backups/edge01/a", b"x")
    client.connection.close()
    assert logged(settings, "gate", error="ConnectionResetError", thing="edge01")
