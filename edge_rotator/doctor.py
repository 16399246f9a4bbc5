"""`edge-rotator doctor`: walk the whole chain, a line each: ok, failed with its fix, or skipped.

Every check runs in a process of its own with a limit, so that neither a module that crashes nor a
name server that is silent ends or stops the walk, and none sees a token another has opened.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import socket
import ssl
import stat
import subprocess
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edge_rotator import (
    backend,
    delivery,
    files,
    litestream,
    lock,
    provider,
    rotation,
    s3,
    schedule,
    status,
    systemd,
    token,
)
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import format_iso, read_clock
from edge_rotator.errors import FORCE, KINDS, RESTART, RotatorError, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from edge_rotator.config import Config

_LIMIT = 90.0  # s per check, above each check's own limits and the wait for the lock
_COMMAND_TIMEOUT = 10.0  # s
_FORK = multiprocessing.get_context("fork")
_WANTS_OURS = ("handshake failure", "Handshake failed")  # in OpenSSL's words, and in GnuTLS's

Verdict = tuple[str, str, str]  # ok, failed or skipped; the error's class; what was seen


class SkippedError(Exception):
    """A check that has nothing to check; the text says why."""


def _needs_token(config: Config) -> None:
    if config.backend == "file":
        raise SkippedError("the key is a file (backend file)")


def _timer(_config: Config) -> str:
    ticks = systemd.ticks()
    if not ticks.known:
        raise SkippedError(f"unknown, {ticks.detail}")
    if ticks.error:
        raise RotatorError(ticks.error, ticks.detail)
    return f"{systemd.TIMER} ticks and is enabled"


def _pycurl(config: Config) -> str:
    backend.load(config)
    import pycurl

    backend.set_key(pycurl.Curl(), config, "")
    return backend.check(config)


def _module(config: Config) -> str:
    _needs_token(config)
    count = len(token.labels(config.module))
    return f"{config.module}, {count} tokens"


def _token(config: Config) -> str:
    _needs_token(config)
    token.find_token(config.module, config.label)
    return f"{config.label}, used {'with' if config.pin_file else 'without'} a PIN"


def _key(config: Config) -> str:
    if config.backend == "file":
        return _key_file(config.key_file)
    with token.open_session(token.find_token(config.module, config.label), None) as session:
        key = token.find_public_key(session, config.key_label)
        return f"{config.key_label}, {key.key_type.name}"


def _key_file(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
    except OSError as exc:
        raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise RotatorError("file_unreadable", f"{path} is open to others (mode {mode & 0o777:o})")
    return f"{path}: a file, not a token: whoever reads it is this device"


def _certificate(config: Config) -> str:
    start, end = token.certificate_validity(config.certificate_file)
    now = read_clock().wall
    if now < start:
        raise RotatorError("clock_wrong", f"{config.certificate_file} is valid from {format_iso(start)}")
    if now >= end:
        raise RotatorError("tls_client_refused", f"{config.certificate_file} expired {format_iso(end)}")
    return f"valid for {(end - now) / 86400:.0f} more days, until {format_iso(end)}"


def _match(config: Config) -> str:
    if config.backend == "file":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(config.certificate_file, config.key_file, password="")
        except (ssl.SSLError, OSError) as exc:
            raise RotatorError("key_mismatch", f"{config.certificate_file}: {exc}") from None
    else:
        with token.open_session(token.find_token(config.module, config.label), None) as session:
            key = token.find_public_key(session, config.key_label)
            token.check_certificate(key, config.certificate_file)
    return "the certificate was issued for this key"


def _login(config: Config, secret: str | None) -> str:
    _needs_token(config)
    from pkcs11 import TokenFlag

    found = token.find_token(config.module, config.label)
    if not config.pin_file:
        with token.open_session(found, None) as session:
            token.check_private_key(session, found, config.key_label, False)
        return "the private key is there; no PIN is needed"
    try:
        token.check_flags(found)
    except RotatorError:
        # What was refused once may be right by now; a last try is not for finding that out.
        if secret is None or found.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise
    if secret is None:
        raise SkippedError("needs --login, which costs a try if the PIN is wrong")
    with token.open_session(found, secret) as session:
        token.check_private_key(session, found, config.key_label, True)
    return "the PIN is right and the private key is there"


def _clock(config: Config) -> str:
    wall = read_clock().wall
    told = Path(config.path).stat().st_mtime
    now = format_iso(wall)
    if wall < told - status.CLOCK_SLACK:
        raise RotatorError("clock_wrong", f"{now}, but this device was set up at {format_iso(told)}")
    if Path("/run/systemd/timesync").is_dir() and not Path("/run/systemd/timesync/synchronized").exists():
        raise RotatorError("clock_wrong", f"{now}; systemd-timesyncd has not synchronised yet")
    skew = states.load(config.state_directory).clock_skew
    if abs(skew) > delivery.CLOCK_TOLERANCE:
        raise RotatorError("clock_wrong", f"{-skew:+.0f} s against the provider's at its last answer")
    return f"{now}, nothing speaks against it"


def _dns(config: Config) -> str:
    host, _, port = config.endpoint.partition(":")
    if config.proxy:  # which resolves the endpoint itself
        proxy = urlsplit(config.proxy)
        host, port = str(proxy.hostname), str(proxy.port)
    try:
        found = socket.getaddrinfo(host, int(port or 443), type=socket.SOCK_STREAM)
    except OSError as exc:
        raise RotatorError("dns", f"{host}: {exc.strerror or exc}") from None
    return f"{'the proxy ' if config.proxy else ''}{host} is {found[0][4][0]}"


def _needs_proxy(config: Config) -> None:
    if config.proxy_credentials_file and config.proxy_login is None:
        raise SkippedError("needs --login: root alone reads what the proxy asks for")


def _tls(config: Config) -> str:
    """Connect with the server's certificate checked, and ask for nothing."""
    _needs_proxy(config)
    backend.check(config)
    import pycurl

    if not os.access(config.ca_file, os.R_OK):
        raise RotatorError("file_unreadable", f"cannot read {config.ca_file}")
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, f"https://{config.endpoint}")
    curl.setopt(pycurl.CONNECT_ONLY, 1)
    try:
        provider.perform(curl, config, config.ca_file)
    except RotatorError as error:
        # TLS 1.2 asks for our certificate within the handshake, and the key is not ours to use here.
        if any(words in error.detail for words in _WANTS_OURS):
            raise SkippedError("the endpoint wants our certificate first: --login shows it") from None
        raise
    return f"{config.endpoint} proved itself"


