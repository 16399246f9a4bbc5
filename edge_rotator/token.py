"""What the token holds, asked by python-pkcs11: for a CSR, for `doctor`, and after a failure."""

from __future__ import annotations

import os
import select
import sys

from edge_rotator import backend
from edge_rotator.clock import parse_iso
from edge_rotator.errors import KINDS, RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import pkcs11
    from pkcs11.types import PublicKey, Session, SignMixin, Token

    from edge_rotator.config import Config

_DIAGNOSIS_TIMEOUT = 30.0  # s
_CURVE = "secp256r1"


class TokenPlace:
    """Where a key is: module, token label and key label."""

    __slots__ = ("key_label", "label", "module")

    def __init__(self, module: str, label: str, key_label: str) -> None:
        self.module = module
        self.label = label
        self.key_label = key_label


def _detail(exc: Exception) -> str:
    """Name a PKCS#11 error; its class tells more than its text."""
    return f"{type(exc).__name__} {exc}".strip()


def _is_module(path: str) -> bool:
    """Tell whether a file can be loaded, and is a PKCS#11 module."""
    import ctypes

    try:
        return hasattr(ctypes.CDLL(path), "C_GetFunctionList")
    except OSError:
        return False


def _load(module: str) -> Any:
    """Load and start the module. Raises `module_missing`, or `token_absent` if it does not start."""
    if not os.path.exists(module):
        raise RotatorError("module_missing", f"no file {module}")
    import pkcs11

    try:
        return pkcs11.lib(module)
    except (pkcs11.PKCS11Error, RuntimeError) as exc:
        # A plain class may mean that it cannot be loaded. Else it was, and what it drives (a bus, a
        # TPM, a store) does not answer.
        if type(exc) in (pkcs11.PKCS11Error, RuntimeError) and not _is_module(module):
            raise RotatorError("module_missing", f"{module}: {exc}") from None
        raise RotatorError("token_absent", f"{module} does not start: {_detail(exc)}") from None


def _tokens(module: str, label: str | None) -> list[Token]:
    import pkcs11

    library = _load(module)
    try:
        found: list[Token] = list(library.get_tokens(token_label=label))
    except pkcs11.PKCS11Error as exc:
        raise RotatorError("token_absent", f"{module}: {_detail(exc)}") from None
    return found


def labels(module: str) -> list[str]:
    """List the labels of the tokens that a module knows. Raises `module_missing`, `token_absent`."""
    return [found.label for found in _tokens(module, None)]


def find_token(place: TokenPlace) -> Token:
    """Load the module and find the token. Raises `module_missing` or `token_absent`."""
    tokens = _tokens(place.module, place.label)
    if len(tokens) != 1:
        raise RotatorError("token_absent", f"{len(tokens)} tokens with the label {place.label}")
    return tokens[0]


def open_session(token: Token, pin: str | None, rw: bool = False) -> Session:
    """Open a session, with a login if `pin` is given. Raises pin_refused, pin_locked, token_failed.

    A login with a wrong PIN uses one of the token's tries.
    """
    import pkcs11

    try:
        return token.open(rw=rw, user_pin=pin)
    except (pkcs11.exceptions.PinIncorrect, pkcs11.exceptions.PinLenRange) as exc:
        raise RotatorError("pin_refused", _detail(exc)) from None
    except pkcs11.exceptions.PinLocked as exc:
        raise RotatorError("pin_locked", _detail(exc)) from None
    except pkcs11.PKCS11Error as exc:
        raise RotatorError("token_failed", _detail(exc)) from None


def _objects(session: Session, object_class: pkcs11.ObjectClass, label: str) -> Iterator[Any]:
    from pkcs11 import Attribute

    return iter(session.get_objects({Attribute.CLASS: object_class, Attribute.LABEL: label}))


def find_public_key(session: Session, label: str) -> PublicKey:
    """Find the public key; visible without a login unless it was made private."""
    from pkcs11 import ObjectClass

    found = list(_objects(session, ObjectClass.PUBLIC_KEY, label))
    if len(found) != 1:
        raise RotatorError("key_missing", f"{len(found)} public keys with the label {label}")
    key: PublicKey = found[0]
    return key


