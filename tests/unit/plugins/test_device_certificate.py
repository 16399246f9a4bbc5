"""device_certificate: what a hostile device can get signed, and what it cannot."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edge_litestream.appliance.plugins.action import device_certificate as plugin
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT = Path(__file__).resolve().parents[3]
PEM, SPKI = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
Sign = Callable[..., dict[str, Any]]


def public(key: Any) -> str:
    return str(key.public_key().public_bytes(PEM, SPKI).decode())


def secret(key: Any, passphrase: bytes = b"") -> bytes:
    closed = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, closed))


def request(
    name: str = "edge01", key: Any = KEY, extensions: tuple[Any, ...] = (), digest: Any = hashes.SHA256
) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(plugin.subject(name))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, digest() if digest else None)


def pem(made: x509.CertificateSigningRequest) -> str:
    return made.public_bytes(PEM).decode()


def ca(directory: Path, key: Any, days: int = 3650, authority: bool = True, identifier: bool = True) -> None:
    """Put a CA's certificate and key into a directory."""
    now = datetime.datetime.now(datetime.UTC)
    name = plugin.subject("Fleet CA")
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if identifier:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    (directory / "ca.crt").write_bytes(builder.sign(key, digest).public_bytes(PEM))
    (directory / "ca.key").write_bytes(secret(key))


@pytest.fixture(params=["ec", "rsa", "ed25519"])
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    keys: dict[str, Callable[[], Any]] = {
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }
    ca(tmp_path, keys[request.param](), identifier=request.param != "rsa")
    return tmp_path


@pytest.fixture
def sign(tmp_path: Path) -> Sign:
    """Ask for a certificate for edge01, whose token shows KEY."""

    def answer(text: str, **changed: Any) -> dict[str, Any]:
        if not (tmp_path / "ca.crt").exists():
            ca(tmp_path, OTHER)
        wanted: dict[str, Any] = {
            "request": text,
            "public_key": public(KEY),
            "common_name": "edge01",
            "ca_certificate": str(tmp_path / "ca.crt"),
            "ca_key": str(tmp_path / "ca.key"),
            "validity_days": 30,
            "request_dest": None,
            "dry": False,
        }
        return dict(plugin.provide(**{**wanted, **changed}))

    return answer


SAN = x509.SubjectAlternativeName([x509.DNSName("edge02")])
AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request("edge02"),
        request(extensions=(SAN, AUTHORITY)),
        request("edge02", extensions=(SAN,)),
    ],
    ids=["honest", "another's name", "a CA's extensions", "both"],
)
def test_a_certificate_says_what_the_inventory_says(
    authority: Path, sign: Sign, asked: x509.CertificateSigningRequest
) -> None:
    made = x509.load_pem_x509_certificate(sign(pem(asked))["certificate"].encode())
    issuer = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
    made.verify_directly_issued_by(issuer)
    assert made.subject.rfc4514_string() == "CN=edge01"
    assert plugin.der(made.public_key()) == plugin.der(KEY.public_key())
    now = datetime.datetime.now(datetime.UTC)
    assert now - datetime.timedelta(minutes=6) < made.not_valid_before_utc < now
    assert abs(made.not_valid_after_utc - now - datetime.timedelta(days=30)) < datetime.timedelta(minutes=1)
    assert made.serial_number.bit_length() > 100
    found = {extension.oid: extension.value for extension in made.extensions}
    assert len(found) == 5
    assert found[x509.BasicConstraints.oid] == x509.BasicConstraints(ca=False, path_length=None)
    assert found[x509.ExtendedKeyUsage.oid] == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    usage = found[x509.KeyUsage.oid]
    assert isinstance(usage, x509.KeyUsage)
    assert usage.digital_signature
    assert not usage.key_cert_sign
    identifier = found[x509.AuthorityKeyIdentifier.oid]
    assert isinstance(identifier, x509.AuthorityKeyIdentifier)
    expected = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
    assert identifier.key_identifier == expected


