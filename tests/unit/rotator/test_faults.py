"""Every way the provider and the way to it can fail, against a real TLS server."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Device, Time
from faultserver import Handler, Respond, credentials_body
from pki import DAY, Authority, now

from edge_rotator.errors import KINDS, PERMANENT, TRANSIENT

HOUR = 3600


def answer(status: int, body: bytes = b"", **headers: str) -> Respond:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(status, body, headers=named)


def refusal(status: int, message: str) -> Respond:
    return answer(status, json.dumps({"message": message}).encode())


def fields(**changes: object) -> Respond:
    """A good answer but for these fields; None leaves one out."""
    return lambda h: h.reply(200, credentials_body(900, h.server.now(), **changes))


def lasting(lifetime: float) -> Respond:
    return lambda h: h.reply(200, credentials_body(lifetime, h.server.now()))


def cut(handler: Handler) -> None:
    """Promise more than is sent, then close in order."""
    handler.reply(200, credentials_body(900), headers={"Content-Length": "5000"})


def reset(handler: Handler) -> None:
    """Promise more than is sent, then reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    cut(handler)
    handler.wfile.flush()
    socket.socket(fileno=handler.connection.detach()).close()


def silent(handler: Handler) -> None:
    time.sleep(1.5)


def endless(handler: Handler) -> None:
    handler.reply(200, b"x" * 70000)


def endless_header(handler: Handler) -> None:
    handler.reply(200, b"{}", headers={f"X-{n}": "y" * 1000 for n in range(70)})


