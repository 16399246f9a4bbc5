"""The AWS IoT credential provider's protocol, with real mutual TLS."""

import asyncio
import hashlib
import re
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, cast
from urllib.parse import unquote

from aiohttp import web

from edge_cloud import answers, settings
from edge_cloud.answers import Answer
from edge_cloud.control import Control, Grant
from edge_cloud.ledger import Fault, Ledger
from edge_cloud.serving import FIELDS, Tls, listen, open_log, server_context

_PATH = re.compile(r"/role-aliases/([\w=,@%-]{1,384})/credentials")
_MAX_DELAY_S = 600.0


@dataclass(frozen=True)
class Client:
    """Who asks: the thing it says it is, and its certificate's serial number, id and name."""

    thing: str | None
    serial: str
    certificate: str
    common_name: str | None


class Provider:
    """The endpoint."""

    def __init__(self, config: settings.Settings) -> None:
        self.config = config
        self.ledger = Ledger(config.ledger)
        self.control = Control(config) if config.control_url else None
        self.log = open_log(config, "provider")
        self._faulty = {name: self._mutual(file) for name, file in answers.TLS_FAULTS.items()}

    async def start(self) -> asyncio.Server:
        """Serve from now on."""
        context = self._mutual("server")
        context.sni_callback = self._choose_certificate
        return await listen(self.handle, self.config.provider_port, context, self.log)

    def _mutual(self, name: str) -> ssl.SSLContext:
        """Return a context that wants a client certificate: of the fleet CA, or one that is registered."""
        tls = Path(self.config.tls)
        context = server_context(tls, name, self.log)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls / "fleet-ca.crt")
        # A registered certificate is trusted itself, whoever signed it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def _choose_certificate(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Keep the name a client asks for; swap the server certificate while a TLS fault is active.

        Who is registered by now is let in by this handshake already.
        """
        cast(Tls, connection).sni = name
        for certificate in self.control.new_certificates() if self.control else ():
            connection.context.load_verify_locations(cadata=certificate)
        for fault in self.ledger.take_faults(answers.TLS_FAULTS, None):
            connection.context = self._faulty[fault.name]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request for credentials."""
        assert request.transport is not None
        thing = request.headers.get("x-amzn-iot-thingname")
        tls = cast(Tls, request.transport.get_extra_info("ssl_object"))
        certificate = cast(dict[str, Any], tls.getpeercert())
        identity = hashlib.sha256(cast(bytes, tls.getpeercert(binary_form=True))).hexdigest()
        names = dict(pair for part in certificate["subject"] for pair in part)
        faults = self.ledger.take_faults(answers.REQUEST_FAULTS, thing)
        # Host may bear the port, which says nothing about the name.
        hosts = {tls.sni, request.headers.get("host", "").partition(":")[0]}
        if hosts == {self.config.provider_host}:
            client = Client(thing, certificate["serialNumber"], identity, names.get("commonName"))
            answer, fields = await self._answer(request, client, faults)
        else:
            answer, fields = answers.refusal("certificate-invalid"), {}
        for fault in faults:
            if fault.name == answers.DELAY:
                await asyncio.sleep(min(fault.options["seconds"], _MAX_DELAY_S))
        reset = any(fault.name == answers.RESET for fault in faults)
        request[FIELDS] = {
            "thing": thing,
            "serial": certificate["serialNumber"],
            "certificate": identity,
            "path": request.raw_path,
            "status": None if reset else answer.status,
            "error": answers.RESET if reset else answer.error,
            "faults": [fault.name for fault in faults],
            **fields,
        }
        if reset:
            # With this, closing sends RST instead of an orderly end, as a crashed peer does.
            linger_at_once = struct.pack("ii", 1, 0)
            request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger_at_once)
            request.transport.abort()
        return await self._send(request, answer)

    async def _answer(
        self, request: web.BaseRequest, client: Client, faults: list[Fault]
    ) -> tuple[Answer, dict[str, Any]]:
        """Return the answer, and what the log is to say about the key that was issued."""
        for fault in faults:
            if answers.replaces_answer(fault):
                return answers.replacement(fault), {}
        path = _PATH.fullmatch(request.raw_path) if request.method == "GET" else None
        alias = unquote(path[1]) if path else ""
        grant = await self._judge(client, alias)
        if isinstance(grant, str):
            return answers.refusal(grant), {}
        key = self.ledger.issue(client.thing, alias, client.serial, grant.lifetime_s, grant.role)
        answer = answers.credentials(key)
        for fault in faults:
            if fault.name in answers.SPOILERS:
                answer = answers.spoil(answer, fault, self.ledger.now())
        return answer, {"access_key": key.access_key, "expires_s": key.expires_s}

    async def _judge(self, client: Client, alias: str) -> Grant | str:
        """Return what a client gets, or the name of its refusal; whom the ledger knows, it judges."""
        ledger, control = self.ledger, self.control
        if (
            control
            and not ledger.knows(client.serial)
            and await asyncio.to_thread(control.governs, client.certificate, alias)
        ):
            return await asyncio.to_thread(control.judge, client.certificate, client.thing, alias)
        if not ledger.certificate_active(client.serial, client.common_name):
            return "certificate-invalid"
        lifetime_s = ledger.lifetime(alias)
        if lifetime_s is None:
            return "alias-missing"
        if client.thing is not None and (
            client.thing != client.common_name or not ledger.attached(client.thing)
        ):
            return "thing-not-attached"
        return Grant(None, lifetime_s)

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status,
            headers=[
                ("Date", answers.http_date(self.ledger.now() + answer.date_offset_s)),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(answer.body))),
                *answer.headers,
            ],
        )
        if answer.cut:
            response.force_close()
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) - answer.cut])
        return response


async def main() -> None:
    """Serve until the process is ended."""
    server = await Provider(settings.load()).start()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
