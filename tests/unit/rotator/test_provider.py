"""The request's own logic that no server can show."""

from __future__ import annotations

import datetime
import sys

import pytest
from conftest import Device, Time

from edge_rotator import backend, clock, errors, provider
from edge_rotator import config as configuration


def test_key_uri_names_the_pin_by_its_file_only(local: Device) -> None:
    config = configuration.load(str(local.config))
    config.label, config.key_label = "a b;c/é", "k?"
    assert backend.key_uri(config, "") == ("pkcs11:token=a%20b%3Bc%2F%C3%A9;object=k%3F;type=private")
    assert backend.key_uri(config, "/run/a b/pin").endswith("type=private?pin-source=/run/a%20b/pin")


def test_options_of_each_backend(local: Device) -> None:
    pycurl = pytest.importorskip("pycurl")
    names = {getattr(pycurl, n): n for n in ("SSLKEY", "SSLKEYTYPE", "SSLENGINE", "SSLENGINE_DEFAULT")}

    class Curl:
        def __init__(self) -> None:
            self.options: dict[str, str] = {}

        def setopt(self, option: int, value: str) -> None:
            self.options[names[option]] = value

    config = configuration.load(str(local.config))
    config.label, config.key_label = "edge", "device"
    found = {}
    for config.backend in configuration.BACKENDS:
        curl = Curl()
        backend.set_key(curl, config, "")  # type: ignore[arg-type]
        found[config.backend] = curl.options
    uri = "pkcs11:token=edge;object=device;type=private"
    assert found == {
        "engine": {"SSLENGINE": "pkcs11", "SSLKEY": uri, "SSLKEYTYPE": "ENG"},
        "pkcs11-provider": {"SSLKEY": uri, "SSLKEYTYPE": "PROV"},
        "gnutls": {"SSLKEY": uri},
        "file": {"SSLKEY": config.key_file},
    }


def test_a_clock_before_our_own_certificate(local: Device, world: Time) -> None:
    config = configuration.load(str(local.config))
    assert not provider._clock_behind(config)
    world.wall = 0
    assert provider._clock_behind(config)
    config.certificate_file = str(local.config)
    assert not provider._clock_behind(config)


@pytest.mark.parametrize(
    "text",
    [
        "", "2018-01-18T09:18:06", "2018-02-30T00:00:00Z", "2018-01-18T24:01:00Z", "1969-12-31T23:59:59Z",
        "2018/01/18T09:18:06Z", "2018-13-01T00:00:00Z", "201x-01-18T09:18:06Z", "2018-01-18T09:18:06+01:00",
    ],
)  # fmt: skip
def test_what_is_no_utc_time(text: str) -> None:
    assert clock.parse_iso(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ",", "soon", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 0x Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT", "Sun, 06 Nov 99999 08:49:37 GMT",
    ],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert provider._http_date(text) is None


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Tue, 01 Jan 2100 00:00:00 GMT", 4102444800),
    ],
)
def test_dates_of_the_server(text: str, epoch: int) -> None:
    """Also beyond 2038, where the time functions of a 32-bit Debian 12 end."""
    assert provider._http_date(text) == epoch


def test_leap_days() -> None:
    assert clock.parse_iso("2000-02-29T00:00:00Z") == 951782400
    assert clock.parse_iso("2024-02-29T00:00:00Z") == 1709164800
    assert clock.parse_iso("2100-02-29T00:00:00Z") is None
    assert clock.parse_iso("1970-01-01T00:00:00Z") == 0


def test_events_survive_a_closed_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors.event("done", good=True, bad=False, left=None, wait=3.25, path="/a b")
    assert capsys.readouterr().err == 'event=done good=true bad=false wait=3.2 path="/a b"\n'

    class Closed:
        def write(self, text: str) -> None:
            raise ValueError("closed")

    monkeypatch.setattr(sys, "stderr", Closed())
    errors.event("done")


@pytest.mark.parametrize("epoch", [0, 951782399, 951782400, 1709164799, 2**31, 2524607999, 4102444800])
def test_times_are_written_as_they_are_read(epoch: int) -> None:
    """Also beyond 2038, where the time functions of a 32-bit Debian 12 end; AWS certificates do not."""
    text = clock.format_iso(epoch + 0.9)
    assert clock.parse_iso(text) == epoch
    assert datetime.datetime.fromisoformat(text).timestamp() == epoch


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (35, "error:0A000438:SSL routines::tlsv1 alert internal error", "tls_failed"),
        (35, "error:0A00042E:SSL routines::tlsv1 alert protocol version", "tls_failed"),
        (56, "OpenSSL SSL_read: tlsv1 alert internal error, errno 0", "tls_failed"),
        (35, "error:0A000418:SSL routines::tlsv1 alert unknown ca", "tls_client_refused"),
        (56, "OpenSSL SSL_read: tlsv13 alert certificate required, errno 0", "tls_client_refused"),
        (2, "Failed initialization", "internal_error"),
        (4, "not built in", "backend_unusable"),
    ],
)
def test_an_alert_is_not_always_about_our_certificate(code: int, message: str, kind: str) -> None:
    assert provider.transport_error(code, message).kind.name == kind


@pytest.mark.parametrize(
    ("message", "incomplete", "kind"),
    [
        (
            "OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while reading",
            True,
            "answer_truncated",
        ),
        (
            "GnuTLS recv error (-110): The TLS connection was non-properly terminated.",
            True,
            "answer_truncated",
        ),
        (
            "OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while reading",
            False,
            "connection_lost",
        ),
        ("OpenSSL SSL_read: Connection reset by peer, errno 104", True, "connection_lost"),
    ],
)
def test_an_answer_that_breaks_off(message: str, incomplete: bool, kind: str) -> None:
    """As libcurl 8.14 tells of it, whose 56 may mean anything."""
    assert provider.transport_error(56, message, incomplete).kind.name == kind
