"""The S3 gate: checks each request as AWS would, then streams it to the S3 server behind.

Client connections are kept alive; the one to the server behind is made per request, over
loopback, so that a stale one can never fail a device's request.
"""

import hashlib
import http.client
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from edge_cloud import policy, settings, sigv4
from edge_cloud.ledger import Ledger
from edge_cloud.s3errors import S3Error
from edge_cloud.serving import Handler, RequestLog, TlsServer, server_context

_CHUNK = 64 * 1024
_MAX_BATCH = 1024 * 1024
_MAX_DRAIN = 64 * 1024 * 1024
_UPSTREAM_TIMEOUT_S = 60

# Headers that concern one connection, or that only the gate is to see.
_NOT_PASSED_ON = {
    *("authorization", "connection", "expect", "host", "keep-alive", "te", "trailer"),
    *("transfer-encoding", "upgrade", "x-amz-security-token"),
}


class Gate(TlsServer):
    """The endpoint: what handlers need to know."""

    def __init__(self, config: settings.Settings) -> None:
        self.config = config
        self.ledger = Ledger(config.ledger)
        context = server_context(Path(config.tls), "server")
        super().__init__(config.s3_port, GateHandler, context, RequestLog(config.log("gate")))


class GateHandler(Handler):
    """One connection of one client."""

    def handle_expect_100(self) -> bool:
        """Say "100 Continue" only once the request has passed."""
        return True

    def do_GET(self) -> None:  # noqa: N802 - http.server's naming
        """Serve a request of any method."""
        at = time.time()
        self._fields: dict[str, Any] = {"thing": None, "status": None, "error": None}
        self._unread = 0
        self._bytes_out = 0
        path, _, query = self.path.partition("?")
        self._fields.update(method=self.command, path=path, query=query)
        try:
            self._serve(sigv4.Request(self.command, path, query, self.headers.items()))
        except S3Error as error:
            self._refuse(error)
        except (OSError, http.client.HTTPException) as error:
            self._fields.update(error=type(error).__name__)
            self.close_connection = True
        finally:
            length = int(self.headers.get("Content-Length") or 0)
            cast(Gate, self.server).log.write(
                at,
                peer=self.client_address[0],
                **self._fields,
                bytes_in=length - self._unread,
                bytes_out=self._bytes_out,
            )

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _serve(self, request: sigv4.Request) -> None:
        gate = cast(Gate, self.server)
        if request.header("transfer-encoding"):
            self.close_connection = True
            raise S3Error("MissingContentLength", "You must provide the Content-Length header")
        length = request.header("content-length") or "0"
        if not length.isdecimal():
            self.close_connection = True
            raise S3Error("InvalidArgument", "Content-Length is no number")
        self._unread = int(length)

        self._name_thing(request)
        key = sigv4.check(request, gate.ledger.key, gate.config.region, gate.ledger.now())
        operation = policy.read_operation(
            request.method, request.path, request.query, request.header("x-amz-copy-source")
        )
        self._fields.update(operation=operation.action, key=next(iter(operation.keys), operation.prefix))
        if operation.batch_delete:
            body = self._whole_body(request)
            policy.authorise(key, operation, policy.batch_keys(body), gate.config.bucket)
            self._forward(request, operation.target, iter([body]))
        else:
            policy.authorise(key, operation, operation.keys, gate.config.bucket)
            self._forward(request, operation.target, self._body(request))

    def _name_thing(self, request: sigv4.Request) -> None:
        """Let the log name the thing, also of a request that will be refused."""
        claim = sigv4.parse_authorization(request.header("authorization"))
        key = cast(Gate, self.server).ledger.key(claim.access_key)
        self._fields.update(access_key=claim.access_key)
        if key is not None:
            self._fields.update(thing=key.thing, role=key.role)

    def _whole_body(self, request: sigv4.Request) -> bytes:
        if self._unread > _MAX_BATCH:
            raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum size")
        return b"".join(self._body(request))

    def _body(self, request: sigv4.Request) -> Iterator[bytes]:
        """Yield the body; a wrong digest is noticed before the last piece is passed on."""
        if self._unread and (request.header("expect") or "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        expected = sigv4.payload_hash(request)
        signed = not expected.startswith((sigv4.UNSIGNED, sigv4.STREAMING))
        digest = hashlib.sha256()
        while True:
            piece = self.rfile.read(min(_CHUNK, self._unread)) if self._unread else b""
            if self._unread and not piece:
                raise ConnectionAbortedError("the client went away in the middle of a body")
            self._unread -= len(piece)
            if signed:
                digest.update(piece)
                if not self._unread and digest.hexdigest() != expected:
                    raise S3Error(
                        "XAmzContentSHA256Mismatch",
                        "The provided 'x-amz-content-sha256' header does not match",
                    )
            yield piece
            if not self._unread:
                return

    def _forward(self, request: sigv4.Request, target: str, body: Iterator[bytes]) -> None:
        """Pass a request on and its answer back, in pieces."""
        port = cast(Gate, self.server).config.upstream_port
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=_UPSTREAM_TIMEOUT_S)
        try:
            try:
                upstream.connect()
            except OSError:
                raise S3Error("ServiceUnavailable", "Reduce your request rate.") from None
            upstream.putrequest(request.method, target, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in _NOT_PASSED_ON:
                    upstream.putheader(name, value)
            upstream.endheaders()
            for piece in body:
                upstream.send(piece)
            self._pass_back(upstream.getresponse())
        finally:
            upstream.close()

    def _pass_back(self, answer: http.client.HTTPResponse) -> None:
        self._fields.update(status=answer.status)
        headers = [
            (name, value)
            for name, value in answer.getheaders()
            if name.lower() not in {"connection", "keep-alive", "transfer-encoding"}
        ]
        without_body = self.command == "HEAD" or answer.status in {204, 304}
        chunked = not without_body and answer.getheader("Content-Length") is None
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        self.send_head(answer.status, headers)
        while not without_body and (piece := answer.read(_CHUNK)):
            self._bytes_out += len(piece)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, error: S3Error) -> None:
        """Answer like S3, having read what the client is still sending, so that it listens."""
        self._fields.update(status=error.status, error=error.code)
        waits = (self.headers.get("Expect") or "").lower() == "100-continue"
        if self._unread > _MAX_DRAIN or waits:
            self.close_connection = True
        else:
            self._drain()
        request_id = secrets.token_hex(8).upper()
        body = error.body(self.path.partition("?")[0], request_id)
        self.send_head(
            error.status,
            [
                ("Date", self.date_time_string()),
                ("Content-Type", "application/xml"),
                ("Content-Length", str(len(body))),
                ("x-amz-request-id", request_id),
                *([("Connection", "close")] if self.close_connection else []),
            ],
        )
        if self.command != "HEAD":
            self.wfile.write(body)
            self._bytes_out += len(body)

    def _drain(self) -> None:
        while self._unread and (piece := self.rfile.read(min(_CHUNK, self._unread))):
            self._unread -= len(piece)


if __name__ == "__main__":
    Gate(settings.load()).serve_forever()