SECRETS = ("accessKeyId", "secretAccessKey", "sessionToken")
ANSWERS: dict[str, tuple[str, Respond]] = {
    "thing": ("thing_not_attached", refusal(403, "Invalid thing name passed")),
    "policy": ("policy_denied", refusal(403, "Access Denied")),
    "certificate": ("certificate_inactive", refusal(403, "Certificate is invalid on this endpoint")),
    "alias": ("role_alias_missing", refusal(404, "Role alias does not exist")),
    "assume": (
        "role_not_assumable",
        refusal(400, "Unable to assume the role, or the role to assume does not exist"),
    ),
    "duration": (
        "duration_exceeds_role",
        refusal(
            400,
            "The requested CredentialDurationSeconds exceeds the MaxSessionDuration set for the role",
        ),
    ),
    "limit, as STS puts it": ("throttled", refusal(400, "Rate exceeded")),
    "limit, as IoT puts it": ("throttled", refusal(400, "ThrottlingException")),
    "unknown 403": ("provider_refused", refusal(403, "canary-free words\n\x1b[31m nobody knows")),
    "no body": ("provider_refused", answer(401)),
    "no message": ("provider_refused", answer(400, b'["message"]')),
    "redirect": ("provider_refused", answer(302, Location="https://localhost:1/elsewhere")),
    "empty 204": ("provider_refused", answer(204)),
    "408": ("timeout", answer(408)),
    "429": ("throttled", answer(429)),
    "500": ("server_error", refusal(500, "Internal")),
    "503": ("server_error", answer(503, b"<html>")),
    "not JSON": ("answer_not_json", answer(200, b"<html>captive portal</html>")),
    "empty": ("answer_not_json", answer(200)),
    "not UTF-8": ("answer_not_json", answer(200, b'{"credentials": "\xff"}')),
    "too deep": ("answer_not_json", answer(200, b"[" * 60000)),
    "NaN": ("answer_field_missing", answer(200, b'{"credentials": NaN}')),
    "two values": ("answer_not_json", answer(200, b"{} {}")),
    "list": ("answer_field_missing", answer(200, b"[]")),
    "no object": ("answer_field_missing", answer(200, b'{"credentials": "x"}')),
    "no time": ("answer_field_missing", fields(expiration="tomorrow")),
    "local time": ("answer_field_missing", fields(expiration="2099-01-01T00:00:00+01:00")),
    "expired": ("answer_expired", lasting(-1)),
    "expires now": ("answer_expired", lasting(0)),
    "short-lived": ("answer_short_lived", lasting(60)),
    "truncated": ("answer_truncated", cut),
    "reset": ("connection_lost", reset),
    "oversized": ("answer_oversized", endless),
    "oversized header": ("answer_oversized", endless_header),
    "timeout": ("timeout", silent),
    **{f"no {key}": ("answer_field_missing", fields(**{key: None})) for key in (*SECRETS, "expiration")},
    **{f"empty {key}": ("answer_field_missing", fields(**{key: ""})) for key in (*SECRETS, "expiration")},
    **{f"number {key}": ("answer_field_missing", fields(**{key: 7})) for key in (*SECRETS, "expiration")},
    **{
        f"{character!r} in {key}": (
            "answer_control_character",
            fields(**{key: f"canary{character}x"}),
        )
        for key in (*SECRETS, "expiration")
        for character in ("\n", "\x00", "\x7f", " ", "\u2028")
    },
}


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What was logged, but for the warning that a key lies in a file."""
    return [line for line in capfd.readouterr().err.splitlines() if "key_in_file" not in line]


def goes_wrong(device: Device, world: Time, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    """Run the tick that fails; check all that has to hold for every class of error."""
    before = device.credentials.read_bytes() if device.credentials.exists() else None
    capfd.readouterr()
    assert device.tick() == KINDS[kind].exit_code, capfd.readouterr()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("event=failed ") and err.count("\n") == 1, err
    assert f"error={kind} " in err and "fix=" in err and "retry_in_s=" in err, err
    assert "canary" not in err.replace("canary-free", "")
    state = device.state
    assert state["last_error"]["kind"] == state["failure"]["kind"] == kind
    assert 30 <= state["failure"]["delay"] <= HOUR
    assert state["attempts"][kind] == 1
    assert "canary" not in json.dumps(state).replace("canary-free", "")
    assert before == (device.credentials.read_bytes() if device.credentials.exists() else None)


def waits(device: Device, world: Time) -> None:
    """Check that nothing is asked before the wait is over."""
    asked = len(device.server.requests)
    delay = device.state["failure"]["delay"]
    assert device.tick("due") == 1
    world.advance(delay / 2)
    assert device.tick() == 0
    world.advance(delay / 2 - 1)
    assert device.tick("due") == 1
    assert len(device.server.requests) == asked
    world.advance(2.1)
    assert device.tick("due") == 0


def recovers(device: Device, capfd: pytest.CaptureFixture[str]) -> None:
    device.server.respond = device.server.good
    capfd.readouterr()
    assert device.tick() == 0, capfd.readouterr()
    assert device.state["failure"] is None
    assert device.state["last_error"]["kind"]
    assert device.credentials.exists()


def rotated(device: Device, world: Time) -> None:
    """Have good credentials and be due for the next."""
    assert device.tick() == 0
    world.advance(device.state["success"]["due_after"] + 1)
    assert device.tick("due") == 0


@pytest.mark.parametrize("case", ANSWERS)
def test_answer(case: str, local: Device, world: Time, capfd: pytest.CaptureFixture[str]) -> None:
    kind, respond = ANSWERS[case]
    local.configure(provider={"connect_timeout": 1, "timeout": 1})
    rotated(local, world)
    local.server.respond = respond
    goes_wrong(local, world, capfd, kind)
    assert len(local.server.requests) == 2
    waits(local, world)
    recovers(local, capfd)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def listener(treat: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that speaks no TLS; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)

        def serve() -> None:
            try:
                while True:
                    with sock.accept()[0] as connection:
                        treat(connection)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(sock.getsockname()[1])
        sock.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)


def speak_http(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def stall(connection: socket.socket) -> None:
    connection.settimeout(1.5)
    try:
        while connection.recv(1000):
            pass
    except TimeoutError:
        return


@pytest.mark.parametrize(
    ("treat", "kind"), [(hang_up, "connection_lost"), (speak_http, "tls_failed"), (stall, "timeout")]
)
def test_peer_without_tls(
    treat: Callable[[socket.socket], None],
    kind: str,
    local: Device,
    world: Time,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rotated(local, world)
    with listener(treat) as port:
        local.configure(provider={"endpoint": f"localhost:{port}", "connect_timeout": 0.5, "timeout": 0.5})
        goes_wrong(local, world, capfd, kind)
    waits(local, world)


@pytest.mark.parametrize(("endpoint", "kind"), [("{label}.test", "dns"), ("localhost:{port}", "connect")])
def test_no_way_there(
    endpoint: str, kind: str, local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    rotated(local, world)
    # A label this long fails in the resolver itself, whatever network there is.
    local.configure(provider={"endpoint": endpoint.format(label="a" * 64, port=free_port())})
    goes_wrong(local, world, capfd, kind)
    waits(local, world)


Pki = tuple[Authority, Authority, Path]


def untrusted(device: Device, pki: Pki) -> None:
    stranger = Authority(pki[2], "stranger")
    device.server.present(*stranger.server(pki[2], "localhost"), pki[1].path)


def other_host(device: Device, pki: Pki) -> None:
    device.server.present(*pki[0].server(pki[2], "elsewhere.test"), pki[1].path)


def expired_server(device: Device, pki: Pki) -> None:
    certificate = pki[0].server(pki[2], "localhost", start=now() - 3 * DAY, days=2)
    device.server.present(*certificate, pki[1].path)


def future_server(device: Device, pki: Pki) -> None:
    certificate = pki[0].server(pki[2], "localhost", start=now() + DAY, days=3)
    device.server.present(*certificate, pki[1].path)


def stranger_to_server(device: Device, pki: Pki) -> None:
    """The server knows another fleet; TLS 1.3 says so only after the handshake."""
    device.server.present(*pki[0].server(pki[2], "localhost"), pki[0].path)


def stranger_to_old_server(device: Device, pki: Pki) -> None:
    stranger_to_server(device, pki)
    device.server.context.maximum_version = ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (untrusted, "tls_server_untrusted"),
        (other_host, "tls_host_mismatch"),
        (expired_server, "clock_wrong"),
        (future_server, "clock_wrong"),
        (stranger_to_server, "tls_client_refused"),
        (stranger_to_old_server, "tls_client_refused"),
    ],
)
def test_tls(
    change: Callable[[Device, Pki], None],
    kind: str,
    local: Device,
    world: Time,
    pki: Pki,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rotated(local, world)
    change(local, pki)
    goes_wrong(local, world, capfd, kind)
    assert len(local.server.requests) == 1
    waits(local, world)
    local.server.present(*pki[0].server(pki[2], "localhost"), pki[1].path)
    recovers(local, capfd)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 150),
        ("7", 30, 60),
        ("86400", 3570, 3600),
        ("-5", 30, 60),
        ("soon", 30, 60),
        ("date", 299, 331),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(
    status: int,
    header: str,
    least: float,
    most: float,
    local: Device,
    world: Time,
    capfd: pytest.CaptureFixture[str],
) -> None:
    world.server = 100  # the date form counts on the server's clock, not ours
    if header == "date":
        header = formatdate(world.wall + world.server + 300, usegmt=True)
    local.server.respond = answer(status, Retry_After=header)
    goes_wrong(local, world, capfd, "throttled" if status == 429 else "server_error")
    assert least <= local.state["failure"]["delay"] <= most


def hours(device: Device, world: Time, count: int) -> list[int]:
    """Tick each minute; return the requests seen in each hour."""
    seen = [len(device.server.requests)]
    for _ in range(count):
        for _ in range(60):
            device.tick()
            world.advance(60)
        seen.append(len(device.server.requests))
    return [b - a for a, b in pairwise(seen)]


@pytest.mark.parametrize(
    "case", [k for k, (kind, _) in ANSWERS.items() if KINDS[kind].retry == PERMANENT and " " not in k]
)
def test_permanent_error_costs_four_requests_an_hour(case: str, local: Device, world: Time) -> None:
    local.server.respond = ANSWERS[case][1]
    assert max(hours(local, world, 3)) <= 4


def test_transient_error_backs_off(local: Device, world: Time) -> None:
    local.server.respond = answer(500)
    first, second = hours(local, world, 2)
    assert first <= 12
    assert second <= 8


def test_backoff_starts_again_with_another_class(local: Device, world: Time) -> None:
    local.server.respond = answer(500)
    for _ in range(4):
        assert local.tick() == 15
        world.advance(local.state["failure"]["delay"] + 1)
    assert local.state["failure"]["count"] == 4
    local.server.respond = refusal(403, "Access Denied")
    assert local.tick() == 31
    assert local.state["failure"]["count"] == 1


def test_changed_file_lifts_a_permanent_error(local: Device, world: Time) -> None:
    local.server.respond = refusal(403, "Invalid thing name passed")
    assert local.tick() == 30
    assert local.tick("due") == 1
    local.configure(provider={"thing_name": "edge02"})
    local.touched()
    assert local.tick("due") == 0
    local.server.respond = local.server.good
    assert local.tick() == 0
    assert local.server.requests[-1]["headers"]["x-amzn-iot-thingname"] == "edge02"


@pytest.mark.parametrize("offset", [-600, 301, 1e9])
def test_wrong_clock_is_told_and_credentials_are_handed_over(
    offset: float, local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    world.server = offset
    assert local.tick() == 50
    rotated_line, failed_line = lines(capfd)
    assert rotated_line.startswith("event=rotated ")
    assert failed_line.startswith("event=failed error=clock_wrong ")
    stored = json.loads(local.credentials.read_text())
    # By our own clock, which is what Litestream goes by.
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(world.wall + 840))
    assert abs(int(stored["Expiration"][17:19]) - int(end[17:19])) in (0, 1, 59)
    assert stored["Expiration"][:14] <= end[:14]
    assert local.tick("due") == 1
    # The time service sets the clock: credentials are renewed at once.
    world.wall += offset
    world.server = 0
    local.touched()
    assert local.tick("due") == 0
    assert local.tick() == 0


@pytest.mark.parametrize("offset", [-299, 299])
def test_small_clock_error_is_not_worth_a_line(
    offset: float, local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    world.server = offset
    assert local.tick() == 0
    assert len(lines(capfd)) == 1


def test_setting_the_clock_lifts_a_clock_error(local: Device, world: Time, pki: Pki) -> None:
    expired_server(local, pki)
    assert local.tick() == 50
    assert local.tick("due") == 1
    world.wall += 400
    local.touched()
    assert local.tick("due") == 0


def test_answer_without_a_date(local: Device, world: Time) -> None:
    local.server.respond = lambda h: h.reply(200, credentials_body(900, world.wall), date=0)
    assert local.tick() == 0
    assert 899 <= local.state["success"]["lifetime"] <= 900


def test_shorter_life_than_the_one_held_is_refused(
    local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    local.configure(schedule={"expected_lifetime": 3600})
    local.server.lifetime = 3600
    rotated(local, world)
    local.server.respond = lasting(900)
    goes_wrong(local, world, capfd, "answer_short_lived")


@pytest.mark.parametrize("key", ["certificate_file", "ca_file"])
@pytest.mark.parametrize("content", [None, b""])
def test_missing_or_empty_file(
    key: str, content: bytes | None, local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    rotated(local, world)
    path = local.root / "etc/other.pem"
    if content is not None:
        path.write_bytes(content)
    local.configure(provider={key: str(path)})
    goes_wrong(local, world, capfd, "file_unreadable")


def test_missing_key_file(local: Device, world: Time, capfd: pytest.CaptureFixture[str]) -> None:
    rotated(local, world)
    (local.root / "etc/device.key").unlink()
    goes_wrong(local, world, capfd, "file_unreadable")


def test_every_class_has_its_own_code_and_mend() -> None:
    codes = [kind.exit_code for kind in KINDS.values()]
    assert len(set(codes)) == len(codes)
    assert all(kind.fix and 0 < kind.exit_code < 126 for kind in KINDS.values())
    assert {kind.retry for kind in KINDS.values()} == {PERMANENT, TRANSIENT, "latch", "none"}
