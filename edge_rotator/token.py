"""The token: its PIN, what it holds, and why it was in the way; asked by python-pkcs11."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge_rotator import backend
from edge_rotator.errors import KINDS, RotatorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import pkcs11
    from pkcs11.types import PublicKey, Session, SignMixin, Token

    from edge_rotator.config import Config

_LONGEST_PIN = 256
_DIAGNOSIS_TIMEOUT = 30.0  # s
_PR_SET_DUMPABLE = 4


def _read_pin(pin_file: str) -> tuple[str, str]:
    """Path and content of systemd's credential `pin`, else of `pin_file`."""
    path = pin_file
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if directory and os.path.exists(f"{directory}/pin"):
        path = f"{directory}/pin"
    try:
        with open(path, "rb") as file:
            pin = file.read(_LONGEST_PIN + 1)
    except OSError as exc:
        raise RotatorError("pin_unreadable", f"{path}: {exc.strerror}") from None
    # The unit's credential is a copy of the file, a tab where there is none: the file is what to fix.
    if pin.endswith((b"\n", b"\r")):
        raise RotatorError("pin_unreadable", f"{pin_file} ends with a newline, which is not the PIN's")
    text = pin.decode("ascii", errors="replace")
    if not 1 <= len(pin) <= _LONGEST_PIN or not (text.isascii() and text.isprintable()):
        detail = f"{pin_file} must exist and hold 1 to {_LONGEST_PIN} printable ASCII characters"
        raise RotatorError("pin_unreadable", detail)
    return path, text


def pin_path(pin_file: str) -> str:
    """Path of the file that holds the PIN: systemd's credential `pin`, else `pin_file`.

    Empty for a token without PIN. Raises `pin_unreadable` unless it holds a PIN and nothing else.
    """
    return _read_pin(pin_file)[0] if pin_file else ""


def _lift_limits() -> None:
    """Lift the caller's limits: SoftHSM empties its store before it writes, and must not be stopped there."""
    for name in ("RLIMIT_FSIZE", "RLIMIT_CPU"):
        limit = getattr(resource, name)
        try:
            resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            detail = f"{name} is {resource.getrlimit(limit)[0]}: a login needs it without limit (ulimit)"
            raise RotatorError("token_failed", detail) from None


def read_pin(pin_file: str) -> str | None:
    """Read the PIN itself from the same place, for a login; None for a token without one."""
    _lift_limits()
    # A module that crashes must not put the PIN into a core dump.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _read_pin(pin_file)[1] if pin_file else None


def pin_in_memory(pin: str) -> str:
    """Put the PIN into a file that is nowhere but in this process; return its path."""
    # Having changed its user, the process may not look into its own /proc unless it says so.
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)
    handle = os.memfd_create("pin")
    os.write(handle, pin.encode("ascii"))
    return f"/proc/self/fd/{handle}"


@contextmanager
def unstoppable() -> Iterator[None]:
    """Around a login: who asks us to end has to wait for it, and is obeyed afterwards.

    SoftHSM empties a token's file and then writes it again. SIGKILL or a power cut just there still
    loses the token: that is SoftHSM's to mend.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _detail(exc: Exception) -> str:
    """Name a PKCS#11 error; its class tells more than its text."""
    return f"{type(exc).__name__} {exc}".strip()


def _is_module(path: str) -> bool:
    """Tell whether a file can be loaded, and is a PKCS#11 module."""
    try:
        import ctypes

        return hasattr(ctypes.CDLL(path), "C_GetFunctionList")
    except OSError:
        return False


def _tokens(module: str, label: str | None) -> list[Token]:
    if not os.path.exists(module):
        raise RotatorError("module_missing", f"no file {module}")
    try:
        import pkcs11
        import pkcs11._pkcs11  # the compiled part, which pkcs11 itself imports later
    except ImportError as exc:
        raise backend.not_importable("python-pkcs11", exc) from None

    try:
        return list(pkcs11.lib(module).get_tokens(token_label=label))
    except (pkcs11.PKCS11Error, RuntimeError) as exc:
        # A plain class may mean that it cannot be loaded. Else it was, and what it drives (a bus, a
        # TPM, a store) does not answer.
        if type(exc) in (pkcs11.PKCS11Error, RuntimeError) and not _is_module(module):
            raise RotatorError("module_missing", f"{module}: {exc}") from None
        raise RotatorError("token_absent", f"{module} does not start: {_detail(exc)}") from None


def labels(module: str) -> list[str]:
    """List the labels of the tokens that a module knows. Raises `module_missing`, `token_absent`."""
    return [found.label for found in _tokens(module, None)]


