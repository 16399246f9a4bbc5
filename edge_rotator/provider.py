"""One mutual-TLS request to the credential provider, and what each failure of it means."""

from __future__ import annotations

import json
import os
import sys
from email.utils import parsedate_to_datetime

from edge_rotator import backend, clock
from edge_rotator.errors import RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pycurl

    from edge_rotator.config import Config

MAX_BODY = 65536
_MAX_MESSAGE = 200
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Answer:
    """What came back. `skew` is the server's clock minus ours (s), None without a Date header."""

    __slots__ = ("body", "date", "message", "retry_after", "skew", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes, now: float) -> None:
        self.status = status
        self.body = body
        date = _date(headers.get("date", ""))
        self.date = date
        self.skew = None if date is None else date - now
        self.retry_after = _retry_after(headers.get("retry-after", ""), now + (self.skew or 0.0))
        self.message = _message(body) if status != 200 else ""


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _retry_after(text: str, now: float) -> float | None:
    """Seconds asked for by a Retry-After header, either of its two forms."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    date = _date(text)
    return None if date is None else max(0.0, date - now)


def _message(body: bytes) -> str:
    """Return the provider's message, fit to be logged."""
    try:
        text = json.loads(body)["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return "".join(c for c in str(text) if c.isprintable())[:_MAX_MESSAGE]


def _percent(text: str, safe: str = "") -> str:
    """Percent-encode for a pkcs11: URI."""
    return "".join(chr(b) if chr(b) in _UNRESERVED or chr(b) in safe else f"%{b:02X}" for b in text.encode())


def key_uri(config: Config, pin_path: str) -> str:
    """Name the key in the token; the PIN only ever by the file that holds it."""
    uri = f"pkcs11:token={_percent(config.label)};object={_percent(config.key_label)};type=private"
    return f"{uri}?pin-source={_percent(pin_path, safe='/')}" if pin_path else uri


def _check_files(config: Config) -> None:
    """Say which file is missing; libcurl's own message would not."""
    for path in (
        config.certificate_file,
        config.ca_file,
        config.key_file if config.backend == "file" else config.ca_file,
    ):
        try:
            with open(path, "rb") as file:
                empty = not file.read(1)
        except OSError as exc:
            raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
        if empty:
            raise RotatorError("file_unreadable", f"{path} is empty")
    if config.backend != "file" and not os.path.exists(config.module):
        raise RotatorError("module_missing", f"no file {config.module}")


def _set_key(curl: pycurl.Curl, config: Config, pin: str) -> None:
    """Set the options in which the backends differ."""
    import pycurl

    if config.backend == "file":
        curl.setopt(pycurl.SSLKEY, config.key_file)
        return
    if config.backend == "engine":
        backend.select_engine(curl)
        curl.setopt(pycurl.SSLKEYTYPE, "ENG")
    elif config.backend == "pkcs11-provider":
        curl.setopt(pycurl.SSLKEYTYPE, "PROV")
    curl.setopt(pycurl.SSLKEY, key_uri(config, pin))


def _load_pycurl() -> None:
    """Load pycurl without `collections`, a tenth of what a whole request costs.

    It makes named tuples for two callbacks that we never set. Should it ever want more than that,
    the next import, which is the one that counts, finds the real module.
    """
    if "collections" not in sys.modules:
        stand_in = type(sys)("collections")
        stand_in.namedtuple = lambda *_: tuple  # type: ignore[attr-defined]
        sys.modules["collections"] = stand_in
        try:
            import pycurl  # noqa: F401
        except Exception:
            sys.modules.pop("pycurl", None)
        finally:
            del sys.modules["collections"]


def fetch(config: Config, pin: str) -> Answer:
    """Ask once. `pin` is the path of the PIN file or empty. Raises RotatorError, never retries."""
    backend.prepare_environment(config)
    _check_files(config)
    captured = backend.Captured()
    try:
        with captured:
            _load_pycurl()
            backend.load(config)
            return _transfer(config, pin)
    except RotatorError as error:
        reason = None
        if config.backend != "file" and error.kind.name in _PERHAPS_TOKEN:
            reason = backend.token_error(config, captured.log)
        elif error.kind.name == "tls_server_untrusted" and _clock_behind(config):
            reason = RotatorError("clock_wrong", f"before our own certificate's time: {error.detail}")
        raise reason or error from None


def _clock_behind(config: Config) -> bool:
    """Whether our clock is provably wrong; GnuTLS does not tell a future certificate from a false one."""
    from edge_rotator import token

    try:
        return clock.read_clock().wall < token.certificate_validity(config.certificate_file)[0]
    except RotatorError:
        return False


def _transfer(config: Config, pin: str) -> Answer:
    import pycurl

    body = bytearray()
    headers: dict[str, str] = {}
    size = [0]

    def on_body(data: bytes) -> int | None:
        if len(body) + len(data) > MAX_BODY:
            size[0] = MAX_BODY + 1
            return 0  # makes libcurl give up
        body.extend(data)
        return None

    def on_header(line: bytes) -> int | None:
        size[0] += len(line)
        if size[0] > MAX_BODY:
            return 0
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
        return None

    curl = pycurl.Curl()
    try:
        _set_key(curl, config, pin)
        _set_request(curl, config)
        curl.setopt(pycurl.HEADERFUNCTION, on_header)
        curl.setopt(pycurl.WRITEFUNCTION, on_body)
        try:
            curl.perform()
        except pycurl.error as exc:
            if size[0] > MAX_BODY:
                detail = f"more than {MAX_BODY} bytes"
                raise RotatorError("answer_oversized", detail) from None
            raise transport_error(int(exc.args[0]), curl.errstr()) from None
        status = curl.getinfo(pycurl.RESPONSE_CODE)
    finally:
        curl.close()
    return Answer(status, headers, bytes(body), clock.read_clock().wall)


def _set_request(curl: pycurl.Curl, config: Config) -> None:
    """Set what is the same for every backend."""
    import pycurl

    curl.setopt(pycurl.URL, f"https://{config.endpoint}/role-aliases/{config.role_alias}/credentials")
    curl.setopt(pycurl.HTTPHEADER, [f"x-amzn-iot-thingname: {config.thing_name}"])
    curl.setopt(pycurl.USERAGENT, "edge-rotator")
    curl.setopt(pycurl.SSLCERT, config.certificate_file)
    # Only the named CAs: libcurl's built-in directory would add every public one.
    curl.setopt(pycurl.CAINFO, config.ca_file)
    curl.unsetopt(pycurl.CAPATH)
    curl.setopt(pycurl.SSL_VERIFYPEER, 1)
    curl.setopt(pycurl.SSL_VERIFYHOST, 2)
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(config.connect_timeout * 1000))
    curl.setopt(pycurl.TIMEOUT_MS, int(config.timeout * 1000))


