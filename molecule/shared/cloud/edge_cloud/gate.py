"""The S3 gate: checks each request as AWS would, then passes it on to the S3 server behind.

That is rclone, or moto where the control plane is to see the objects as well.

What is uploaded is checked whole before any of it is passed on. The connection to the server behind is
made per request, over loopback, so that a stale one can never fail a device's request.
"""

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import IO

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

from edge_cloud import body, policy, settings, signature
from edge_cloud.control import Control
from edge_cloud.ledger import DEVICE, Key, Ledger
from edge_cloud.s3errors import S3Error
from edge_cloud.serving import FIELDS, listen, open_log, server_context

_CHUNK = 64 * 1024
_MAX_BATCH = 1024 * 1024
_UPSTREAM_TIMEOUT = ClientTimeout(total=60)
# What a request does, as faults tell them apart.
READS = ("s3:GetObject", "s3:ListBucket")
ERROR, DELAY, RESET = FAULTS = ("s3-error", "s3-delay", "s3-reset")
_PASSED_ON = (
    "cache-control",
    "content-disposition",
    "content-language",
    "content-type",
    "expires",
    "if-",
    "range",
)
_PASSED_ON_AMZ = ("x-amz-copy-source", "x-amz-meta-", "x-amz-metadata-directive", "x-amz-storage-class")
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}