def test_two_certificates_have_two_serial_numbers(sign: Sign) -> None:
    made = [x509.load_pem_x509_certificate(sign(pem(request()))["certificate"].encode()) for _ in range(2)]
    assert made[0].serial_number != made[1].serial_number


def forged() -> str:
    """Make a request for the token's key, signed by a thief without the token."""
    info = request().tbs_certrequest_bytes
    signature = OTHER.sign(info, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    bits = b"\x03" + bytes([len(signature) + 1, 0]) + signature
    whole = info + algorithm + bits
    text = x509.load_der_x509_csr(b"\x30\x81" + bytes([len(whole)]) + whole)
    assert not text.is_signature_valid
    return pem(text)


WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("text", "token", "said"),
    [
        (pem(request(key=OTHER)), KEY, "for another key than the token's"),
        (forged(), KEY, "not signed with its own key"),
        ("", KEY, "cannot be read"),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            KEY,
            "cannot be read",
        ),
        ("\0" * 100, KEY, "cannot be read"),
        (pem(request()) + "x" * 20000, KEY, "more than 16384"),
        (pem(request(key=WEAK)), WEAK, "neither EC P-256 nor RSA of 2048 bits"),
        (pem(request(key=P384)), P384, "neither EC P-256 nor RSA"),
        (pem(request(key=ED, digest=None)), ED, "neither EC P-256 nor RSA"),
    ],
    ids=["key", "signature", "empty", "garbage", "zeros", "huge", "rsa-1024", "p-384", "ed25519"],
)
def test_what_is_not_the_tokens_request_is_refused(sign: Sign, text: str, token: Any, said: str) -> None:
    with pytest.raises(plugin.CertificateError, match=said):
        sign(text, public_key=public(token))


def test_a_token_with_an_rsa_key_gets_one_too(sign: Sign) -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert sign(pem(request(key=key)), public_key=public(key))["changed"]


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda place: (place / "ca.key").write_bytes(secret(OTHER, b"open")), "ca.key has a passphrase"),
        (lambda place: (place / "ca.key").write_bytes(secret(KEY)), "is not the key of"),
        (lambda place: (place / "ca.key").write_text("x"), "no PEM private key"),
        (lambda place: (place / "ca.crt").write_text("x"), "no PEM certificate"),
        (lambda place: ca(place, OTHER, authority=False), "lacks CA:TRUE"),
        (lambda place: ca(place, OTHER, days=-1), "expired on"),
    ],
)
def test_a_ca_that_cannot_sign_is_named(
    tmp_path: Path, sign: Sign, prepare: Callable[[Path], Any], said: str
) -> None:
    ca(tmp_path, OTHER)
    prepare(tmp_path)
    with pytest.raises(plugin.CertificateError, match=said):
        sign(pem(request()))


def test_a_certificate_ends_with_its_ca(tmp_path: Path, sign: Sign) -> None:
    ca(tmp_path, OTHER, days=7)
    made = x509.load_pem_x509_certificate(sign(pem(request()))["certificate"].encode())
    issuer = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    assert made.not_valid_after_utc == issuer.not_valid_after_utc


def test_check_mode_signs_nothing_and_finds_what_is_wrong(sign: Sign) -> None:
    assert sign(pem(request()), dry=True) == {"changed": True}
    with pytest.raises(plugin.CertificateError, match="another key"):
        sign(pem(request(key=OTHER)), dry=True)


