"""Tokens: one wrong PIN costs one try, whatever the token and the way to it."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pkcs11
import pytest
from conftest import COVERAGE, PIN, ROOT, SOFTHSM, Device
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import TokenFlag
from pki import DAY, Authority
from tokens import TPM2, Tpm, software_tpm, spy, use_debian_pycurl

from edge_rotator import config as configuration
from edge_rotator import token
from edge_rotator.errors import RotatorError

Pki = tuple[Authority, Authority, Path]


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    with software_tpm(tmp_path_factory.mktemp("tpm")) as made:
        yield made


@pytest.fixture(params=["softhsm", "tpm2"])
def module(request: pytest.FixtureRequest, device: Device, pki: Pki) -> str:
    """The device's token is in SoftHSM or in a TPM; return the module's path."""
    if request.param == "softhsm":
        return SOFTHSM
    made: Tpm = request.getfixturevalue("tpm")
    made.tool("tpm2_dictionarylockout", "--clear-lockout")
    made.own(device, pki[1])
    return str(TPM2)


@pytest.mark.parametrize("backend", ["engine", "gnutls"])
def test_one_wrong_pin_and_ten_ticks_are_one_login(device: Device, module: str, backend: str) -> None:
    if backend == "gnutls":
        use_debian_pycurl(device)
    count = spy(device, module)
    assert device.run("rotate").returncode == 0, "the right PIN works through the tracing module"
    logins = count("C_Login")
    assert logins == 1
    before = device.credentials.read_bytes()
    device.pin_file.write_text("wrong-pin")

    refused = device.run("rotate", "--force")
    assert (refused.returncode, count("C_Login")) == (65, logins + 1), refused.stderr
    assert refused.stderr.count("\n") == 1
    for _ in range(10):
        # In this process, for speed: a tick that is not due touches no module.
        assert device.tick("due") == 1
        assert device.tick("rotate") == 0
    for by_hand, code in (
        (("rotate", "--force"), 65),
        (("rotate", "--dry-run"), 65),
        (("csr",), 65),
        (("doctor", "--login"), 1),
        (("status",), 2),
    ):
        assert device.run(*by_hand).returncode == code, by_hand
    assert count("C_Login") == logins + 1
    assert device.credentials.read_bytes() == before

    device.pin_file.write_text(PIN)
    fixed = device.run("rotate", "--force")
    assert (fixed.returncode, count("C_Login")) == (0, logins + 2), fixed.stderr


def test_doctor_latches_the_pin_it_found_wrong(device: Device, module: str) -> None:
    count = spy(device, module)
    device.pin_file.write_text("wrong-pin")
    assert "failed  login        pin_refused" in device.run("doctor", "--login").stdout
    assert device.run("rotate").returncode == 0, "latched, so not due"
    assert count("C_Login") == 1


def test_a_key_made_in_the_token_signs_its_request(device: Device, module: str) -> None:
    request = device.run("csr", "--common-name", "edge99")
    checked = subprocess.run(
        ["openssl", "req", "-noout", "-verify", "-subject"],
        input=request.stdout,
        text=True,
        capture_output=True,
        check=True,
    )
    assert "edge99" in checked.stdout
    again = device.run("csr", "--create-key")
    assert "key device exists in edge" in again.stderr


def test_locked_tpm(device: Device, tpm: Tpm, pki: Pki) -> None:
    """A TPM that refuses everybody for a while; other users' wrong PINs count too."""
    tpm.tool("tpm2_dictionarylockout", "--clear-lockout")
    tpm.own(device, pki[1])
    for n in range(3):
        device.pin_file.write_text(f"wrong-pin-{n}")
        device.touched()
        assert device.run("rotate").returncode == 65, "the last of these locks it"
    device.pin_file.write_text(PIN)
    device.touched()
    assert device.run("rotate").returncode == 66
    assert device.run("rotate").stderr == "", "it waits"
    told = json.loads(device.run("status", "--json").stdout)
    assert told["pin_latched"] is False
    assert "the last attempt failed: pin_locked" in told["problems"]
    assert told["next_waits"] == "backoff after pin_locked"
    assert 890 <= told["next_attempt_in_s"] <= 990
    assert device.run("rotate", "--force").returncode == 66
    # What time does, at once; nobody touches the device.
    tpm.tool("tpm2_dictionarylockout", "--clear-lockout")
    device.next.write_text("0 /\n")
    assert device.run("rotate").returncode == 0


def test_absent_tpm(device: Device, tmp_path: Path) -> None:
    environment = {"TPM2_PKCS11_STORE": str(tmp_path), "TPM2_PKCS11_TCTI": "swtpm:port=1"}
    device.configure(token={"module": str(TPM2), "environment": environment})
    done = device.run("rotate")
    assert done.returncode == 62, done.stderr
    assert "does not start" in done.stderr
    assert done.stderr.count("\n") == 1, "the module's own complaints are not heard"