def _provider(config: Config, secret: str | None) -> str:
    _needs_proxy(config)
    if config.pin_file and config.backend != "file":
        if secret is None:
            raise SkippedError("needs --login")
        # What root read has to be a file for libcurl; this one is nowhere but in memory.
        config = copy.copy(config)
        config.pin_file = token.pin_in_memory(secret)
        os.environ.pop("CREDENTIALS_DIRECTORY", None)
    _, lifetime, skew = rotation.fetch_checked(config, 0.0)
    return f"credentials for {lifetime:.0f} s, our clock is {-skew:+.0f} s off; nothing stored"


def _succeeds(command: list[str]) -> bool:
    """Whether a command ends with 0 within its time."""
    try:
        return not subprocess.run(  # noqa: S603 (root's own configuration names the command)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _s3(config: Config) -> str:
    import pycurl

    if not config.replicas:
        raise SkippedError("no delivery.replicas")
    _needs_proxy(config)
    clock, state = read_clock(), states.load(config.state_directory)
    held = state.remaining(clock, config.credentials_file) > 0
    signs = hasattr(pycurl, "AWS_SIGV4")  # Debian 12's own pycurl (backend gnutls) does not
    ca = systemd.environment(config.service, "SSL_CERT_FILE")
    server = s3.S3(config, ca, delivery.read(config) if held and signs else None)
    for index, (bucket, path) in enumerate(config.replicas):
        if not server.credentials:
            answered, _ = server.request("GET", f"{bucket}/")
            continue
        newest = 0
        if config.litestream_socket and index < len(config.databases):
            newest = litestream.txid(config.litestream_socket, config.databases[index])
        server.prove(bucket, path, newest, litestream.limit(config))
    hosts = ", ".join(sorted({urlsplit(bucket).netloc for bucket, _ in config.replicas}))
    if server.credentials:
        return f"{hosts}: took, gave and listed, and what Litestream has is there"
    why = "this pycurl cannot sign" if held else "there are no valid credentials"
    return f"{hosts} proved itself and answers {answered}; {why}"


def _litestream(config: Config) -> str:
    if not config.litestream_socket:
        raise SkippedError("no delivery.litestream_socket")
    answer, why = litestream.look(config.litestream_socket)
    if why:
        raise RotatorError("litestream_silent", why)
    found = [f"{path} {problem}" for path, problem in litestream.problems(config, answer).items()]
    # What Litestream says of a sync is what S3 says of it.
    for path in answer.databases:
        if error := litestream.try_sync(config, path):
            found.append(f"{path}: {error}")
            break  # each may take half a minute
    if found:
        raise RotatorError("replication_stalled", "; ".join(found))
    return f"{len(answer.databases)} databases, all synced now"


def _delivery(config: Config) -> str:
    for path in (config.directory, config.state_directory):
        if not os.access(path, os.W_OK | os.X_OK):
            raise RotatorError("write_failed", f"{path}: not a directory we can write to")
    if config.mode == "process":
        return f"{config.directory} is ours; Litestream's credential_process reads it"
    command = config.restart_command
    if not command[0].endswith("/sudo"):
        if not os.access(command[0], os.X_OK):
            raise RotatorError("restart_failed", f"{command[0]} cannot be run")
        return f"{command[0]} can be run"
    rest = [word for word in command[1:] if not word.startswith("-")]
    if not _succeeds([command[0], "-n", "-l", *rest]):
        raise RotatorError("restart_failed", f"sudo does not allow: {' '.join(rest)}")
    return f"sudo allows: {' '.join(rest)}"


def _isolated(check: Callable[[], str]) -> Verdict:
    """Run a check in a process of its own, which is gone afterwards with all that it started."""
    reader, writer = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_child, args=(check, writer))
    child.start()
    writer.close()
    try:
        if not reader.poll(_LIMIT):
            return "failed", "timeout", f"no answer within {_LIMIT:.0f} s"
        verdict: Verdict = reader.recv()
        child.join(1)  # it ends by itself, unless a module hangs at its end
        return verdict
    except EOFError:
        child.join()
        return "failed", "internal_error", f"the check crashed (exit code {child.exitcode})"
    finally:
        # Never SIGKILL: a login in its middle has to end first. Its alarm bounds what does not obey.
        while child.is_alive():
            # Again, for one that has just begun may still ignore what its parent did.
            child.terminate()
            # Neither reaches one that is stopped, until it goes on.
            os.kill(child.pid or 0, signal.SIGCONT)
            child.join(1)
        with suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)  # what it started
        reader.close()


