"""One mutual-TLS request to the credential provider, and what each failure of it means."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge_rotator import backend, clock, token
from edge_rotator.errors import RotatorError

if TYPE_CHECKING:
    import pycurl

    from edge_rotator.config import Config

MAX_BODY = 65536
_MAX_MESSAGE = 200
_MAX_LOGIN = 1024
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Answer:
    """What came back. `date` is the server's clock (s since 1970), None without a Date header."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, now: float) -> None:
        self.status = status
        self.body = body
        self.date = _http_date(headers.get("date", ""))
        self.retry_after = _retry_after(
            headers.get("retry-after", ""), now if self.date is None else self.date
        )
        self.message = _message(body) if status != 200 else ""


def _http_date(text: str) -> float | None:
    """Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`; None if it is no date."""
    try:
        _, day, month, year, time, zone = text.split(" ")
        moment = datetime.fromisoformat(f"{year}-{_MONTHS.index(month) + 1:02}-{day}T{time}")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC).timestamp() if zone == "GMT" and not moment.tzinfo else None


def _retry_after(text: str, now: float) -> float | None:
    """Seconds asked for by a Retry-After header, either of its two forms."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    date = _http_date(text)
    return None if date is None else max(0.0, date - now)


def _message(body: bytes) -> str:
    """Return the provider's message, fit to be logged."""
    try:
        text = json.loads(body)["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return "".join(c for c in str(text) if c.isprintable())[:_MAX_MESSAGE]


def ask(config: Config) -> Answer:
    """Ask once; return an answer of status 200. Raises RotatorError, never retries.

    If the token was in the way, the error says why; finding that out costs no other login.
    """
    try:
        pin_path = token.pin_path(config.pin_file) if config.backend != "file" else ""
        # libcurl's own limits bound it; the unit's TimeoutStopSec is longer.
        with token.unstoppable():
            answer = fetch(config, pin_path)
    except RotatorError as error:
        if error.kind.name == "token_failed" and config.backend != "file":
            raise token.diagnose(config, error) from None
        raise
    refusal = http_error(answer)
    if refusal:
        raise refusal
    return answer


def fetch(config: Config, pin_path: str) -> Answer:
    """Ask once. `pin_path` is the file that holds the PIN, or empty. Raises RotatorError."""
    backend.prepare_environment(config)
    _check_files(config)
    captured = backend.Captured()
    try:
        with captured:
            backend.load(config)
            return _transfer(config, pin_path)
    except RotatorError as error:
        reason = None
        if config.backend != "file" and error.kind.name in _PERHAPS_TOKEN:
            reason = backend.token_error(config, captured.log)
        elif error.kind.name == "tls_server_untrusted" and _clock_behind(config):
            reason = RotatorError("clock_wrong", f"before our own certificate's time: {error.detail}")
        raise reason or error from None


def _check_files(config: Config) -> None:
    """Say which file is missing; libcurl's own message would not."""
    paths = [config.certificate_file, config.ca_file]
    if config.backend == "file":
        paths.append(config.key_file)
    for path in paths:
        try:
            with open(path, "rb") as file:
                empty = not file.read(1)
        except OSError as exc:
            raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
        if empty:
            raise RotatorError("file_unreadable", f"{path} is empty")
    if config.backend != "file" and not os.path.exists(config.module):
        raise RotatorError("module_missing", f"no file {config.module}")


def _clock_behind(config: Config) -> bool:
    """Whether our clock is provably wrong; GnuTLS does not tell a future certificate from a false one."""
    try:
        return clock.read_clock().wall < token.certificate_validity(config.certificate_file)[0]
    except RotatorError:
        return False


def _transfer(config: Config, pin_path: str) -> Answer:
    import pycurl

    curl = pycurl.Curl()
    backend.set_key(curl, config, pin_path)
    curl.setopt(pycurl.URL, f"https://{config.endpoint}/role-aliases/{config.role_alias}/credentials")
    curl.setopt(pycurl.HTTPHEADER, [f"x-amzn-iot-thingname: {config.thing_name}"])
    curl.setopt(pycurl.SSLCERT, config.certificate_file)
    status, headers, body = perform(curl, config, config.ca_file)
    return Answer(status, headers, body, clock.read_clock().wall)


def proxy_login(config: Config) -> str:
    """USER:PASSWORD for the proxy, from systemd's credential `proxy`, else from the file that root reads.

    Empty for a proxy without. Raises `file_unreadable`.
    """
    path = config.proxy_credentials_file
    if not path:
        return ""
    if (directory := os.environ.get("CREDENTIALS_DIRECTORY", "")) and os.path.exists(f"{directory}/proxy"):
        path = f"{directory}/proxy"
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            login = file.read(_MAX_LOGIN + 1)
    except OSError as exc:
        raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
    if ":" not in login or len(login) > _MAX_LOGIN or not (login.isascii() and login.isprintable()):
        # The unit's credential is a copy, a tab where there is none.
        wanted = "USER:PASSWORD and nothing else"
        raise RotatorError("file_unreadable", f"{config.proxy_credentials_file} must exist and hold {wanted}")
    return login


def _use_proxy(curl: pycurl.Curl, config: Config) -> None:
    """Have libcurl ask the proxy for a tunnel (CONNECT); TLS stays between us and the server."""
    import pycurl

    # Set in any case, empty for none: what the environment says is not asked for.
    curl.setopt(pycurl.PROXY, config.proxy)
    curl.setopt(pycurl.NOPROXY, "")
    login = proxy_login(config) if config.proxy_login is None else config.proxy_login
    if config.proxy and login:
        from urllib.parse import quote

        # libcurl decodes it.
        curl.setopt(pycurl.PROXYUSERPWD, ":".join(quote(part, safe="") for part in login.split(":", 1)))


def perform(curl: pycurl.Curl, config: Config, ca_file: str) -> tuple[int, dict[str, str], bytes]:
    """Do one request; return its status, headers and body. `ca_file` empty: the system's CAs.

    Whatever it is, the server proves itself, nothing is followed, all is bounded. Raises RotatorError.
    """
    import pycurl

    head, body = bytearray(), bytearray()

    def keep(data: bytes, kept: bytearray) -> int | None:
        if kept is head and data.startswith(b"HTTP/"):
            head.clear()  # what came before was the proxy's
        kept.extend(data)
        return 0 if len(head) + len(body) > MAX_BODY else None  # 0 makes libcurl give up

    if ca_file:
        # Only the named CAs: libcurl's built-in directory would add every public one.
        curl.setopt(pycurl.CAINFO, ca_file)
        curl.unsetopt(pycurl.CAPATH)
    for option, value in (
        (pycurl.USERAGENT, "edge-rotator"),
        (pycurl.SSL_VERIFYPEER, 1),
        (pycurl.SSL_VERIFYHOST, 2),
        (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTPS),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.NOSIGNAL, 1),
        (pycurl.CONNECTTIMEOUT_MS, int(config.connect_timeout * 1000)),
        (pycurl.TIMEOUT_MS, int(config.timeout * 1000)),
        (pycurl.HEADERFUNCTION, lambda data: keep(data, head)),
        (pycurl.WRITEFUNCTION, lambda data: keep(data, body)),
    ):
        curl.setopt(option, value)
    _use_proxy(curl, config)
    try:
        curl.perform()
        status = curl.getinfo(pycurl.RESPONSE_CODE)
    except pycurl.error as exc:
        if len(head) + len(body) > MAX_BODY:
            raise RotatorError("answer_oversized", f"more than {MAX_BODY} bytes") from None
        incomplete = curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD) > len(body)
        error = proxy_error(config.proxy, curl.getinfo(pycurl.HTTP_CONNECTCODE))
        error = error or transport_error(int(exc.args[0]), curl.errstr(), incomplete)
        if config.proxy:
            error = RotatorError(error.kind.name, f"{error.detail}, by way of {config.proxy}")
        raise error from None
    finally:
        curl.close()
    lines = [line.partition(":") for line in head.decode("latin-1").split("\n")]
    return status, {name.strip().lower(): value.strip() for name, _, value in lines}, bytes(body)


