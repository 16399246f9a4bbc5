"""The ways to the key: what each can do, and how it says what it cannot."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
from conftest import THING, Device
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pki import DAY, Authority, now
from tokens import spy, use_debian_pycurl

from edge_rotator import backend, token
from edge_rotator import config as configuration
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError


def test_gnutls_needs_nothing_compiled(device: Device) -> None:
    use_debian_pycurl(device)
    count = spy(device)
    done = device.run("rotate")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1, "neither the module nor GnuTLS's own log is heard"
    assert count("C_Login") == 1
    assert json.loads(device.credentials.read_text())["Version"] == 1
    assert "with GnuTLS/" in device.run("doctor").stdout


def test_gnutls_loads_our_module_and_no_other(device: Device) -> None:
    use_debian_pycurl(device)
    count = spy(device)
    assert device.run("rotate", env={"P11_KIT_DEBUG": "all"}).returncode == 0
    assert count("C_Initialize") == 1
    device.configure(token={"module": "/etc/passwd"})
    assert device.run("rotate", "--force").returncode == 61


def test_key_file_is_told_of(local: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert local.tick() == 0
    assert "event=key_in_file" in capsys.readouterr().err
    local.tick("status", "--json")
    told = json.loads(capsys.readouterr().out)["token"]
    assert (told["backend"], told["key_file"]) == ("file", str(local.root / "etc/device.key"))


@pytest.mark.parametrize("name", ["pkcs11-provider", "gnutls"])
def test_what_this_libcurl_cannot_do(device: Device, name: str) -> None:
    """The pycurl of this host is built against OpenSSL, with a libcurl that knows no provider."""
    library, version, _ = backend.describe()
    if name == "pkcs11-provider" and version >= (8, 12):
        pytest.skip(f"libcurl {version} can do it, with {library}")
    device.configure(provider={"backend": name})
    done = device.run("rotate")
    assert done.returncode == 60, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"backend {name} needs" in done.stderr


def _pycurl(
    monkeypatch: pytest.MonkeyPatch, directory: Path, library: str = "OpenSSL/3.0", number: int = 0x080E01
) -> Path:
    """Put a pycurl of another make into place."""
    fake = types.ModuleType("pycurl")
    fake.__file__ = str(directory / "pycurl.so")
    info = (9, "8", number, "x86_64", 0, library)
    fake.version_info = lambda: info  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycurl", fake)
    return directory


def _config(device: Device, name: str) -> Config:
    device.configure(provider={"backend": name})
    return configuration.load(str(device.config))


@pytest.mark.parametrize("name", ["engine", "pkcs11-provider", "gnutls", "file"])
def test_wheel_is_refused_in_one_sentence(
    local: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    local.configure(token={"key_file": "/etc/key"})
    (_pycurl(monkeypatch, tmp_path) / "pycurl.libs").mkdir()
    with pytest.raises(RotatorError, match="is a wheel with its own TLS library") as caught:
        backend.load(_config(local, name))
    assert caught.value.kind.exit_code == 60


@pytest.mark.parametrize(
    ("name", "library", "number", "words"),
    [
        ("engine", "GnuTLS/3.7.9", 0x075801, "engine needs OpenSSL, pycurl has GnuTLS"),
        ("gnutls", "OpenSSL/3.0", 0x075801, "gnutls needs GnuTLS, pycurl has OpenSSL"),
        ("pkcs11-provider", "OpenSSL/3.0", 0x080B01, "provider needs libcurl 8.12, here is 8.11"),
        ("engine", "", 0x080C00, "pycurl has none"),
    ],
)
def test_mismatch_names_both_sides(
    local: Device,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    library: str,
    number: int,
    words: str,
) -> None:
    _pycurl(monkeypatch, tmp_path, library, number)
    with pytest.raises(RotatorError, match=words):
        backend.check(_config(local, name))


@pytest.mark.parametrize(
    ("name", "package"),
    [("pycurl", "pycurl"), ("pkcs11._pkcs11", "python-pkcs11"), ("pkcs11", "python-pkcs11")],
)
def test_program_of_another_release_says_to_converge(
    local: Device, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    """After an upgrade of Debian what was compiled is not there for the new Python."""
    monkeypatch.setitem(sys.modules, name, None)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(
        RotatorError, match=f"no usable {package} for Python {version} in /.* halted"
    ) as found:
        backend.check(_config(local, "file")) if name == "pycurl" else token.labels(__file__)
    kind = found.value.kind
    assert (kind.name, kind.exit_code, kind.retry) == ("backend_unusable", 60, "transient")
    assert "run edge_litestream.appliance.site against this device" in kind.fix


def test_provider_that_is_not_installed(
    local: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _pycurl(monkeypatch, tmp_path)
    monkeypatch.setenv("OPENSSL_MODULES", str(tmp_path))
    if list(Path("/usr/lib").glob("*/ossl-modules/pkcs11.so")):
        pytest.skip("pkcs11-provider is installed")
    with pytest.raises(RotatorError, match="install pkcs11-provider"):
        backend.load(_config(local, "pkcs11-provider"))


# As GnuTLS 3.7.9 and 3.8.9 and pkcs11-provider 1.0 write it.
LOGS = [
    ("gnutls", b"gnutls[2]: p11: refusing more than a single attempts with pin-source\n", "pin_refused"),
    ("gnutls", b"gnutls[3]: p11: Login result = The PIN is locked (164)\n", "pin_locked"),
    ("gnutls", b"gnutls[2]: p11: Login result = ok (0)\n", None),
    ("gnutls", b"gnutls[3]: p11: Login result = Device error (48)\n", "token_failed"),
    ("pkcs11-provider", b"p11prov_Login(): Error 160 returned by C_Login\n", "pin_refused"),
    ("pkcs11-provider", b"p11prov_Login(): Error 164 returned by C_Login\n", "pin_locked"),
    ("pkcs11-provider", b"p11prov_OpenSession(): Error 225 returned by C_OpenSession\n", None),
    ("engine", b"Login to token failed\n", None),
]


@pytest.mark.parametrize(("name", "log", "kind"), LOGS)
def test_reason_of_a_refusal(local: Device, name: str, log: bytes, kind: str | None) -> None:
    local.configure(token={"module": "/m.so", "label": "edge", "key_label": "device"})
    error = backend.token_error(_config(local, name), log)
    assert (error and error.kind.name) == kind


def test_captured_gives_stderr_back(capfd: pytest.CaptureFixture[str]) -> None:
    with backend.Captured() as captured:
        os.write(2, b"chatter")
        assert os.read(0, 1) == b""
    os.write(2, b"heard")
    assert captured.log == b"chatter"
    assert capfd.readouterr().err == "heard"


@pytest.mark.parametrize("name", ["engine", "gnutls"])
def test_server_certificate_of_the_future_is_a_wrong_clock(
    device: Device, pki: tuple[Authority, Authority, Path], name: str
) -> None:
    """A device that boots in 1970 sees every certificate so; GnuTLS does not say why it refuses one."""
    if name == "gnutls":
        use_debian_pycurl(device)
    server_ca, _, directory = pki
    certificate, key = server_ca.server(directory, "localhost", start=now() + 300 * DAY)
    device.server.context.load_cert_chain(certificate, key)
    public = serialization.load_pem_public_key(device.run("csr", "--public-key").stdout.encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    device.certificate.write_bytes(pki[1].sign(THING, public, start=now() + DAY))
    done = device.run("rotate")
    assert done.returncode == 50, done.stderr
    assert "fix=" in done.stderr