def _child(check: Callable[[], str], writer: Connection) -> None:
    # Whatever the caller ignores or blocks: it must end when told to, and at its limit.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGALRM))
    # Should the doctor itself be gone by then: nothing may hold its lock for ever.
    signal.alarm(int(_LIMIT) + 5)
    os.setsid()  # no terminal: nothing below can ask for a PIN there
    writer.send(_verdict(check))


def _verdict(check: Callable[[], str]) -> Verdict:
    try:
        with backend.Captured():
            return "ok", "", check()
    except SkippedError as exc:
        return "skipped", "", str(exc)
    except RotatorError as error:
        return "failed", error.kind.name, error.detail
    except Exception as exc:
        return "failed", "internal_error", f"{type(exc).__name__}: {exc}"


def _show(name: str, verdict: str, kind: str, detail: str) -> None:
    print(f"{verdict:8}{name:13}{kind + ': ' if kind else ''}{plain(detail)}", flush=True)
    if kind:
        print(f"{'':21}fix: {KINDS[kind].fix}", flush=True)


def _alone(config: Config, check: Callable[..., str], **secret: str | None) -> str:
    """Do a check that uses the token, with the lock.

    Only here, in the check's own process: the doctor itself may be stopped or wait for its reader.
    """
    with lock.held(config), rotation.login(config) if secret.get("secret") else nullcontext():
        return check(config, **secret)


def _walk(config: Config, secret: str | None) -> bool:
    """Check everything; return whether nothing failed."""
    latched = schedule.latched(states.load(config.state_directory), config.pin_file)
    # Name, the check that has to be passed before it makes sense, what is done.
    checks: tuple[tuple[str, str, Callable[[Config], str]], ...] = (
        ("timer", "", _timer),
        ("pycurl", "", _pycurl),
        ("module", "", partial(_alone, check=_module)),
        ("token", "module", partial(_alone, check=_token)),
        ("key", "token", partial(_alone, check=_key)),
        ("certificate", "", _certificate),
        ("match", "key", partial(_alone, check=_match)),
        ("login", "token", partial(_alone, check=_login, secret=secret)),
        ("clock", "", _clock),
        ("dns", "", _dns),
        ("tls", "dns", _tls),
        ("provider", "login", partial(_alone, check=_provider, secret=secret)),
        ("s3", "", _s3),
        ("litestream", "", _litestream),
        ("delivery", "", _delivery),
    )
    broken: set[str] = set()  # failed, or skipped because of that
    for name, before, check in checks:
        if latched and name == "login":
            verdict, kind, detail = "failed", "pin_refused", "the PIN file has not changed since"
        elif before in broken:
            verdict, kind, detail = "skipped", "", f"after {before} failed"
        else:
            verdict, kind, detail = _isolated(partial(check, config))
        if verdict == "failed" or before in broken:
            broken.add(name)
        _show(name, verdict, kind, detail)
    if broken:
        # Only Litestream has something to try again. What is from before a `found` S3 goes on refusing.
        command = (
            f"{RESTART}`; if the thing was found again, first `{FORCE}"
            if broken <= {"s3", "litestream"}
            else FORCE
        )
        print(f"{'':8}After repairing: `{command}`", flush=True)
    return not broken


def run(path: str, login: bool) -> int:
    """Check everything; return 0 if nothing failed, else 1. No PIN is used unless `login`."""
    try:
        config = configuration.load(path)
        secret = token.read_pin(config.pin_file) if login and config.backend != "file" else None
        if os.geteuid() == 0 or os.access(config.proxy_credentials_file, os.R_OK):
            config.proxy_login = provider.proxy_login(config)
        files.become(config.user)
    except RotatorError as error:
        _show("config", "failed", error.kind.name, error.detail)
        return 1
    _show("config", "ok", "", path)
    backend.prepare_environment(config)
    return 0 if _walk(config, secret) else 1
