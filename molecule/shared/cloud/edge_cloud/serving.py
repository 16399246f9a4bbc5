"""What both endpoints share: HTTPS by aiohttp, and a request log."""

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from edge_cloud.settings import Settings, timestamp

FIELDS = "edge_cloud.fields"


class RequestLog(AbstractAccessLogger):
    """JSON lines, one per request, `time` and `at_ms` first; secrets never come here."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write what a request's handler noted under FIELDS; all of aiohttp's own refusals as well."""
        error = response.reason if response.status >= 400 else None
        fields = {"status": response.status, "error": error, **request.get(FIELDS, {})}
        write(self.logger, time, peer=request.remote, **fields)


def write(log: logging.Logger, duration_s: float, **fields: Any) -> None:
    """Write one line about something that began `duration_s` ago."""
    at = time.time() - duration_s
    record = {
        "time": timestamp(at),
        "at_ms": int(at * 1000),
        **fields,
        "duration_ms": round(duration_s * 1000, 1),
    }
    log.info(json.dumps(record))


class Tls(ssl.SSLObject):
    """One TLS connection; a handshake that fails is logged, and the client is told why."""

    log: logging.Logger
    sni: str | None = None
    _failed = False

    def do_handshake(self) -> None:
        """Shake hands. Raises ssl.SSLError."""
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            if self._failed:
                raise
            self._failed = True
            write(self.log, 0, status=None, error="Tls", detail=error.reason or str(error))
            # asyncio hangs up on an error without sending the alert; asked to read on, it sends it first.
            raise ssl.SSLWantReadError from error


def server_context(tls: Path, name: str, log: logging.Logger) -> ssl.SSLContext:
    """Return a server's TLS settings (1.2 and later) for the certificate called `name`."""

    class Logged(Tls):
        pass

    Logged.log = log
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls / f"{name}.crt", tls / f"{name}.key")
    context.sslobject_class = Logged
    return context


def open_log(config: Settings, name: str) -> logging.Logger:
    """Return the request log called `name` (provider or gate)."""
    log = logging.Logger(name)
    log.addHandler(logging.FileHandler(config.log(name)))
    return log


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def listen(handler: Handler, port: int, context: ssl.SSLContext, log: logging.Logger) -> asyncio.Server:
    """Serve from now on, on every address."""
    server = web.Server(handler, access_log=log, access_log_class=RequestLog, access_log_format="")
    loop = asyncio.get_running_loop()
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    listener = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    return await loop.create_server(server, sock=listener, ssl=context, ssl_handshake_timeout=20)