def run(
    tmp_path: Path, tasks: list[Any], text: str, *options: str, token: Any = KEY, **known: Any
) -> tuple[int, str]:
    """Run tasks for edge01, which is this machine, after its answer about key and request."""
    play = tmp_path / "play.yml"
    known |= {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "__device_identity_key": {"request": text, "public_key": public(token)},
    }
    host = {"hosts": "edge01", "gather_facts": False, "vars": known, "tasks": tasks}
    play.write_text(json.dumps([host]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--inventory=edge01,", *options, play],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to root")
def test_the_role_signs_for_the_inventorys_name(tmp_path: Path) -> None:
    ca(tmp_path, OTHER)
    role = ROOT / "roles/device_identity"
    known = {
        "role_path": str(role),
        "device_identity_thing_name": "edge01",
        "device_identity_ca_certificate": str(tmp_path / "ca.crt"),
        "device_identity_ca_key": str(tmp_path / "ca.key"),
        "device_identity_validity_days": 30,
        "device_identity_certificate_file": str(tmp_path / "device.crt"),
    }
    tasks = yaml.safe_load((role / "tasks/sign.yml").read_text())
    code, said = run(tmp_path, tasks, pem(request("edge02")), **known)
    assert code == 0, said
    made = x509.load_pem_x509_certificate((tmp_path / "device.crt").read_bytes())
    assert made.subject.rfc4514_string() == "CN=edge01"
    (tmp_path / "device.crt").unlink()
    code, said = run(tmp_path, tasks, pem(request(key=OTHER)), **known)
    assert code != 0
    assert "no certificate for 'edge01': the request is for another key than the token's" in said
    assert not (tmp_path / "device.crt").exists()


def enroll(tmp_path: Path, text: str, *options: str) -> tuple[int, str, Path]:
    """Run the task of playbooks/enroll.yml that keeps the request."""
    tasks = yaml.safe_load((ROOT / "playbooks/enroll.yml").read_text())[0]["tasks"]
    task = next(one for block in tasks for one in block.get("block", []) if "request_dest" in str(one))
    if "--check" in options:
        del task["when"]
    known = {"enroll_csr_dir": str(tmp_path / "enrollment"), "edge_rotator_thing_name": "edge01"}
    code, said = run(tmp_path, [task], text, *options, **known)
    return code, said, tmp_path / "enrollment/edge01.csr"


def test_the_request_is_kept_as_it_was_checked(tmp_path: Path) -> None:
    text = pem(request())
    code, said, dest = enroll(tmp_path, text, "--check")
    assert (code, "changed=1" in said, dest.exists()) == (0, True, False), said
    code, said, dest = enroll(tmp_path, f"hidden from who only looks\n{text}\nand more of it")
    assert (code, "changed=1" in said, dest.read_text()) == (0, True, text), said
    code, said, dest = enroll(tmp_path, text)
    assert (code, "changed=0" in said) == (0, True), said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request("edge02"), "asks for the subject 'CN=edge02', instead of 'CN=edge01' alone"),
        (request(extensions=(SAN,)), "asks for the subject 'CN=edge01', extension 2.5.29.17, instead of"),
        (request(extensions=(AUTHORITY,)), "extension 2.5.29.19"),
        (request(key=OTHER), "for another key than the token's"),
    ],
)
def test_nobody_is_given_a_request_for_more_than_the_things_name(
    tmp_path: Path, asked: x509.CertificateSigningRequest, said: str
) -> None:
    code, text, dest = enroll(tmp_path, pem(asked))
    assert code != 0
    assert "no certificate for 'edge01': the request " in text
    assert said in text
    assert not dest.exists()


def test_what_openssl_makes_is_taken_too(tmp_path: Path) -> None:
    """The role's own command for a device without a token."""
    (tmp_path / "key").write_bytes(secret(KEY))
    command = ["openssl", "req", "-new", "-subj", "/CN=edge01", "-key", str(tmp_path / "key")]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    plugin.check_subject(plugin.read_request(made.stdout, public(KEY)), "edge01")


def test_a_name_with_more_than_one_part_is_another_name() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "edge01"),
                x509.NameAttribute(NameOID.COMMON_NAME, "edge02"),
            ]
        )
    )
    with pytest.raises(plugin.CertificateError, match="instead of 'CN=edge01' alone"):
        plugin.check_subject(builder.sign(KEY, hashes.SHA256()), "edge01")
