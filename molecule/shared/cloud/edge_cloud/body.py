"""A request's body: decoded, and checked against every digest and signature that came with it."""

import base64
import hashlib
import re
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import IO, Protocol

from edge_cloud.s3errors import S3Error
from edge_cloud.signature import Signed

_IN_MEMORY = 1024 * 1024
_MAX_LINE = 1024
_EMPTY = hashlib.sha256(b"").hexdigest()
_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
_STREAMING = {_SIGNED, f"{_SIGNED}-TRAILER", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})(?:;chunk-signature=([0-9a-f]{64}))?")
_CHECKSUM = "x-amz-checksum-"


class Digest(Protocol):
    """What hashlib's objects offer."""

    def update(self, data: bytes, /) -> None:
        """Take more data in."""

    def digest(self) -> bytes:
        """Return the digest of all data."""


class Crc:
    """A CRC of reflected bits, as S3 has three of."""

    def __init__(self, bits: int, polynomial: int) -> None:
        self._bits, self._mask = bits, (1 << bits) - 1
        self._table, self._value = _table(polynomial), self._mask

    def update(self, data: bytes, /) -> None:
        """Take more data in."""
        value, table = self._value, self._table
        for byte in data:
            value = table[(value ^ byte) & 255] ^ (value >> 8)
        self._value = value

    def digest(self) -> bytes:
        """Return the checksum, most significant byte first."""
        return (self._value ^ self._mask).to_bytes(self._bits // 8, "big")


class Crc32:
    """The common CRC-32, by zlib."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        """Take more data in."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """Return the checksum, most significant byte first."""
        return self._value.to_bytes(4, "big")


@cache
def _table(polynomial: int) -> list[int]:
    values = list(range(256))
    for _ in range(8):
        values = [(value >> 1) ^ (polynomial if value & 1 else 0) for value in values]
    return values


ALGORITHMS: dict[str, Callable[[], Digest]] = {
    "crc32": Crc32,
    "crc32c": lambda: Crc(32, 0x82F63B78),
    "crc64nvme": lambda: Crc(64, 0x9A6C9329AC4BC9B5),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


async def read(pieces: AsyncIterator[bytes], headers: dict[str, str], signed: Signed) -> IO[bytes]:
    """Return the whole body, on disk where it is large. Raises S3Error where it is not what was sent."""
    declared = headers["x-amz-content-sha256"]
    if declared.startswith("STREAMING-"):
        if declared not in _STREAMING:
            raise S3Error("NotImplemented", "The lab does not know this kind of payload")
        pieces = decode(_Source(pieces), declared, headers, signed)
    elif declared != "UNSIGNED-PAYLOAD" and not re.fullmatch("[0-9a-f]{64}", declared):
        raise S3Error(
            "InvalidArgument", "x-amz-content-sha256 must be a digest, or say how the body is signed"
        )
    checks = _declared_digests(headers)
    body = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    sha256 = hashlib.sha256()
    try:
        async for piece in pieces:
            body.write(piece)
            for digest in (sha256, *checks.values()):
                digest.update(piece)
        if len(declared) == len(_EMPTY) and sha256.hexdigest() != declared:
            raise S3Error(
                "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match"
            )
        for name, digest in checks.items():
            # decode() puts what trails the body among the headers.
            if base64.b64encode(digest.digest()).decode() != headers.get(name):
                raise S3Error("BadDigest", f"The {name} you specified did not match what we received.")
        size = headers.get("x-amz-decoded-content-length")
        if declared in _STREAMING and size != str(body.tell()):
            raise S3Error("IncompleteBody", "The body is not as long as x-amz-decoded-content-length says")
    except BaseException:
        body.close()
        raise
    return body


def _declared_digests(headers: dict[str, str]) -> dict[str, Digest]:
    """Return what a body has to be checked by, by name of header or trailer."""
    trailer = headers.get("x-amz-trailer", "").lower()
    names = [trailer] if trailer else []
    names += [name for name in headers if name.startswith(_CHECKSUM)]
    found: dict[str, Digest] = {}
    for name in names:
        algorithm = name.removeprefix(_CHECKSUM)
        if algorithm in {"algorithm", "mode", "type"}:
            continue
        if not name.startswith(_CHECKSUM) or algorithm not in ALGORITHMS:
            raise S3Error("InvalidRequest", f"The lab knows no checksum called {name}")
        found[name] = ALGORITHMS[algorithm]()
    if "x-amz-sdk-checksum-algorithm" in headers and not found:
        raise S3Error("InvalidRequest", "x-amz-sdk-checksum-algorithm specified, but no checksum was found.")
    if "content-md5" in headers:
        found["content-md5"] = hashlib.md5(usedforsecurity=False)
    return found


class _Source:
    """Lines and counted bytes of a stream."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces, self._held = pieces, b""

    async def _more(self) -> None:
        try:
            self._held += await anext(self._pieces)
        except StopAsyncIteration:
            raise S3Error("IncompleteBody", "The request body terminated unexpectedly") from None

    async def line(self) -> bytes:
        """Return the next line, without its end."""
        while b"\r\n" not in self._held:
            if len(self._held) > _MAX_LINE:
                raise S3Error("InvalidRequest", "A line of an aws-chunked body has no end")
            await self._more()
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    async def counted(self, size: int) -> AsyncIterator[bytes]:
        """Yield so many bytes."""
        while size:
            if not self._held:
                await self._more()
            piece, self._held = self._held[:size], self._held[size:]
            size -= len(piece)
            yield piece

    async def end(self) -> None:
        """Raise S3Error where the stream goes on."""
        if self._held or [piece async for piece in self._pieces if piece]:
            raise S3Error("InvalidRequest", "Something follows the end of the body")


async def decode(source: _Source, kind: str, headers: dict[str, str], signed: Signed) -> AsyncIterator[bytes]:
    """Yield the content of an aws-chunked body, each chunk checked; its trailer goes into `headers`."""
    size = -1
    while size != 0:
        head = _CHUNK.fullmatch(await source.line())
        if head is None:
            raise S3Error("InvalidRequest", "A chunk of the body is malformed")
        size, digest = int(head[1], 16), hashlib.sha256()
        async for piece in source.counted(size):
            digest.update(piece)
            yield piece
        if kind.startswith(_SIGNED):
            signed.check_chunk("PAYLOAD", [_EMPTY, digest.hexdigest()], (head[2] or b"").decode())
        if (size or kind == _SIGNED) and await source.line():
            raise S3Error("InvalidRequest", "A chunk of the body is longer than it says")
    if kind != _SIGNED:
        await _read_trailer(source, kind, headers, signed)
    await source.end()


async def _read_trailer(source: _Source, kind: str, headers: dict[str, str], signed: Signed) -> None:
    wanted, covered = headers.get("x-amz-trailer", "").lower(), b""
    while line := await source.line():
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "x-amz-trailer-signature":
            signed.check_chunk("TRAILER", [hashlib.sha256(covered).hexdigest()], value)
            covered = b""
        elif name.lower() == wanted and wanted not in headers:
            headers[wanted] = value.strip()
            covered = f"{wanted}:{value.strip()}\n".encode("latin-1")
        else:
            raise S3Error("MalformedTrailerError", f"The request has a trailer called {name}")
    if covered and kind != "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
        raise S3Error("MalformedTrailerError", "The trailer is not signed")