class Gate:
    """The endpoint."""

    def __init__(self, config: settings.Settings) -> None:
        self.config = config
        self.ledger = Ledger(config.ledger)
        self.control = Control(config) if config.control_url else None

    async def start(self) -> asyncio.Server:
        """Serve from now on."""
        log = open_log(self.config, "gate")
        context = server_context(Path(self.config.tls), "server", log)
        return await listen(self.handle, self.config.s3_port, context, log)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; a refusal is an answer as S3 gives it."""
        path, _, query = request.raw_path.partition("?")
        claimed = signature.access_key(request.headers.get("authorization"))
        key = self.ledger.key(claimed) if claimed else None
        fields = request[FIELDS] = {
            "thing": key and key.thing,
            "role": key and key.role,
            "access_key": claimed,
            "method": request.method,
            "path": path,
            "query": query,
            "bytes_in": 0,
            "bytes_out": 0,
        }
        try:
            return await self._serve(request)
        except S3Error as error:
            fields.update(status=error.status, error=error.code)
            return _refuse(request, error)
        except (ClientError, OSError, TimeoutError) as error:
            # Nobody is there to be answered, or half an answer is out; what is left is the log.
            fields.update(status=None, error=type(error).__name__)
            if request.transport:
                request.transport.close()
            return web.Response(status=500)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = list(request.headers.items())
        signed = signature.check(
            request.method, request.raw_path, headers, self.ledger.key, self.config.region, self.ledger.now()
        )
        operation = policy.read_operation(request.method, request.raw_path, headers)
        request[FIELDS].update(operation=operation.action, key=next(iter(operation.keys), operation.prefix))
        if signed.key.thing:  # the auditor, who is no thing, sees no fault
            await self._misbehave(request, signed.key.thing, operation.action)
        if not operation.batch_delete:
            await self._authorise(signed.key, operation, operation.keys)
        given = {name.lower(): value for name, value in headers}
        if "transfer-encoding" in given and "x-amz-decoded-content-length" not in given:
            raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.")
        if given.get("expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        with await body.read(request.content.iter_chunked(_CHUNK), given, signed) as content:
            request[FIELDS].update(bytes_in=content.tell())
            if operation.batch_delete:
                await self._authorise_batch(signed, operation, given, content)
            return await self._forward(request, operation, signed, given, content)

    async def _misbehave(self, request: web.BaseRequest, thing: str, action: str) -> None:
        """Let the faults happen that concern this thing's request."""
        kinds = ("all", "reads" if action in READS else "writes")
        for fault in self.ledger.take_faults(FAULTS, thing, lambda options: options["requests"] in kinds):
            request[FIELDS].setdefault("faults", []).append(fault.name)
            if fault.name == DELAY:
                await asyncio.sleep(fault.options["seconds"])
            elif fault.name == ERROR:
                raise S3Error(fault.options["code"], "Injected by the lab")
            elif request.transport:
                # With this, closing sends RST instead of an orderly end, as a crashed peer does.
                linger_at_once = struct.pack("ii", 1, 0)
                request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger_at_once)
                request.transport.abort()
                raise ConnectionResetError

    async def _authorise(self, key: Key, operation: policy.Operation, keys: tuple[str, ...]) -> None:
        """Return when the lab's policy, and that of the session's role where there is one, allow it."""
        policy.authorise(key, operation, keys, self.config.bucket)
        if key.iam_role and self.control:
            documents = await asyncio.to_thread(self.control.role_policies, key.iam_role)
            policy.authorise_session(key, operation, keys, documents)

    async def _authorise_batch(
        self, signed: signature.Signed, operation: policy.Operation, given: dict[str, str], content: IO[bytes]
    ) -> None:
        if content.tell() > _MAX_BATCH:
            raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum size")
        if not any(name == "content-md5" or name.startswith("x-amz-checksum-") for name in given):
            raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5")
        content.seek(0)
        await self._authorise(signed.key, operation, policy.batch_keys(content.read()))

    async def _forward(
        self,
        request: web.BaseRequest,
        operation: policy.Operation,
        signed: signature.Signed,
        given: dict[str, str],
        content: IO[bytes],
    ) -> web.StreamResponse:
        """Pass a request on and its answer back, in pieces."""
        passed = {
            name: value for name, value in given.items() if name.startswith((*_PASSED_ON, *_PASSED_ON_AMZ))
        }
        encodings = [word.strip() for word in given.get("content-encoding", "").split(",")]
        if encoding := ",".join(word for word in encodings if word not in {"", "aws-chunked"}):
            passed["content-encoding"] = encoding
        # moto's S3 tells by it for whom a request is, and takes any; rclone does not look.
        scope = f"20000101/{self.config.region}/s3/aws4_request"
        passed["authorization"] = f"AWS4-HMAC-SHA256 Credential=gate/{scope}"
        size = content.tell()
        content.seek(0)
        if size or request.method in {"PUT", "POST"}:
            passed["content-length"] = str(size)
        session = ClientSession(
            connector=TCPConnector(force_close=True),
            timeout=_UPSTREAM_TIMEOUT,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "Content-Type", "User-Agent"),
        )
        url = URL(f"http://127.0.0.1:{self.config.upstream_port}{operation.target}", encoded=True)
        data = _pieces(content) if size else None
        async with session:
            try:
                answer = await session.request(request.method, url, headers=passed, data=data)
            except ClientError:
                raise S3Error("ServiceUnavailable", "Reduce your request rate.") from None
            # Who may list a prefix only is not told which objects do not exist.
            if answer.status == 404 and operation.action == policy.GET and signed.key.role == DEVICE:
                raise S3Error("AccessDenied", "Access Denied")
            headers = [(n, v) for n, v in answer.headers.items() if n.lower() not in _OF_ONE_CONNECTION]
            response = web.StreamResponse(status=answer.status, headers=headers)
            if request.method == "HEAD" or answer.status in {204, 304}:
                # aiohttp would take an unknown length for a body in chunks.
                response.headers.setdefault("Content-Length", "0")
            request[FIELDS].update(status=answer.status, error=None)
            await response.prepare(request)
            async for piece in answer.content.iter_chunked(_CHUNK):
                await response.write(piece)
                request[FIELDS]["bytes_out"] += len(piece)
            await response.write_eof()
            return response


async def _pieces(content: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := content.read(_CHUNK):
        yield piece


def _refuse(request: web.BaseRequest, error: S3Error) -> web.Response:
    """Answer like S3; aiohttp reads what the client is still sending."""
    request_id = secrets.token_hex(8).upper()
    response = web.Response(
        status=error.status,
        body=error.body(request.raw_path.partition("?")[0], request_id),
        headers={"Content-Type": "application/xml", "x-amz-request-id": request_id},
    )
    if "expect" in request.headers:
        response.force_close()
    return response


async def main() -> None:
    """Serve until the process is ended."""
    server = await Gate(settings.load()).start()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
