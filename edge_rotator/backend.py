"""The ways from libcurl to the key: make one usable, and see why a token refused.

libcurl has one code for everything a token can refuse. The libraries below it know more: OpenSSL's
error queue (engine) or what they write to stderr when asked to (GnuTLS, pkcs11-provider) holds the
PKCS#11 return value of the failed call, so that a wrong PIN is known without a second login.
"""

from __future__ import annotations

import os
import sys

from edge_rotator.errors import RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pycurl

    from edge_rotator.config import Config

# What the TLS library of pycurl must be, by backend.
LIBRARIES = {"engine": "OpenSSL", "pkcs11-provider": "OpenSSL", "gnutls": "GnuTLS"}
_PROVIDER_SINCE = (8, 12)  # libcurl
_CRYPTO = "libcrypto.so.3"
_GNUTLS = "libgnutls.so.30"
_OPENSSL_TOKEN_LIBRARY = b"PKCS#11 module"  # libp11's name in the error queue

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
    # Both speak to the stderr that `Captured` holds; without these they keep the reason to
    # themselves.
    if config.backend == "gnutls":
        os.environ["GNUTLS_DEBUG_LEVEL"] = "3"
    elif config.backend == "pkcs11-provider":
        os.environ["PKCS11_PROVIDER_DEBUG"] = "file:/dev/stderr"


class Captured:
    """Keep what libraries write to stderr in memory; `log` is it, afterwards.

    Nothing can ask for a PIN on stdin meanwhile.
    """

    def __init__(self) -> None:
        self.log = b""

    def __enter__(self) -> Captured:
        sys.stderr.flush()
        self._memory = os.memfd_create("stderr", os.MFD_CLOEXEC)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._saved = [(fd, os.dup(fd)) for fd in (0, 2)]
        os.dup2(null, 0)
        os.dup2(self._memory, 2)
        os.close(null)
        return self

    def __exit__(self, *_: object) -> None:
        for fd, copy in self._saved:
            os.dup2(copy, fd)
            os.close(copy)
        self.log = os.pread(self._memory, _LONGEST_LOG, 0)
        os.close(self._memory)


def _unusable(detail: str) -> RotatorError:
    return RotatorError("backend_unusable", detail)


def describe() -> tuple[str, tuple[int, ...], bool]:
    """TLS library of this pycurl, libcurl's version, and whether it brought its own library.

    Raises `backend_unusable` without a pycurl.
    """
    try:
        import pycurl
    except ImportError as exc:
        raise _unusable(f"no pycurl: {exc}") from None
    # The stub's tuple is shorter than the real one.
    info = list(pycurl.version_info())
    number = int(str(info[2]))
    bundled = os.path.isdir(os.path.dirname(pycurl.__file__) + "/pycurl.libs")
    return str(info[5] or ""), (number >> 16, number >> 8 & 0xFF), bundled


def check(config: Config) -> str:
    """Raise `backend_unusable` unless this pycurl can do it; return what it is made of."""
    library, version, bundled = describe()
    if bundled:
        raise _unusable(f"this pycurl is a wheel with its own TLS library ({library})")
    wanted = LIBRARIES.get(config.backend)
    if wanted and not library.startswith(wanted):
        raise _unusable(f"backend {config.backend} needs {wanted}, pycurl has {library or 'none'}")
    if config.backend == "pkcs11-provider" and version < _PROVIDER_SINCE:
        raise _unusable(f"backend provider needs libcurl 8.12, here is {version[0]}.{version[1]}")
    return f"{config.backend} by libcurl {version[0]}.{version[1]} with {library}"


def _leave_terminal() -> None:
    """Give up the controlling terminal: OpenSSL would ask there for a PIN, and wait."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCNOTTY)
    os.close(terminal)


def select_engine(curl: pycurl.Curl) -> None:
    """Choose OpenSSL's engine for the key; never as the default for everything (SSLENGINE_DEFAULT).

    Raises `backend_unusable`.
    """
    import pycurl

    try:
        curl.setopt(pycurl.SSLENGINE, "pkcs11")
    except pycurl.error as exc:
        detail = f"no OpenSSL engine pkcs11 ({exc.args[0]}): install libengine-pkcs11-openssl"
        raise _unusable(detail) from None


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


def _queued() -> int | None:
    """PKCS#11 return value that libp11 left in OpenSSL's error queue; empties the queue."""
    import ctypes

    library = ctypes.CDLL(_CRYPTO)
    take = library.ERR_get_error
    take.restype = ctypes.c_ulong
    name = library.ERR_lib_error_string
    name.argtypes, name.restype = [ctypes.c_ulong], ctypes.c_char_p
    found = None
    for _ in range(16):  # the queue's length
        code = take()
        if found is None and code and name(code) == _OPENSSL_TOKEN_LIBRARY:
            found = code & 0x7FFFFF
    return found


def _logged(log: bytes) -> int | None:
    """PKCS#11 return value of the failed login that GnuTLS or pkcs11-provider told of."""
    if b"p11: refusing more than a single attempt" in log:
        return _PIN_REFUSED[0]
    import re

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
