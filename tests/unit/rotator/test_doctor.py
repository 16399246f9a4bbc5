"""`doctor`: names the link that broke, whatever else is broken, and never hangs."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

import pkcs11
import pycurl
import pytest
from conftest import ROOT, Device
from faultserver import Handler
from pki import DAY, Authority, now
from tokens import use_debian_pycurl

from edge_rotator import cli, clock, doctor, litestream, s3, systemd, token
from edge_rotator import config as configuration
from edge_rotator.errors import FORCE, KINDS, RESTART, RotatorError

Pki = tuple[Authority, Authority, Path]
CHECKS = [
    "config",
    "timer",
    "pycurl",
    "module",
    "token",
    "key",
    "certificate",
    "match",
    "login",
    "clock",
    "dns",
    "tls",
    "provider",
    "s3",
    "litestream",
    "delivery",
]


class Lines(dict[str, str]):
    """Verdict by check."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = text.splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            verdict, name = (line.split() + ["", ""])[:2]
            if line[:1] != " ":
                self[name] = verdict
                assert (verdict == "failed") == following.strip().startswith("fix: "), line


@contextmanager
def control_socket(path: Path, answer: bytes, asked: list[str] | None = None) -> Iterator[Path]:
    """The socket of litestream-query, answering always the same."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    with connection.makefile("r") as question:
                        (asked if asked is not None else []).append(question.read())
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


def listing(
    *ages: float | None,
    uptime: float = 1000.0,
    rooms: dict[str, object] | None = None,
    behind: dict[str, float] | None = None,
    **facts: object,
) -> bytes:
    """Answer of litestream-query, with a database per age (s), and the same facts of each."""
    at = clock.read_clock().wall
    databases = [
        {"path": f"/db{n}", "status": "replicating", "error": ""}
        | ({} if age is None else {"last_sync_at": clock.format_iso(at - age)})
        | facts
        for n, age in enumerate(ages)
    ]
    told = {"uptime_s": uptime, "version": "0.5.17", "databases": databases, "rooms": rooms or {}, "txid": 7}
    return json.dumps({**told, "behind": behind or {}}).encode()


@pytest.fixture
def whole(device: Device) -> Iterator[Device]:
    """A device of which nothing is broken, but for an S3 that there is none of."""
    with control_socket(device.root / "ls.sock", listing(1.0)) as path:
        device.configure(delivery={"litestream_socket": str(path)})
        yield device


def test_all_is_well(whole: Device) -> None:
    done = whole.run("doctor")
    found = Lines(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert list(found) == CHECKS
    assert {name for name, verdict in found.items() if verdict != "ok"} == {"login", "provider", "s3"}
    assert whole.server.requests == []

    done = whole.run("doctor", "--login")
    found = Lines(done.stdout)
    assert (done.returncode, found.pop("s3"), set(found.values())) == (0, "skipped", {"ok"}), done.stdout
    assert len(whole.server.requests) == 1
    assert not whole.credentials.exists()


def test_every_link_is_walked_when_most_are_broken(device: Device) -> None:
    device.server.stop()
    device.configure(
        delivery={"replicas": [["https://localhost:1/bucket", "edge01/app.db"]], "databases": ["/app.db"]}
    )
    device.certificate.write_text("nonsense")
    (device.root / "tokens").rename(device.root / "elsewhere")
    done = device.run("doctor", "--login")
    found = Lines(done.stdout)
    assert done.returncode == 1
    assert list(found) == CHECKS
    failed = {name for name, verdict in found.items() if verdict == "failed"}
    assert {"module", "certificate", "tls", "s3", "litestream"} <= failed
    assert {found[name] for name in ("token", "key", "match", "login", "provider")} == {"skipped"}


def test_configuration_that_cannot_be_read(device: Device) -> None:
    device.config.write_text("nonsense")
    done = device.run("doctor")
    assert (done.returncode, Lines(done.stdout)) == (1, {"config": "failed"})


@pytest.mark.parametrize(
    ("respond", "word"),
    [(b'{"message":"Access Denied"}', "policy_denied"), (b"{}", "provider_refused")],
)
def test_refusal_of_the_provider(whole: Device, respond: bytes, word: str) -> None:
    whole.server.respond = lambda handler: handler.reply(403, respond)
    done = whole.run("doctor", "--login")
    assert f"failed  provider     {word}: HTTP 403" in done.stdout
    assert whole.state["failure"] is None if (whole.root / "state/state.json").exists() else True


def test_module_that_crashes(whole: Device) -> None:
    """The child that loads it dies; the walk goes on."""
    source = "__attribute__((constructor)) static void f(void) { *(volatile int *)0 = 1; }"
    library = whole.root / "crash.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=source.encode(), check=True
    )
    whole.configure(token={"module": str(library)})
    done = whole.run("doctor")
    assert "failed  module       internal_error: the check crashed" in done.stdout
    assert Lines(done.stdout)["delivery"] == "ok"


def test_check_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LIMIT", 0.3)
    start = time.monotonic()

    def hang() -> str:
        time.sleep(60)
        return ""

    assert doctor._isolated(hang) == ("failed", "timeout", "no answer within 0 s")
    assert time.monotonic() - start < 5


@pytest.mark.timeout(30)
def test_check_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal but two reaches it, until it goes on."""
    monkeypatch.setattr(doctor, "_LIMIT", 0.3)

    def stop() -> str:
        os.kill(os.getpid(), signal.SIGSTOP)
        return ""

    assert doctor._isolated(stop) == ("failed", "timeout", "no answer within 0 s")


