"""The AWS IoT credential provider's protocol, with real mutual TLS."""

import re
import ssl
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from edge_cloud import answers, settings
from edge_cloud.answers import Answer
from edge_cloud.ledger import Fault, Ledger
from edge_cloud.serving import Handler, RequestLog, TlsServer, server_context

_PATH = re.compile(r"/role-aliases/([\w=,@%-]{1,384})/credentials")
_MAX_DELAY_S = 600.0


class Provider(TlsServer):
    """The endpoint: what handlers need to know."""

    def __init__(self, config: settings.Settings) -> None:
        self.ledger = Ledger(config.ledger)
        tls = Path(config.tls)
        context = _mutual(tls, "server")
        self._faulty = {name: _mutual(tls, file) for name, file in answers.TLS_FAULTS.items()}
        context.sni_callback = self._choose_certificate
        log = RequestLog(config.log("provider"))
        super().__init__(config.provider_port, ProviderHandler, context, log)

    def _choose_certificate(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Swap the server certificate while a TLS fault is active."""
        for fault in self.ledger.take_faults(answers.TLS_FAULTS, None):
            connection.context = self._faulty[fault.name]


class ProviderHandler(Handler):
    """One connection of one device."""

    def do_GET(self) -> None:  # noqa: N802 - http.server's naming
        """Answer a request for credentials."""
        at = time.time()
        ledger = cast(Provider, self.server).ledger
        thing = self.headers.get("x-amzn-iot-thingname")
        serial, common_name = self._peer()
        faults = ledger.take_faults(answers.REQUEST_FAULTS, thing)
        answer, fields = self._answer(thing, serial, common_name, faults)
        for fault in faults:
            if fault.name == answers.DELAY:
                time.sleep(min(fault.options["seconds"], _MAX_DELAY_S))
        reset = any(fault.name == answers.RESET for fault in faults)
        try:
            if reset:
                self.reset_connection()
            else:
                self._send(answer)
        finally:
            cast(Provider, self.server).log.write(
                at,
                peer=self.client_address[0],
                thing=thing,
                serial=serial,
                path=self.path,
                status=None if reset else answer.status,
                error=answers.RESET if reset else answer.error,
                faults=[fault.name for fault in faults],
                **fields,
            )

    def _peer(self) -> tuple[str, str | None]:
        """Return the client certificate's serial number and common name."""
        certificate = cast(ssl.SSLSocket, self.connection).getpeercert() or {}
        subject = cast(tuple[tuple[tuple[str, str], ...], ...], certificate.get("subject", ()))
        names = dict(pair for part in subject for pair in part)
        return str(certificate.get("serialNumber", "")), names.get("commonName")

    def _answer(
        self, thing: str | None, serial: str, common_name: str | None, faults: list[Fault]
    ) -> tuple[Answer, dict[str, Any]]:
        """Return the answer, and what the log is to say about the key that was issued."""
        ledger = cast(Provider, self.server).ledger
        for fault in faults:
            if answers.replaces_answer(fault):
                return answers.replacement(fault), {}
        if not ledger.certificate_active(serial, common_name):
            return answers.refusal("certificate-invalid"), {}
        path = _PATH.fullmatch(self.path)
        alias = unquote(path[1]) if path else ""
        lifetime_s = ledger.lifetime(alias)
        if lifetime_s is None:
            return answers.refusal("alias-missing"), {}
        if thing is not None and (thing != common_name or not ledger.attached(thing)):
            return answers.refusal("thing-not-attached"), {}
        key = ledger.issue(thing, alias, serial, lifetime_s)
        answer = answers.credentials(key)
        for fault in faults:
            if fault.name in answers.SPOILERS:
                answer = answers.spoil(answer, fault, ledger.now())
        return answer, {"access_key": key.access_key, "expires_s": key.expires_s}

    def _send(self, answer: Answer) -> None:
        now = cast(Provider, self.server).ledger.now() + answer.date_offset_s
        self.send_head(
            answer.status,
            [
                ("Date", answers.http_date(now)),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(answer.body))),
                *answer.headers,
            ],
        )
        self.wfile.write(answer.body[: len(answer.body) - answer.cut])
        if answer.cut:
            self.close_connection = True


def _mutual(tls: Path, name: str) -> ssl.SSLContext:
    """Return a context that wants a client certificate of the fleet CA."""
    context = server_context(tls, name)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tls / "fleet-ca.crt")
    return context


if __name__ == "__main__":
    Provider(settings.load()).serve_forever()
