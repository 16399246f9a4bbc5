"""The ways from libcurl to the key: make one usable, and see why a token refused.

libcurl has one code for everything a token can refuse. The libraries below it know more: OpenSSL's
error queue (engine) or what they write to stderr when asked to (GnuTLS, pkcs11-provider) holds the
PKCS#11 return value of the failed call, so that a wrong PIN is known without a second login.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from edge_rotator.errors import RotatorError

if TYPE_CHECKING:
    import pycurl

    from edge_rotator.config import Config

# What the TLS library of pycurl must be, by backend; a key file needs none in particular.
_LIBRARIES = {"engine": "OpenSSL", "pkcs11-provider": "OpenSSL", "gnutls": "GnuTLS"}
_PROVIDER_SINCE = (8, 12)  # libcurl
_CRYPTO = "libcrypto.so.3"
_GNUTLS = "libgnutls.so.30"
_OPENSSL_TOKEN_LIBRARY = b"PKCS#11 module"  # libp11's name in the error queue
_ERROR_QUEUE = 16  # OpenSSL's length of it

# PKCS#11 return values that mean the PIN: incorrect, invalid, wrong length, expired; locked.
_PIN_REFUSED = (0xA0, 0xA1, 0xA2, 0xA3)
_PIN_LOCKED = 0xA4
_LONGEST_LOG = 1048576


def prepare_environment(config: Config) -> None:
    """Tell the module and the libraries where things are. Before pycurl or the module loads."""
    # libcurl would write the session's secrets where this says.
    os.environ.pop("SSLKEYLOGFILE", None)
    os.environ.update(config.environment)
    if config.module:
        os.environ["PKCS11_MODULE_PATH"] = config.module
        os.environ["PKCS11_PROVIDER_MODULE"] = config.module
    # What these say goes to `Captured`.
    if config.backend == "gnutls":
        os.environ["GNUTLS_DEBUG_LEVEL"] = "3"
    elif config.backend == "pkcs11-provider":
        os.environ["PKCS11_PROVIDER_DEBUG"] = "file:/dev/stderr"


class Captured:
    """Keep what libraries write to stderr in memory; `log` is it, afterwards.

    Nothing can ask for a PIN on stdin meanwhile.
    """

    log = b""

    def __enter__(self) -> Captured:
        sys.stderr.flush()
        self._saved = {fd: os.dup(fd) for fd in (0, 2)}
        self._file = os.fdopen(os.memfd_create("stderr"), "w+b")
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        for fd, copy in self._saved.items():
            os.dup2(copy, fd)
            os.close(copy)
        with self._file:
            self._file.seek(0)
            self.log = self._file.read(_LONGEST_LOG)


def _unusable(detail: str) -> RotatorError:
    return RotatorError("backend_unusable", detail)


def not_importable(name: str, exc: ImportError) -> RotatorError:
    """Say that a package is not there for this Python, as after an upgrade of Debian."""
    place = os.path.dirname(os.path.dirname(__file__))
    version = ".".join(map(str, sys.version_info[:2]))
    return _unusable(f"no usable {name} for Python {version} in {place} ({exc})")


def describe() -> tuple[str, tuple[int, int], bool]:
    """TLS library of this pycurl, libcurl's version, and whether it brought its own library.

    Raises `backend_unusable` without a pycurl.
    """
    try:
        import pycurl
    except ImportError as exc:
        raise not_importable("pycurl", exc) from None
    # The stub's tuple is shorter than the real one.
    info = list(pycurl.version_info())
    number, library = int(str(info[2])), str(info[5] or "")
    bundled = os.path.isdir(os.path.dirname(pycurl.__file__) + "/pycurl.libs")
    return library, (number >> 16, number >> 8 & 0xFF), bundled


def check(config: Config) -> str:
    """Raise `backend_unusable` unless this pycurl can do it; return what it is made of."""
    library, version, bundled = describe()
    if bundled:
        raise _unusable(f"this pycurl is a wheel with its own TLS library ({library})")
    wanted = _LIBRARIES.get(config.backend, "")
    if not library.startswith(wanted):
        raise _unusable(f"backend {config.backend} needs {wanted}, pycurl has {library or 'none'}")
    if config.backend == "pkcs11-provider" and version < _PROVIDER_SINCE:
        raise _unusable(f"backend {config.backend} needs libcurl 8.12, here is {version[0]}.{version[1]}")
    return f"{config.backend} by libcurl {version[0]}.{version[1]} with {library}"


def load(config: Config) -> None:
    """Load pycurl and what the backend needs beside it. Raises `backend_unusable`, `token_failed`.

    Inside `Captured`: GnuTLS announces itself as it loads.
    """
    check(config)
    if not config.pin_file:
        _leave_terminal()
    if config.backend == "pkcs11-provider":
        import ctypes

        load_provider = ctypes.CDLL(_CRYPTO).OSSL_PROVIDER_load
        load_provider.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        load_provider.restype = ctypes.c_void_p
        # Loading one by hand drops the implicit default: name both.
        if not load_provider(None, b"default") or not load_provider(None, b"pkcs11"):
            raise _unusable("OpenSSL has no provider pkcs11: install pkcs11-provider")
    elif config.backend == "gnutls":
        import ctypes

        library = ctypes.CDLL(_GNUTLS)
        # Our module and no other: GnuTLS would load every one that p11-kit knows.
        code = library.gnutls_pkcs11_init(0, None)
        code = code or library.gnutls_pkcs11_add_provider(os.fsencode(config.module), None)
        if code:
            raise RotatorError("token_failed", f"GnuTLS cannot load {config.module} ({code})")


def _leave_terminal() -> None:
    """Give up the controlling terminal: OpenSSL would ask there for a PIN, and wait."""
    import fcntl
    import termios

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return
    fcntl.ioctl(terminal, termios.TIOCNOTTY)
    os.close(terminal)


def _quote(text: str, plain: str = "") -> str:
    """Percent-encode for a URI, but for letters, digits, `_.-~` and what is in `plain`."""
    others = f"[^A-Za-z0-9_.~{plain}-]".encode()
    return re.sub(others, lambda found: b"%%%02X" % found[0][0], text.encode()).decode()


def key_uri(config: Config, pin_path: str) -> str:
    """Name the key in the token; the PIN only ever by the file that holds it."""
    uri = f"pkcs11:token={_quote(config.label)};object={_quote(config.key_label)};type=private"
    return f"{uri}?pin-source={_quote(pin_path, '/')}" if pin_path else uri


def set_key(curl: pycurl.Curl, config: Config, pin_path: str) -> None:
    """Give libcurl the key, as its backend wants it named. Raises `backend_unusable`."""
    import pycurl

    if config.backend == "file":
        curl.setopt(pycurl.SSLKEY, config.key_file)
        return
    if config.backend == "engine":
        # Never as the default for everything (SSLENGINE_DEFAULT), which crashes with some modules.
        try:
            curl.setopt(pycurl.SSLENGINE, "pkcs11")
        except pycurl.error as exc:
            detail = f"no OpenSSL engine pkcs11 ({exc.args[0]}): install libengine-pkcs11-openssl"
            raise _unusable(detail) from None
        curl.setopt(pycurl.SSLKEYTYPE, "ENG")
    elif config.backend == "pkcs11-provider":
        curl.setopt(pycurl.SSLKEYTYPE, "PROV")
    curl.setopt(pycurl.SSLKEY, key_uri(config, pin_path))


def _queued() -> int | None:
    """PKCS#11 return value that libp11 left in OpenSSL's error queue; empties the queue."""
    import ctypes

    library = ctypes.CDLL(_CRYPTO)
    library.ERR_get_error.restype = ctypes.c_ulong
    name = library.ERR_lib_error_string
    name.argtypes, name.restype = [ctypes.c_ulong], ctypes.c_char_p
    codes = [library.ERR_get_error() for _ in range(_ERROR_QUEUE)]
    found = [code & 0x7FFFFF for code in codes if code and name(code) == _OPENSSL_TOKEN_LIBRARY]
    return found[0] if found else None


def _logged(log: bytes) -> int | None:
    """PKCS#11 return value of the failed login that GnuTLS or pkcs11-provider told of."""
    if b"p11: refusing more than a single attempt" in log:
        return _PIN_REFUSED[0]
    match = re.search(rb"p11: Login result = [^\n]*\((\d+)\)", log)
    match = match or re.search(rb"Error (\d+) returned by C_Login", log)
    return int(match[1]) or None if match else None


def token_error(config: Config, log: bytes) -> RotatorError | None:
    """Why the token refused, if the libraries tell; `log` is what they wrote."""
    code = _queued() if config.backend == "engine" else _logged(log)
    if code is None:
        return None
    detail = f"PKCS#11 error 0x{code:X} of {config.label}"
    if code in _PIN_REFUSED:
        return RotatorError("pin_refused", detail)
    return RotatorError("pin_locked" if code == _PIN_LOCKED else "token_failed", detail)