def test_what_a_check_found_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    doctor._show("token", "failed", "lock_stuck", "process 7 (python\x1b]0;x\x07)")
    said = capsys.readouterr().out
    assert "process 7 (python ]0;x )" in said
    assert said.replace("\n", "").isprintable()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_a_check_that_hangs_ends_whatever_its_caller_ignores(how: str) -> None:
    """Even if the doctor is gone: it would hold the lock for ever."""
    code = """if True:
        import os, signal, sys, time
        sys.path[:0] = sys.argv[1:2]
        from edge_rotator import doctor
        doctor._LIMIT = -4  # with 5 s more: the alarm
        if sys.argv[2] == "ignored":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        doctor._child(lambda: time.sleep(10), doctor._FORK.Pipe()[1])
    """
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), how], check=False, timeout=20)
    assert done.returncode == -signal.SIGALRM


def test_what_to_run_after_repairing_is_said_once(device: Device) -> None:
    device.server.stop()
    text = device.run("doctor").stdout
    assert text.splitlines()[-1].strip() == f"After repairing: `{FORCE}`"
    assert text.count("failed") > 1
    assert text.count(FORCE) == 1


@pytest.mark.parametrize(
    ("broken", "command"),
    [
        (["s3"], RESTART),
        (["litestream"], RESTART),
        (["s3", "litestream"], RESTART),
        (["dns", "s3"], FORCE),
        (["provider"], FORCE),
    ],
)
def test_what_only_litestream_has_to_try_again_needs_no_rotation(
    config: configuration.Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: list[str],
    command: str,
) -> None:
    said = dict.fromkeys(broken, ("failed", "timeout", ""))
    passed = [name for name in CHECKS if not ("dns" in broken and name == "tls")]  # which is skipped then
    verdicts = iter([said.get(name, ("ok", "", "")) for name in passed[1:]])
    monkeypatch.setattr(doctor, "_isolated", lambda _check: next(verdicts))
    assert not doctor._walk(config, None)
    assert capsys.readouterr().out.splitlines()[-1].strip().startswith(f"After repairing: `{command}`")


def test_check_with_a_fault() -> None:
    def fault() -> str:
        raise LookupError("what")

    assert doctor._isolated(fault) == ("failed", "internal_error", "LookupError: what")
    assert doctor._isolated(lambda: "fine") == ("ok", "", "fine")


@pytest.fixture
def config(local: Device) -> configuration.Config:
    """The configuration of a device with a key file, for checks in this process."""
    return configuration.load(str(local.config))


def kind(check: Callable[[], object]) -> str:
    """Name of the error that a check ends with."""
    with pytest.raises(RotatorError) as caught:
        check()
    return caught.value.kind.name


def test_key_file(config: configuration.Config, pki: Pki) -> None:
    path = Path(config.key_file)
    path.chmod(0o600)
    assert "not a token" in doctor._key(config)
    assert "for this key" in doctor._match(config)
    path.chmod(0o644)
    assert kind(lambda: doctor._key(config)) == "file_unreadable"
    config.certificate_file = str(pki[1].path)
    assert kind(lambda: doctor._match(config)) == "key_mismatch"
    config.key_file = "/nowhere"
    assert kind(lambda: doctor._key(config)) == "file_unreadable"
    for check in (doctor._module, doctor._token):
        with pytest.raises(doctor.SkippedError):
            check(config)


