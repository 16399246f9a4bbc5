"""What both endpoints share: threaded HTTPS with keep-alive, and a request log."""

import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def timestamp(at: float) -> str:
    """Format a time as ISO 8601 in UTC with milliseconds."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{seconds}.{int(at * 1000) % 1000:03d}Z"


class RequestLog:
    """JSON lines, one per request, `time` and `at_ms` first; secrets never come here."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def write(self, at: float, **fields: Any) -> None:
        """Write what happened to a request that arrived at `at` (seconds since 1970)."""
        record = {
            "time": timestamp(at),
            "at_ms": int(at * 1000),
            **fields,
            "duration_ms": round((time.time() - at) * 1000, 1),
        }
        with self._lock:
            self._file.write(json.dumps(record) + "\n")


class TlsServer(ThreadingHTTPServer):
    """An HTTPS server; each connection shakes hands in its own thread, so none holds up others."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        handler: type[BaseHTTPRequestHandler],
        context: ssl.SSLContext,
        log: RequestLog,
    ) -> None:
        super().__init__(("", port), handler)
        self._context = context
        self.log = log

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands and serve a connection; a failed handshake is one line in the log."""
        at = time.time()
        request.settimeout(20)
        tls = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        try:
            tls.do_handshake()
        except OSError as error:
            reason = getattr(error, "reason", None) or str(error)
            self.log.write(at, peer=client_address[0], status=None, error="Tls", detail=reason)
            _close_gently(tls)
            return
        try:
            super().finish_request(tls, client_address)
        except OSError as error:
            self.log.write(at, peer=client_address[0], status=None, error="Connection", detail=str(error))
        finally:
            tls.close()


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive, quiet on stderr."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 90

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the request log has it all."""

    def send_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send the status line and exactly these headers."""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def reset_connection(self) -> None:
        """End the connection as a crashed peer does, with RST instead of an answer."""
        linger_at_once = b"\1\0\0\0\0\0\0\0"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_at_once)
        self.close_connection = True


def _close_gently(connection: socket.socket) -> None:
    """Let the peer read the TLS alert: closing over unread data would reset the connection."""
    with suppress(OSError), connection:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(1)
        for _ in range(16):
            if not connection.recv(4096):
                return


def server_context(tls: Path, name: str) -> ssl.SSLContext:
    """Return a server's TLS settings (1.2 and later) for the certificate called `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls / f"{name}.crt", tls / f"{name}.key")
    return context