def find_token(module: str, label: str) -> Token:
    """Load the module and find the token. Raises `module_missing` or `token_absent`."""
    tokens = _tokens(module, label)
    if len(tokens) != 1:
        raise RotatorError("token_absent", f"{len(tokens)} tokens with the label {label}")
    return tokens[0]


def open_session(token: Token, pin: str | None, rw: bool = False) -> Session:
    """Open a session, with a login if `pin` is given. Raises pin_refused, pin_locked, token_failed.

    A login with a wrong PIN uses one of the token's tries.
    """
    import pkcs11

    try:
        with unstoppable():
            return token.open(rw=rw, user_pin=pin)
    except (pkcs11.exceptions.PinIncorrect, pkcs11.exceptions.PinLenRange) as exc:
        raise RotatorError("pin_refused", _detail(exc)) from None
    except pkcs11.exceptions.PinLocked as exc:
        raise RotatorError("pin_locked", _detail(exc)) from None
    except pkcs11.PKCS11Error as exc:
        raise RotatorError("token_failed", _detail(exc)) from None


def _objects(session: Session, object_class: pkcs11.ObjectClass, label: str) -> list[Any]:
    from pkcs11 import Attribute

    return list(session.get_objects({Attribute.CLASS: object_class, Attribute.LABEL: label}))


def find_public_key(session: Session, label: str) -> PublicKey:
    """Find the public key; visible without a login unless it was made private."""
    from pkcs11 import ObjectClass

    found: list[PublicKey] = _objects(session, ObjectClass.PUBLIC_KEY, label)
    if len(found) != 1:
        raise RotatorError("key_missing", f"{len(found)} public keys with the label {label}")
    return found[0]


def find_private_key(session: Session, label: str) -> SignMixin | None:
    """Find the private key; needs a login. Raises `key_missing` if the label is not unique."""
    from pkcs11 import ObjectClass

    found = _objects(session, ObjectClass.PRIVATE_KEY, label)
    if len(found) > 1:
        raise RotatorError("key_missing", f"{len(found)} private keys with the label {label}")
    return found[0] if found else None


def public_key_info(key: PublicKey) -> bytes:
    """Render the SubjectPublicKeyInfo (DER) of an EC or RSA key."""
    from asn1crypto.keys import PublicKeyInfo, RSAPublicKey
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


def certificate_validity(path: str) -> tuple[float, float]:
    """From when to when a PEM certificate is valid (s since 1970). Raises `file_unreadable`."""
    certificate = _certificate(path)
    try:
        return certificate.not_valid_before.timestamp(), certificate.not_valid_after.timestamp()
    except (ValueError, TypeError):
        raise RotatorError("file_unreadable", f"{path} is no PEM certificate") from None


def check_certificate(public_key: PublicKey, certificate_file: str) -> None:
    """Raise `key_mismatch` unless the certificate was issued for this key."""
    if public_key_info(public_key) != _certificate(certificate_file).public_key.dump():
        raise RotatorError("key_mismatch", f"{certificate_file} against key {public_key.label}")


def check_flags(token: Token) -> None:
    """Raise `pin_locked` or `pin_refused` if the token says so itself; no login.

    Not every token does: a TPM counts the wrong PINs of all its keys and shows nothing here.
    """
    from pkcs11 import TokenFlag

    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise RotatorError("pin_locked", "the token says: PIN locked")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise RotatorError("pin_refused", "the token says: one try left")
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW:
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


def examine(config: Config) -> None:
    """Look for the reason of a failure, without a login. Raises it; returns if there is none."""
    token = find_token(config.module, config.label)
    if config.pin_file:
        check_flags(token)
    with open_session(token, None) as session:
        check_certificate(find_public_key(session, config.key_label), config.certificate_file)
        if not config.pin_file:
            check_private_key(session, token, config.key_label, False)


def diagnose(config: Config, error: RotatorError) -> RotatorError:
    """Find the class that `error` (libcurl's one code for everything) really is.

    In a process of its own: this one has the module loaded already, and a module that crashes must
    not take us along.
    """
    code = "import sys; sys.path[:0] = sys.argv[2:]; from edge_rotator.token import main; main()"
    command = [sys.executable, "-IS", "-c", code, config.path, *sys.path]
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603 (ourselves)
            command, capture_output=True, text=True, errors="replace", timeout=_DIAGNOSIS_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return error
    name, _, detail = done.stdout.partition("\t")
    return RotatorError(name, detail) if name in KINDS else error


def main() -> None:
    """Run as the child of `diagnose`: print `class TAB detail` of what is wrong, if anything is."""
    from edge_rotator import config as configuration

    try:
        config = configuration.load(sys.argv[1])
        backend.prepare_environment(config)
        examine(config)
    except RotatorError as error:
        print(error.kind.name, error.detail, sep="\t", end="")