def test_clock(config: configuration.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(wall: float) -> None:
        monkeypatch.setattr(doctor, "read_clock", lambda: clock.Clock(wall, 1.0))

    at(time.time())
    assert "nothing speaks against it" in doctor._clock(config)
    at(3600.0)
    assert kind(lambda: doctor._clock(config)) == "clock_wrong"
    assert kind(lambda: doctor._certificate(config)) == "clock_wrong"
    at(time.time() + 400 * 86400)
    assert kind(lambda: doctor._certificate(config)) == "tls_client_refused"


class Bucket:
    """What S3 does, on the fault server: keeps objects, and refuses an operation with words of its own."""

    def __init__(self, device: Device) -> None:
        self.objects: dict[str, bytes] = {}
        self.refused = ""
        self.words = "not \x1byou"
        self.queries: list[str] = []
        device.server.context.verify_mode = ssl.CERT_NONE
        device.server.respond = self.respond

    def respond(self, handler: Handler) -> None:
        path, _, query = handler.path.partition("?")
        length = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(length)
        operation = "LIST" if query else handler.command
        if operation == self.refused:
            words = f"<Error><Code>AccessDenied</Code><Message>{self.words}</Message></Error>"
            return handler.reply(403, words.encode())
        if query:
            self.queries.append(query)
            prefix = parse_qs(query)["prefix"][0]
            keys = [key for key in self.objects if key.removeprefix("/bucket/").startswith(prefix)]
            return handler.reply(200, "".join(f"<Key>{key}</Key>" for key in keys).encode())
        if handler.command == "PUT":
            self.objects[path] = body
        elif handler.command == "DELETE":
            self.objects.pop(path, None)
            return handler.reply(204, b"")
        return handler.reply(200, self.objects.get(path, b""))


@pytest.fixture
def bucket(
    config: configuration.Config, local: Device, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """An S3 with a bucket, and credentials for it."""
    assert local.tick() == 0
    # The device's boot clock is the test's own: this machine may be up for longer than credentials live.
    monkeypatch.setattr(doctor, "read_clock", lambda: clock.Clock(time.time(), 1000.0))
    monkeypatch.setattr(systemd, "show", lambda *_: [{"Environment": f"A=x SSL_CERT_FILE={pki[0].path}"}])
    config.replicas = [[f"https://{local.server.endpoint}/bucket", "edge01/app.db"]]
    config.databases, config.sync_interval = ["/db0"], 0
    monkeypatch.setattr(litestream, "_SLACK", 0.0)
    with control_socket(tmp_path / "query", listing(1.0)) as path:
        config.litestream_socket = str(path)
        yield Bucket(local)


def test_s3_takes_gives_and_lists(config: configuration.Config, bucket: Bucket) -> None:
    bucket.objects["/bucket/edge01/app.db/0000/0000000000000007-0000000000000007.ltx"] = b"x"
    assert "took, gave and listed, and what Litestream has is there" in doctor._s3(config)
    assert len(bucket.objects) == 1, "what was written to see whether it can be is gone"
    assert "prefix=edge01%2Fapp.db%2F0000%2F0000000000000007" in bucket.queries[0]


def test_what_s3_has_is_compared_with_what_litestream_has(
    config: configuration.Config, bucket: Bucket
) -> None:
    bucket.objects["/bucket/edge01/app.db/0000/0000000000000006-0000000000000006.ltx"] = b"x"
    with pytest.raises(RotatorError, match="transaction 7 is not there") as caught:
        doctor._s3(config)
    assert caught.value.kind.name == "replication_stalled"


@pytest.mark.parametrize("operation", ["PUT", "GET", "LIST"])
def test_s3_refuses_in_its_own_words(config: configuration.Config, bucket: Bucket, operation: str) -> None:
    bucket.refused = operation
    with pytest.raises(RotatorError) as caught:
        doctor._s3(config)
    assert caught.value.kind.name == "s3_refused"
    assert "HTTP 403, AccessDenied: not you" in caught.value.detail
    assert "canary" not in caught.value.detail


def test_whose_policy_refuses_is_not_cut_off(config: configuration.Config, bucket: Bucket) -> None:
    """The longest that AWS says, with names as long as they may be."""
    who = f"arn:aws:sts::123456789012:assumed-role/{'r' * 64}/{'0' * 64}"
    what = f"arn:aws:s3:::{'b' * 63}/edge01/app.db/edge-rotator-doctor"
    end = "with an explicit deny in a resource-based policy"
    bucket.refused = "PUT"
    bucket.words = f"User: {who} is not authorized to perform: s3:PutObject on resource: {what} {end}"
    with pytest.raises(RotatorError) as caught:
        doctor._s3(config)
    assert caught.value.detail.endswith(end)


def test_a_device_that_may_not_delete_is_well(config: configuration.Config, bucket: Bucket) -> None:
    bucket.objects["/bucket/edge01/app.db/0000/0000000000000007-0000000000000007.ltx"] = b"x"
    bucket.refused = "DELETE"
    assert "took, gave and listed" in doctor._s3(config)


def test_a_report_is_below_the_things_own_prefix(
    config: configuration.Config, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "load", lambda _path: config)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"result": "ok"}')))
    assert cli.main(["report", "pull/last.json"]) == 0
    assert bucket.objects == {"/bucket/edge01/pull/last.json": b'{"result": "ok"}'}
    bucket.refused = "PUT"
    assert kind(lambda: s3.report(config.path, "pull/last.json", b"")) == "s3_refused"
    config.replicas = []
    assert kind(lambda: s3.report(config.path, "pull/last.json", b"")) == "s3_refused"
    monkeypatch.delattr(pycurl, "AWS_SIGV4")
    config.replicas = [["https://localhost:1/bucket", "edge01/app.db"]]
    assert kind(lambda: s3.report(config.path, "pull/last.json", b"")) == "backend_unusable"


def test_s3_without_credentials(
    config: configuration.Config, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must prove itself by the CA that Litestream's unit names, and no other."""
    Path(config.credentials_file).unlink()
    bucket.refused = "GET"
    assert "proved itself and answers 403; there are no valid credentials" in doctor._s3(config)
    monkeypatch.setattr(systemd, "show", lambda *_: [{}])
    assert kind(lambda: doctor._s3(config)) == "tls_server_untrusted"
    config.replicas = [["https://localhost:1/bucket", "edge01/app.db"]]
    assert kind(lambda: doctor._s3(config)) == "connect"


def test_tls_to_the_endpoint(config: configuration.Config, local: Device, pki: Pki) -> None:
    assert "proved itself" in doctor._tls(config)
    server_ca, fleet_ca, directory = pki
    for start, host, expected in (
        (now() + 90 * DAY, "localhost", "clock_wrong"),
        (None, "other.test", "tls_host_mismatch"),
    ):
        local.server.context.load_cert_chain(*server_ca.server(directory, host, start=start))
        assert kind(lambda: doctor._tls(config)) == expected
    config.ca_file = str(fleet_ca.path)
    assert kind(lambda: doctor._tls(config)) == "tls_server_untrusted"
    config.ca_file = "/nowhere"
    assert kind(lambda: doctor._tls(config)) == "file_unreadable"
    config.endpoint = "no-such-host.invalid"
    assert kind(lambda: doctor._dns(config)) == "dns"


def test_tls_to_nobody(config: configuration.Config) -> None:
    config.endpoint = "localhost:1"
    assert kind(lambda: doctor._tls(config)) == "connect"


def test_an_endpoint_that_wants_our_certificate_first(config: configuration.Config, local: Device) -> None:
    """What TLS 1.2 does; a failed line would send the reader after a fault that is none."""
    local.server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert local.tick() == 0
    with pytest.raises(doctor.SkippedError, match="--login shows it"):
        doctor._tls(config)


@pytest.mark.parametrize(("alert", "passed_over"), [(40, True), (47, False), (48, False), (49, False)])
def test_no_other_alert_is_passed_over(alert: int, passed_over: bool, config: configuration.Config) -> None:
    """handshake_failure, and what a firewall may say: illegal_parameter, unknown_ca, access_denied."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(bytes([21, 3, 3, 0, 2, 2, alert]))
                connection.recv(4096)

        threading.Thread(target=refuse, daemon=True).start()
        config.endpoint = f"localhost:{listener.getsockname()[1]}"
        with pytest.raises(doctor.SkippedError if passed_over else RotatorError):
            doctor._tls(config)


def test_gnutls_tells_it_in_words_of_its_own(device: Device) -> None:
    use_debian_pycurl(device)
    device.server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    text = device.run("doctor").stdout
    assert Lines(text)["tls"] == "skipped", text


def test_what_is_no_tls(config: configuration.Config) -> None:
    """A server that answers in clear, and one that says nothing."""
    config.connect_timeout = config.timeout = 0.3
    for greeting, expected in ((b"HTTP/1.0 400 No\r\n\r\n", "tls_failed"), (b"", "timeout")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config.endpoint = f"localhost:{listener.getsockname()[1]}"

            def serve(listener: socket.socket = listener, greeting: bytes = greeting) -> None:
                with listener.accept()[0] as connection:
                    connection.sendall(greeting)
                    time.sleep(0.5)

            threading.Thread(target=serve, daemon=True).start()
            assert kind(lambda: doctor._tls(config)) == expected


def test_commands_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_COMMAND_TIMEOUT", 0.2)
    assert doctor._succeeds(["/bin/true"])
    assert not doctor._succeeds(["/bin/false"])
    assert not doctor._succeeds(["/bin/sleep", "9"])
    assert not doctor._succeeds(["/nowhere"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (listing(600.0), "replication_stalled"),
        (listing(None), "replication_stalled"),
        (listing(), "replication_stalled"),
        (listing(1.0, error="disk full"), "replication_stalled"),
        (b'{"error": "does not answer"}', "litestream_silent"),
        (b'{"error": "not running"}', "litestream_silent"),
        (b"[]", "litestream_silent"),
        (listing(1.0)[:-1], "litestream_silent"),
        (b"", "litestream_silent"),
    ],
)
def test_litestream(config: configuration.Config, tmp_path: Path, answer: bytes, expected: str) -> None:
    config.databases = ["/db0"]
    with control_socket(tmp_path / "s", answer) as path:
        config.litestream_socket = str(path)
        assert kind(lambda: doctor._litestream(config)) == expected
    assert expected in KINDS


def test_handing_over(config: configuration.Config, local: Device) -> None:
    assert "is ours" in doctor._delivery(config)
    config.mode = "environment"
    assert "can be run" in doctor._delivery(config)
    config.restart_command = ["/nowhere/restart"]
    assert kind(lambda: doctor._delivery(config)) == "restart_failed"
    sudo = local.root / "bin/sudo"
    config.restart_command = [str(sudo), "-n", "/usr/bin/systemctl", "restart", "litestream.service"]
    log = local.fake("sudo")
    assert "sudo allows: /usr/bin/systemctl restart litestream.service" in doctor._delivery(config)
    assert "-l /usr/bin/systemctl restart litestream.service" in log.read_text()
    local.fake("sudo", code=1)
    assert kind(lambda: doctor._delivery(config)) == "restart_failed"
    config.directory = "/nowhere"
    assert kind(lambda: doctor._delivery(config)) == "write_failed"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_root_reads_the_pin_and_gives_root_up(whole: Device, pki: Pki) -> None:
    """The PIN stays root's; the token, the files and the request are the service user's."""
    authority = whole.root / "etc/server-ca.pem"
    authority.write_bytes(pki[0].path.read_bytes())
    whole.configure(provider={"ca_file": str(authority)})
    for path in (whole.root, *whole.root.rglob("*")):
        os.chown(path, 65534, -1)
    for parent in whole.root.parents[:-2]:
        parent.chmod(0o755)
    os.chown(whole.pin_file, 0, 0)
    whole.pin_file.chmod(0o600)
    use_debian_pycurl(whole)  # the test's own Python may be out of reach for others
    whole.configure(service={"user": "nobody"})
    done = whole.run("doctor", "--login")
    found = Lines(done.stdout)
    assert (done.returncode, found.pop("s3"), set(found.values())) == (0, "skipped", {"ok"}), done.stdout
    made = [path for path in (whole.root / "tokens").rglob("*") if path.stat().st_uid == 0]
    assert made == []
    assert (whole.root / "state/lock").stat().st_uid == 65534


@pytest.mark.timeout(30)
def test_a_doctor_that_is_stopped_leaves_no_check_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that hangs would hold the lock, and with it every rotation, for as long as it does."""

    def hang() -> str:
        time.sleep(60)
        return ""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("multiprocessing.connection.Connection.poll", stopped)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        doctor._isolated(hang)
    assert time.monotonic() - start < 10


def test_doctor_does_not_use_a_tokens_last_try(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration.load(str(device.config))
    low = pkcs11.TokenFlag.USER_PIN_COUNT_LOW
    found = SimpleNamespace(flags=low | pkcs11.TokenFlag.USER_PIN_FINAL_TRY)
    logins: list[str] = []

    def login(_token: object, pin: str) -> nullcontext[None]:
        logins.append(pin)
        return nullcontext()

    monkeypatch.setattr(token, "find_token", lambda *_: found)
    monkeypatch.setattr(token, "open_session", login)
    monkeypatch.setattr(token, "check_private_key", lambda *_: None)
    with pytest.raises(RotatorError, match=r"pin_refused: .*one try left"):
        doctor._login(config, "1234")
    assert logins == []
    found.flags = low
    doctor._login(config, "1234")
    assert logins == ["1234"]


def test_a_refused_pin_is_latched_before_it_is_told(device: Device) -> None:
    """Whoever pipes the output into something that ends must not lose the latch."""
    device.pin_file.write_text("wrong-pin")
    reader, writer = os.pipe()
    os.close(reader)
    device.run("doctor", "--login", stdout=writer)
    os.close(writer)
    assert device.run("rotate", "--force").returncode == 65
    assert device.server.requests == []