# Classes that may be the token's doing.
_PERHAPS_TOKEN = ("token_failed", "tls_failed", "tls_client_refused", "connection_lost")
# libcurl's code -> class, where the code alone tells.
_CODES = {
    2: "internal_error",
    4: "backend_unusable",
    6: "dns",
    7: "connect",
    18: "answer_truncated",
    27: "internal_error",
    28: "timeout",
    52: "connection_lost",
    53: "backend_unusable",
    54: "backend_unusable",
    58: "token_failed",
    77: "file_unreadable",
}
# Alerts that are not about our certificate.
_SERVERS_FAULT = (
    "alert internal error",
    "alert protocol version",
    "alert insufficient",
    "alert unrecognized name",
)
# libcurl's code -> (words in its message, class), the first that fits; else the class at the end.
_WORDS: dict[int, tuple[tuple[tuple[str, ...], str], ...]] = {
    35: (
        (_SERVERS_FAULT, "tls_failed"),
        (("alert", "client certificate"), "tls_client_refused"),
        (("private key", "x.509 key", "pkcs #11", "pkcs11"), "token_failed"),
        (("reset", "syscall", "unexpected eof"), "connection_lost"),
        (("",), "tls_failed"),
    ),
    55: ((_SERVERS_FAULT, "tls_failed"), (("alert",), "tls_client_refused"), (("",), "connection_lost")),
    56: ((_SERVERS_FAULT, "tls_failed"), (("alert",), "tls_client_refused"), (("",), "connection_lost")),
    60: (
        (("no alternative", "does not match", "subject name", "mismatch"), "tls_host_mismatch"),
        (("not yet valid", "has expired", "expired", "not activated"), "clock_wrong"),
        (("",), "tls_server_untrusted"),
    ),
}
_WORDS[51] = _WORDS[60]


def transport_error(code: int, message: str) -> RotatorError:
    """Class of a transfer that libcurl ended with `code`."""
    text = message.lower()
    detail = f"{message[:_MAX_MESSAGE]} (libcurl {code})"
    for words, name in _WORDS.get(code, ()):
        if any(word in text for word in words):
            return RotatorError(name, detail)
    return RotatorError(_CODES.get(code, "connection_lost"), detail)


# status, words in the message -> class; as published from the real service.
_REFUSALS = (
    (403, "invalid thing name", "thing_not_attached"),
    (403, "access denied", "policy_denied"),
    (403, "certificate is invalid", "certificate_inactive"),
    (404, "role alias does not exist", "role_alias_missing"),
    (400, "unable to assume the role", "role_not_assumable"),
    (400, "exceeds the maxsessionduration", "duration_exceeds_role"),
)


def http_error(answer: Answer) -> RotatorError | None:
    """Class of an answer that is not 200; None for 200."""
    if answer.status == 200:
        return None
    detail = f"HTTP {answer.status}" + (f": {answer.message}" if answer.message else "")
    name = "provider_refused"
    if answer.status == 408:
        name = "timeout"
    elif answer.status == 429:
        name = "throttled"
    elif answer.status >= 500:
        name = "server_error"
    else:
        for status, words, refusal in _REFUSALS:
            if status == answer.status and words in answer.message.lower():
                name = refusal
    return RotatorError(name, detail, answer.retry_after)
