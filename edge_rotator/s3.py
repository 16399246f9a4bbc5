"""S3, with the credentials at hand: whether it takes, gives and lists as Litestream needs it to; reports."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from edge_rotator import backend, delivery, files, provider, systemd
from edge_rotator import config as configuration
from edge_rotator.errors import RotatorError

if TYPE_CHECKING:
    from edge_rotator.config import Config
    from edge_rotator.delivery import Credentials

_BODY = b"edge-rotator doctor was here\n"
_MAX_WORDS = 500  # AWS says whose policy it was at the end of a long sentence


def _words(body: bytes) -> str:
    """S3's own words in an error's XML, fit to be shown."""
    found = re.search(rb"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", body, re.DOTALL)
    text = b": ".join(part for part in found.groups() if part).decode("utf-8", "replace") if found else ""
    return "".join(c for c in text if c.isprintable())[:_MAX_WORDS]


class S3:
    """The server of one replica; `ca_file` empty: the system's CAs; without credentials nothing is signed."""

    def __init__(self, config: Config, ca_file: str, credentials: Credentials | None) -> None:
        self.config, self.ca_file, self.credentials = config, ca_file, credentials

    def request(self, method: str, url: str, query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of one request. Raises the classes of a transfer that failed."""
        import pycurl

        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, f"{url}?{query}" if query else url)
        if method == "PUT":
            curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.CUSTOMREQUEST, method)
        if self.credentials:
            digest = hashlib.sha256(body).hexdigest()
            headers = [
                f"x-amz-content-sha256: {digest}",
                f"x-amz-security-token: {self.credentials.session_token}",
                "Content-Type: application/octet-stream",
            ]
            curl.setopt(pycurl.AWS_SIGV4, f"aws:amz:{self.config.region}:s3")
            curl.setopt(pycurl.USERNAME, self.credentials.access_key_id)
            curl.setopt(pycurl.PASSWORD, self.credentials.secret_access_key)
            curl.setopt(pycurl.HTTPHEADER, headers)
        try:
            status, _, answer = provider.perform(curl, self.config, self.ca_file)
        except RotatorError as error:
            raise RotatorError(error.kind.name, f"{urlsplit(url).netloc}: {error.detail}") from None
        return status, answer

    def _do(self, method: str, url: str, query: str = "", body: bytes = b"") -> bytes:
        status, answer = self.request(method, url, query, body)
        if status != 200:
            why = _words(answer) or "without a reason"
            raise RotatorError("s3_refused", f"{method} {url}: HTTP {status}, {why}")
        return answer

    def prove(self, bucket: str, path: str, txid: int, patience: float) -> None:
        """Write, read and list below a replica's path; transaction `txid` is there within `patience` seconds.

        Raises `s3_refused` with S3's own words, `replication_stalled`, or a failed transfer's class.
        """
        probe = f"{bucket}/{quote(path)}/edge-rotator-doctor"
        self._do("PUT", probe, body=_BODY)
        if self._do("GET", probe) != _BODY:
            raise RotatorError("s3_refused", f"GET {probe}: not what was written there")
        # Where a device may not delete, this one small object stays.
        self.request("DELETE", probe)
        # Litestream's level 0 has a file for each of the newest transactions.
        prefix = f"{path}/0000/{txid:016x}" if txid else f"{path}/"
        query = f"list-type=2&max-keys=1&prefix={quote(prefix, safe='')}"
        end = time.monotonic() + patience
        while b"<Key>" not in self._do("GET", f"{bucket}/", query) and txid:
            if time.monotonic() > end:
                detail = f"{bucket}/{path}: transaction {txid} is not there after {patience:.0f} s"
                raise RotatorError("replication_stalled", detail)
            time.sleep(1)


def report(path: str, name: str, body: bytes) -> int:
    """Put a report below the thing's own prefix, in the bucket of its first replica; return 0.

    Raises `s3_refused` with S3's own words, `file_unreadable` without credentials, or a transfer's class.
    """
    config = configuration.load(path)
    files.become(config.user)
    backend.prepare_environment(config)
    import pycurl

    if not config.replicas:
        raise RotatorError("s3_refused", "no delivery.replicas, so no bucket is known")
    if not hasattr(pycurl, "AWS_SIGV4"):
        raise RotatorError("backend_unusable", "Debian 12's pycurl cannot sign requests to S3")
    server = S3(config, systemd.environment(config.service, "SSL_CERT_FILE"), delivery.read(config))
    bucket, _ = config.replicas[0]
    server._do("PUT", f"{bucket}/{quote(config.thing_name)}/{name}", body=body)
    return 0