# Classes that may be the token's doing.
_PERHAPS_TOKEN = ("token_failed", "tls_failed", "tls_client_refused", "connection_lost")
# libcurl's code -> class, where the code alone tells.
_CODES = {
    2: "internal_error",
    4: "backend_unusable",
    5: "dns",
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
# How OpenSSL and GnuTLS call a connection that was closed without a word.
_CLOSED = ("unexpected eof", "non-properly terminated")
# Alerts that are not about our certificate.
_SERVERS_FAULT = (
    "alert internal error",
    "alert protocol version",
    "alert insufficient",
    "alert unrecognized name",
)
# libcurl's code -> (words in its message, class), the first that fits; else the class at the end.
_HANDSHAKE = (
    (_SERVERS_FAULT, "tls_failed"),
    (("alert", "client certificate"), "tls_client_refused"),
    (("private key", "x.509 key", "pkcs #11", "pkcs11"), "token_failed"),
    (("reset", "syscall", "unexpected eof"), "connection_lost"),
    (("",), "tls_failed"),
)
_SEND_OR_RECEIVE = (
    (_SERVERS_FAULT, "tls_failed"),
    (("alert",), "tls_client_refused"),
    (("",), "connection_lost"),
)
_SERVER_CERTIFICATE = (
    (("no alternative", "does not match", "subject name", "mismatch"), "tls_host_mismatch"),
    (("not yet valid", "has expired", "expired", "not activated"), "clock_wrong"),
    (("",), "tls_server_untrusted"),
)
_WORDS: dict[int, tuple[tuple[tuple[str, ...], str], ...]] = {
    35: _HANDSHAKE,
    51: _SERVER_CERTIFICATE,
    55: _SEND_OR_RECEIVE,
    56: _SEND_OR_RECEIVE,
    60: _SERVER_CERTIFICATE,
}


def proxy_error(proxy: str, status: int) -> RotatorError | None:
    """Class of a proxy's answer to CONNECT, if it gave one that is no success."""
    if not proxy or status < 300:
        return None
    # 5xx: it let us ask, and did not reach the server itself.
    name = "connect" if status >= 500 else "proxy_refused"
    return RotatorError(name, f"the proxy answers {status} to CONNECT")


def transport_error(code: int, message: str, incomplete: bool = False) -> RotatorError:
    """Class of a transfer that libcurl ended with `code`; `incomplete`: within the answer's body."""
    text = message.lower()
    detail = f"{message[:_MAX_MESSAGE]} (libcurl {code})"
    # Where libcurl 7.88 says 18, 8.14 gives what the TLS library said.
    if incomplete and any(words in text for words in _CLOSED):
        return RotatorError("answer_truncated", detail)
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
    # Not published for this service; in these words AWS limits requests elsewhere.
    (400, "rate exceeded", "throttled"),
    (400, "throttl", "throttled"),
    (408, "", "timeout"),
    (429, "", "throttled"),
)


def http_error(answer: Answer) -> RotatorError | None:
    """Class of an answer that is not 200; None for 200."""
    if answer.status == 200:
        return None
    name = "server_error" if answer.status >= 500 else "provider_refused"
    for status, words, refusal in _REFUSALS:
        if status == answer.status and words in answer.message.lower():
            name = refusal
    detail = f"HTTP {answer.status}" + (f": {answer.message}" if answer.message else "")
    return RotatorError(name, detail, answer.retry_after)
