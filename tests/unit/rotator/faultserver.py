"""A credential provider with real mutual TLS, on loopback, that misbehaves on demand."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import select
import ssl
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

Respond = Callable[["Handler"], None]


def credentials_body(lifetime: float, now: float | None = None, **changes: Any) -> bytes:
    """A good answer's body; `changes` overrides fields, None leaves one out."""
    expires = datetime.datetime.fromtimestamp((now or time.time()) + lifetime, datetime.UTC)
    fields: dict[str, Any] = {
        "accessKeyId": f"ASIATEST{time.monotonic_ns()}",
        "secretAccessKey": f"canary-secret/{time.monotonic_ns()}",
        "sessionToken": "canary-token+" + "x" * 800 + "==",
        "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    fields.update(changes)
    return json.dumps({"credentials": {k: v for k, v in fields.items() if v is not None}}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `respond` says; records every request."""

    server: FaultServer
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        peer = self.connection.getpeercert()
        self.server.requests.append(
            {
                "path": self.path,
                "headers": dict(self.headers.items()),
                "subject": peer and dict(item[0] for item in peer["subject"]),
            }
        )
        self.close_connection = True
        self.server.respond(self)

    do_PUT = do_DELETE = do_GET  # noqa: N815 - the names are http.server's

    def reply(
        self,
        status: int,
        body: bytes,
        date: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send an answer whose Date is now, or `date`; 0 leaves Date out."""
        self.send_response_only(status)
        if date != 0:
            now = self.server.now() if date is None else date
            self.send_header("Date", formatdate(now, usegmt=True))
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class FaultServer(http.server.ThreadingHTTPServer):
    """One endpoint at https://localhost:PORT."""

    daemon_threads = True

    def __init__(self, certificate: Path, key: Path, client_ca: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.lifetime = 900.0
        self.now: Callable[[], float] = time.time
        self.respond: Respond = self.good
        self.present(certificate, key, client_ca)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def present(self, certificate: Path, key: Path, client_ca: Path) -> None:
        """Be that server, and accept only clients of that CA."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client_ca))
        self.context.load_cert_chain(certificate, key)
        self.context.verify_mode = ssl.CERT_REQUIRED

    @property
    def endpoint(self) -> str:
        return f"localhost:{self.server_address[1]}"

    def good(self, handler: Handler) -> None:
        handler.reply(200, credentials_body(self.lifetime, self.now()))

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(10)
        with self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as wrapped:
            try:
                wrapped.do_handshake()
                super().finish_request(wrapped, client_address)
            except ssl.SSLError:
                # Closing with something unread would be a reset, which can overtake our alert.
                while select.select([wrapped], [], [], 2)[0] and os.read(wrapped.fileno(), 4096):
                    pass
            except OSError:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)
