"""`edge-rotator doctor`: walk the whole chain, one line each with ok or the mend."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from edge_rotator import backend, pin, provider, replication, rotation, token, user
from edge_rotator import config as configuration
from edge_rotator.clock import read_clock
from edge_rotator.errors import RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_rotator.config import Config


def _host_port(config: Config) -> tuple[str, int]:
    host, _, port = config.endpoint.partition(":")
    return host, int(port or 443)


def _certificate(config: Config) -> str:
    left = token.certificate_end(config.certificate_file) - read_clock().wall
    if left <= 0:
        raise RotatorError("tls_client_refused", f"{config.certificate_file} has expired")
    return f"valid for {left / 86400:.0f} more days"


def _token(config: Config) -> str:
    if config.backend == "file":
        return "not used (backend file)"
    token.examine(config)
    return f"{config.label} holds {config.key_label}, which fits the certificate"


def _login(config: Config, secret: str | None) -> str:
    if config.backend == "file":
        return "not used (backend file)"
    place = token.TokenPlace(config.module, config.label, config.key_label)
    with token.open_session(token.find_token(place), secret) as session:
        if token.find_private_key(session, config.key_label) is None:
            raise RotatorError("key_missing", f"no private key {config.key_label}")
    return "the PIN is right and the private key is there"


def _clock(_: Config) -> str:
    if Path("/run/systemd/timesync").is_dir() and not (Path("/run/systemd/timesync/synchronized").exists()):
        raise RotatorError("clock_wrong", "systemd-timesyncd has not synchronised yet")
    return "nothing speaks against it"


def _dns(config: Config) -> str:
    host, port = _host_port(config)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise RotatorError("dns", f"{host}: {exc}") from None
    return str(found[0][4][0])


def _tls(config: Config) -> str:
    host, port = _host_port(config)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(config.ca_file)
        with (
            socket.create_connection((host, port), config.connect_timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            return str(wrapped.version())
    except ssl.SSLCertVerificationError as exc:
        raise provider.transport_error(60, exc.verify_message) from None
    except ssl.SSLError as exc:
        raise RotatorError("tls_failed", str(exc.reason)) from None
    except TimeoutError:
        raise RotatorError("timeout", f"{host}:{port}") from None
    except OSError as exc:
        raise RotatorError("connect", f"{host}:{port}: {exc.strerror}") from None


def _litestream(config: Config) -> str:
    ages, why = replication.try_ages(config.litestream_socket)
    if why:
        raise RotatorError("restart_failed", why)
    return f"{len(ages)} databases"


def _show(name: str, check: Callable[[], str]) -> bool:
    """Run one check and print its line; tell whether it passed."""
    try:
        print(f"ok      {name:12} {check()}")
    except RotatorError as error:
        print(f"failed  {name:12} {error}\n{'':21}mend: {error.kind.mend}")
        return False
    return True


def run(path: str, login: bool) -> int:
    """Check everything; return 0 if all is well, else 1. No PIN is used unless `login`."""
    try:
        config = configuration.load(path)
        secret = pin.read(config.pin_file) if login and config.backend != "file" else None
        # Everything after this is done as the service would do it.
        user.become(config.user)
        held = rotation.lock(config.state_directory, patient=True)
    except RotatorError as error:
        print(f"failed  {error}\n{'':8}mend: {error.kind.mend}")
        return 1
    print(f"ok      {'config':12} {path}")
    backend.prepare_environment(config)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("certificate", lambda: _certificate(config)),
        ("token", lambda: _token(config)),
        ("clock", lambda: _clock(config)),
        ("dns", lambda: _dns(config)),
        ("tls", lambda: _tls(config)),
        ("litestream", lambda: _litestream(config)),
    ]
    if login:
        checks.insert(2, ("login", lambda: _login(config, secret)))
    try:
        results = [_show(name, check) for name, check in checks]
    finally:
        os.close(held)
    return 0 if all(results) else 1
