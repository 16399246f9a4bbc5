# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What Litestream keeps in a bucket: the databases below a prefix, and the newest transaction of each."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

# What lies below a prefix is the device's choice, so there is an end to what is asked about it.
MAX_REQUESTS = 250  # for one prefix, beside what its databases take
EACH_REQUESTS = 25  # more for each database that is found below it
MAX_DATABASES = 1000  # that make it more
MAX_DEPTH = 5  # folders between the prefix and a database
LEVEL = re.compile(r"[0-9a-f]{4}/")
LTX = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")
SNAPSHOTS = "0009/"
GENERATIONS = "generations/"
HEADER_BYTES = 100
PAGES_AT, PAGE_AT = slice(12, 16), slice(8, 12)  # in the header of an LTX object


class TooMuchError(Exception):
    """What lies below a prefix takes more requests than anything of Litestream's."""

    def __init__(self, prefix: str, requests: int) -> None:
        super().__init__(
            f"given up after {requests} requests: there is more below {prefix} than Litestream keeps"
        )


class Newest(NamedTuple):
    """The newest transaction of a database, when S3 took it, and the object that has it.

    `start` is the lowest transaction in the same object. Of Litestream 0.3 there are none, and no key,
    but the bytes of its snapshot, which is packed.
    """

    txid: int
    time: datetime.datetime
    start: int = 0
    key: str = ""
    packed: int = 0


class Prefix:
    """What lies below a prefix of a bucket. Everything raises TooMuchError."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket, self.requests, self.found = client, bucket, 0, 0

    @property
    def allowed(self) -> int:
        """Requests that may be made for what was found so far."""
        return MAX_REQUESTS + EACH_REQUESTS * min(self.found, MAX_DATABASES)

    def pages(self, prefix: str, after: str = "", **more: str) -> Iterator[dict[str, Any]]:
        """List what is below a prefix and after a name; each page is a request."""
        asked = {"Bucket": self.bucket, "Prefix": prefix, **more}
        if after:
            asked["StartAfter"] = prefix + after
        while True:
            if self.requests >= self.allowed:
                raise TooMuchError(prefix, self.requests)
            self.requests += 1
            page = self.client.list_objects_v2(**asked)
            yield page
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders below a prefix, each with its slash."""
        pages = self.pages(prefix, Delimiter="/")
        return [
            found["Prefix"].removeprefix(prefix) for page in pages for found in page.get("CommonPrefixes", [])
        ]

    def databases(
        self, prefix: str, depth: int = MAX_DEPTH, known: Collection[str] = ()
    ) -> Iterator[tuple[str, list[str]]]:
        """Find the prefixes that hold what Litestream writes, but the known ones, and the folders of each."""
        if prefix in known:
            return
        folders = self.folders(prefix)
        own = [name for name in folders if LEVEL.fullmatch(name) or name == GENERATIONS]
        if own:
            self.found += 1
            yield prefix, own
        if depth:
            for name in sorted(set(folders) - set(own)):
                yield from self.databases(prefix + name, depth - 1, known)

    def newest(self, prefix: str, folders: list[str]) -> Newest | None:
        """Find the newest transaction of a database; None where nothing can be restored."""
        found = [self.newest_ltx(prefix, [name for name in folders if name != GENERATIONS])]
        # What Litestream 0.3 left stays there after an upgrade.
        if GENERATIONS in folders:
            found += [
                self.newest_wal(prefix + GENERATIONS + name) for name in self.folders(prefix + GENERATIONS)
            ]
        return max((each for each in found if each), key=lambda each: each.time, default=None)

    def ends_at(self, prefix: str, txid: str) -> bool:
        """Tell whether a database can be restored as of exactly this transaction: an object ends with it."""
        levels = [name for name in self.folders(prefix) if LEVEL.fullmatch(name)]
        return any(
            (name := LTX.fullmatch(found["Key"].rpartition("/")[2])) and name[2] == txid
            for level in levels
            for page in self.pages(prefix + level)
            for found in page.get("Contents", [])
        )

    def newest_ltx(self, prefix: str, levels: list[str]) -> Newest | None:
        """Find the newest object of Litestream 0.5: in the lowest level, or from the highest downwards."""
        if "0000/" in levels:
            page = next(self.pages(prefix + "0000/"))
            if not page.get("IsTruncated") and (newest := self.latest(page, None)):
                return newest
        newest = None
        # A level's newest object tells where in the level below it those begin that it was made of.
        for level in sorted(set(levels) - {SNAPSHOTS}, reverse=True):
            for page in self.pages(prefix + level, f"{newest.start:016x}" if newest else ""):
                newest = self.latest(page, newest)
        if newest is None and SNAPSHOTS in levels:
            for page in self.pages(prefix + SNAPSHOTS):
                newest = self.latest(page, newest)
        return newest

    @staticmethod
    def latest(page: dict[str, Any], newest: Newest | None) -> Newest | None:
        """Return the newest of a page's objects and another one; of one transaction the last given."""
        for found in page.get("Contents", []):
            if name := LTX.fullmatch(found["Key"].rpartition("/")[2]):
                start, txid = (int(part, 16) for part in name.groups())
                if newest is None or txid >= newest.txid:
                    newest = Newest(txid, found["LastModified"], start, found["Key"])
        return newest

    def newest_wal(self, generation: str) -> Newest | None:
        """Find the newest object of a generation of Litestream 0.3: a segment, or else a snapshot."""
        objects = [
            [
                found
                for page in self.pages(generation + folder)
                for found in page.get("Contents", [])
                if found["Key"].endswith(".lz4")
            ]
            for folder in ("wal/", "snapshots/")
        ]
        segments, snapshots = objects
        times = [found["LastModified"] for found in segments or snapshots]
        latest = max(snapshots, key=lambda found: found["LastModified"], default={"Size": 0})
        return Newest(0, max(times), packed=latest["Size"]) if times else None

    def size(self, newest: Newest) -> int:
        """Bytes that a database has after its newest transaction at least, as the device says; 0 for none."""
        if not newest.key:
            return newest.packed
        asked = {"Bucket": self.bucket, "Key": newest.key, "Range": f"bytes=0-{HEADER_BYTES - 1}"}
        with self.client.get_object(**asked)["Body"] as body:
            header = body.read(HEADER_BYTES)
        if not header.startswith(b"LTX1"):
            return 0
        return int.from_bytes(header[PAGES_AT], "big") * int.from_bytes(header[PAGE_AT], "big")