def find_private_key(session: Session, label: str) -> SignMixin | None:
    """Find the private key; needs a login. Raises `key_missing` if the label is not unique."""
    from pkcs11 import ObjectClass

    found = list(_objects(session, ObjectClass.PRIVATE_KEY, label))
    if len(found) > 1:
        raise RotatorError("key_missing", f"{len(found)} private keys with the label {label}")
    return found[0] if found else None


def public_key_info(key: PublicKey) -> bytes:
    """Render the SubjectPublicKeyInfo (DER) of an EC or RSA key."""
    from asn1crypto.keys import (
        PublicKeyInfo,
        RSAPublicKey,
    )
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_ec_public_key

    if key.key_type == KeyType.EC:
        return bytes(encode_ec_public_key(key))
    if key.key_type == KeyType.RSA:
        numbers = {
            "modulus": int.from_bytes(key[Attribute.MODULUS], "big"),
            "public_exponent": int.from_bytes(key[Attribute.PUBLIC_EXPONENT], "big"),
        }
        return bytes(PublicKeyInfo.wrap(RSAPublicKey(numbers), "rsa").dump())
    raise RotatorError("token_failed", f"a key of type {key.key_type.name} cannot be used")


def _certificate(path: str) -> Any:
    """Read a PEM certificate. Raises `file_unreadable`."""
    from asn1crypto import pem, x509

    try:
        with open(path, "rb") as file:
            return x509.Certificate.load(pem.unarmor(file.read())[2], strict=True)
    except OSError as exc:
        raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
    except (ValueError, TypeError):
        raise RotatorError("file_unreadable", f"{path} is no PEM certificate") from None


def certificate_key_info(path: str) -> bytes:
    """Read the SubjectPublicKeyInfo (DER) of a PEM certificate. Raises `file_unreadable`."""
    return bytes(_certificate(path).public_key.dump())


def certificate_validity(path: str) -> tuple[float, float]:
    """From when to when a PEM certificate is valid (s since 1970). Raises `file_unreadable`.

    Without asn1crypto, whose import costs as much as a rotation: two times side by side are in a
    certificate only as its validity.
    """
    import binascii

    try:
        with open(path, "rb") as file:
            body = file.read().partition(b"-----BEGIN CERTIFICATE-----")[2]
        der = binascii.a2b_base64(body.partition(b"-----END")[0])
    except OSError as exc:
        raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
    except ValueError:
        der = b""
    for at in range(len(der)):
        if der[at] == 0x30:
            start = _der_time(der, at + 2)
            end = _der_time(der, at + 4 + len(start))
            if start and end:
                return _seconds(start[:-1]), _seconds(end[:-1])
    raise RotatorError("file_unreadable", f"{path} is no PEM certificate")


def _der_time(der: bytes, at: int) -> str:
    """Text of the UTCTime or GeneralizedTime at this place, `Z` included; empty if there is none."""
    length = {b"\x17\x0d": 13, b"\x18\x0f": 15}.get(der[at : at + 2], 0)
    text = der[at + 2 : at + 2 + length]
    return text.decode() if text[-1:] == b"Z" and text[:-1].isdigit() else ""


def _seconds(text: str) -> float:
    """Seconds since 1970 of a certificate's time, its year of two digits (1950 to 2049) or four."""
    if len(text) == 12:
        text = ("19" if text >= "50" else "20") + text
    date = f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:12]}:{text[12:]}Z"
    return float(parse_iso(date) or 0)


def check_flags(token: Token) -> None:
    """Raise `pin_locked` or `pin_refused` if the token says so itself; no login.

    Not every token does: a TPM counts the wrong PINs of all its keys and shows nothing here.
    """
    from pkcs11 import TokenFlag

    flags = token.flags
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise RotatorError("pin_locked", "the token says: PIN locked")
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise RotatorError("pin_locked", "the token says: one try left")
    if flags & TokenFlag.USER_PIN_COUNT_LOW:
        raise RotatorError("pin_refused", "the token says: wrong PIN since the last login")


def check_private_key(session: Session, token: Token, label: str, has_pin: bool) -> None:
    """Raise `key_missing` if this session does not see the key, or `pin_unreadable` if it lacks a PIN."""
    from pkcs11 import TokenFlag

    if find_private_key(session, label) is not None:
        return
    if not has_pin and token.flags & TokenFlag.LOGIN_REQUIRED:
        detail = f"token {token.label} shows the key to nobody without a PIN, and token.pin_file is not set"
        raise RotatorError("pin_unreadable", detail)
    raise RotatorError("key_missing", f"no private key {label}")