def test_token_without_a_pin(device: Device, pki: Pki) -> None:
    """As an ATECC608 is: whoever reaches the chip may use the key, and there is no login.

    Only with the engine: SoftHSM's tokens claim to need a login, and GnuTLS takes them at their word.
    """
    code = f"""
import pkcs11
from pkcs11 import Attribute, KeyType, MechanismFlag
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib({SOFTHSM!r}).get_token(token_label="edge")
with token.open(rw=True, user_pin={PIN!r}) as session:
    for key in session.get_objects({{Attribute.LABEL: "device"}}):
        key.destroy()
    curve = {{Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}}
    session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
        id=b"1", label="device", store=True, public_template={{Attribute.PRIVATE: False}},
        private_template={{Attribute.PRIVATE: False, Attribute.EXTRACTABLE: False}},
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY)
"""
    environment = {"SOFTHSM2_CONF": str(device.softhsm)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    device.configure(token={"pin_file": None})
    made = device.run("csr")
    assert made.returncode == 0, made.stderr
    device.certificate.write_bytes(pki[1].sign_request(made.stdout.encode()))
    count = spy(device)
    done = device.run("rotate")
    assert done.returncode == 0, done.stderr
    assert count("C_Login") == 0
    assert "ok      login        the private key is there; no PIN is needed" in device.run("doctor").stdout


def test_forgotten_pin(device: Device) -> None:
    """The token wants a PIN, the configuration names none, and nobody is asked for one."""
    device.configure(token={"pin_file": None})
    done = device.run("rotate")
    assert done.returncode == 67, done.stderr
    assert "token.pin_file is not set" in done.stderr


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"module": "/nowhere.so"}, 61),
        ({"module": "/etc/passwd"}, 61),
        ({"label": "other"}, 62),
        ({"key_label": "other"}, 63),
    ],
)
def test_what_is_missing_has_its_own_class(device: Device, changes: dict[str, str], code: int) -> None:
    device.configure(token=changes)
    done = device.run("rotate")
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1


def test_certificate_of_another_key(device: Device, pki: Pki, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    device.certificate.write_bytes(pki[1].sign("edge01", other.public_key()))
    done = device.run("rotate")
    assert done.returncode == 64, done.stderr


def test_validity_beyond_2038_and_2049(tmp_path: Path, pki: Pki) -> None:
    """AWS's certificates end at 2049-12-31; from 2050 on a certificate writes its times in another form."""
    start = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "c.pem"
    for end, seconds in (
        (datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC), 2524607999),
        (datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC), 4102444800),
    ):
        path.write_bytes(pki[1].sign("edge01", key, start=start, days=(end - start) / DAY))
        assert token.certificate_validity(str(path)) == (1735689600, seconds)


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\n====\n-----END"])
def test_no_certificate(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.pem"
    path.write_text(text)
    with pytest.raises(RotatorError, match="file_unreadable"):
        token.certificate_validity(str(path))


def diagnosis(device: Device) -> str:
    """Run what `diagnose` runs in a process of its own; return the class it names."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {sysconfig.get_paths()["platlib"]!r}]
{COVERAGE}
from edge_rotator.token import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, str(device.config)],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\t")[0]


def test_diagnosis_uses_no_login(device: Device, pki: Pki) -> None:
    count = spy(device)
    assert diagnosis(device) == "", "nothing is wrong"
    for changes, kind in (
        ({"label": "other"}, "token_absent"),
        ({"key_label": "other"}, "key_missing"),
        ({"module": "/nowhere.so"}, "module_missing"),
        ({"module": "/etc/passwd"}, "module_missing"),
        ({"pin_file": None}, "pin_unreadable"),
    ):
        before = dict(device.tables["token"])
        device.configure(token=changes)
        assert diagnosis(device) == kind
        device.configure(token=before)
    good = device.certificate.read_bytes()
    device.certificate.write_text("nonsense")
    assert diagnosis(device) == "file_unreadable"
    device.certificate.unlink()
    assert diagnosis(device) == "file_unreadable"
    other = ec.generate_private_key(ec.SECP256R1())
    device.certificate.write_bytes(pki[1].sign("edge01", other.public_key()))
    assert diagnosis(device) == "key_mismatch"
    device.certificate.write_bytes(good)
    assert count("C_Login") == 0
    device.pin_file.write_text("wrong-pin")
    assert device.run("rotate").returncode == 65
    assert diagnosis(device) == "pin_refused", "SoftHSM remembers it in its flags"
    device.config.write_text("nonsense")
    assert diagnosis(device) == "config_invalid"


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (0, None),
        (TokenFlag.USER_PIN_COUNT_LOW, "pin_refused"),
        (TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY, "pin_refused"),
        (TokenFlag.USER_PIN_LOCKED, "pin_locked"),
    ],
)
def test_what_a_token_says_of_its_pin(flags: TokenFlag, kind: str | None) -> None:
    fake = SimpleNamespace(flags=TokenFlag(flags))
    if kind is None:
        token.check_flags(fake)  # type: ignore[arg-type]
        return
    with pytest.raises(RotatorError, match=kind):
        token.check_flags(fake)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (pkcs11.exceptions.PinLenRange, "pin_refused"),
        (pkcs11.exceptions.PinLocked, "pin_locked"),
        (pkcs11.exceptions.DeviceError, "token_failed"),
    ],
)
def test_login_that_fails(exception: type[Exception], kind: str) -> None:
    def fail(**_: object) -> None:
        raise exception

    with pytest.raises(RotatorError, match=kind):
        token.open_session(SimpleNamespace(open=fail), "1234")  # type: ignore[arg-type]


def test_child_that_says_nothing_is_given_up(
    local: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = RotatorError("token_failed", "as libcurl saw it")
    config = configuration.load(str(local.config))
    for body in ("exit 0", "echo nonsense", "exec sleep 60"):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setattr(token, "_DIAGNOSIS_TIMEOUT", 0.5)
        monkeypatch.setattr(sys, "executable", str(program))
        assert token.diagnose(config, error) is error


def test_a_module_that_does_not_start_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its chip, cryptoauthlib's module answers with a code that python-pkcs11 has no name for."""

    def refuse(_: str) -> None:
        raise RuntimeError("Should never see this")

    monkeypatch.setattr(pkcs11, "lib", refuse)
    text = tmp_path / "text.so"
    text.write_text("no module")
    for path, kind in ((SOFTHSM, "token_absent"), (str(text), "module_missing")):
        with pytest.raises(RotatorError) as caught:
            token.labels(path)
        assert caught.value.kind.name == kind