def check_certificate(public_key: PublicKey, certificate_file: str) -> None:
    """Raise `key_mismatch` unless the certificate was issued for this key."""
    if public_key_info(public_key) != certificate_key_info(certificate_file):
        raise RotatorError("key_mismatch", f"{certificate_file} against key {public_key.label}")


def examine(config: Config) -> None:
    """Look for the reason of a failure, without a login. Raises it; returns if there is none."""
    place = TokenPlace(config.module, config.label, config.key_label)
    token = find_token(place)
    if config.pin_file:
        check_flags(token)
    with open_session(token, None) as session:
        check_certificate(find_public_key(session, place.key_label), config.certificate_file)
        if not config.pin_file:
            check_private_key(session, token, place.key_label, False)


def diagnose(config: Config, error: RotatorError) -> RotatorError:
    """Find the class that `error` (libcurl's one code for everything) really is.

    In a process of its own: this one has the module loaded already, and a module that crashes must
    not take us along.
    """
    code = "import sys; sys.path[:0] = sys.argv[2:]; from edge_rotator.token import main; main()"
    command = [sys.executable, "-IS", "-c", code, config.path, *sys.path]
    reader, writer = os.pipe()
    actions = [
        (os.POSIX_SPAWN_DUP2, writer, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_CLOSE, reader),
    ]
    try:
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    finally:
        os.close(writer)
    text = b""
    try:
        # One line, written at once; a child that says nothing in time is killed.
        if select.select([reader], [], [], _DIAGNOSIS_TIMEOUT)[0]:
            text = os.read(reader, 4096)
        else:
            os.kill(pid, 9)
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    name, _, detail = text.decode(errors="replace").partition("\t")
    return RotatorError(name, detail) if name in KINDS else error


def main() -> None:
    """Run as the child of `diagnose`: print `class TAB detail` of what is wrong, if anything is."""
    from edge_rotator import config as configuration

    try:
        config = configuration.load(sys.argv[1])
        backend.prepare_environment(config)
        examine(config)
    except RotatorError as error:
        os.write(1, f"{error.kind.name}\t{error.detail}".encode())


def create_key(session: Session, label: str) -> None:
    """Make an EC P-256 key pair in the token; the private half can never be read out.

    Raises `token_failed`.
    """
    import pkcs11
    from pkcs11 import Attribute, KeyType, MechanismFlag
    from pkcs11.util.ec import encode_named_curve_parameters

    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVE)}, local=True
    )
    sign = MechanismFlag.SIGN | MechanismFlag.VERIFY
    # A TPM's key signs and decrypts, or tpm2-pkcs11 does not make it.
    both = sign | MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    for capabilities in (sign, both):
        try:
            # What the module says about the first try would be taken for a failure.
            with backend.Captured():
                parameters.generate_keypair(
                    id=os.urandom(8),
                    label=label,
                    store=True,
                    capabilities=capabilities,
                    public_template={Attribute.PRIVATE: False},
                    private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
                )
        except pkcs11.PKCS11Error as exc:
            failed = exc
        else:
            return
    raise RotatorError("token_failed", f"no key can be made: {_detail(failed)}")


def signing_request(session: Session, label: str, common_name: str) -> bytes:
    """Make a PKCS#10 request (PEM) for the EC key with this label, signed by the token."""
    from asn1crypto import csr, keys, pem, x509
    from pkcs11 import Mechanism
    from pkcs11.util.ec import encode_ecdsa_signature

    private = find_private_key(session, label)
    if private is None:
        raise RotatorError("key_missing", f"no private key with the label {label}")
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.build({"common_name": common_name}),
            "subject_pk_info": keys.PublicKeyInfo.load(public_key_info(find_public_key(session, label))),
            "attributes": [],
        }
    )
    import hashlib

    digest = hashlib.sha256(info.dump()).digest()
    signature = encode_ecdsa_signature(private.sign(digest, mechanism=Mechanism.ECDSA))
    request = csr.CertificationRequest(
        {
            "certification_request_info": info,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": signature,
        }
    )
    return bytes(pem.armor("CERTIFICATE REQUEST", request.dump()))


def public_key_pem(session: Session, label: str) -> bytes:
    """Render the public key (PEM)."""
    from asn1crypto import pem

    return bytes(pem.armor("PUBLIC KEY", public_key_info(find_public_key(session, label))))
