"""The role's policy: a thing may touch BUCKET/THING/* and nothing else.

    Allow s3:GetObject, s3:PutObject, s3:DeleteObject on BUCKET/${credentials-iot:ThingName}/*
    Allow s3:ListBucket on BUCKET if s3:prefix is like ${credentials-iot:ThingName}/*

The auditor may read and list the whole bucket.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

from edge_cloud.ledger import AUDITOR, Key
from edge_cloud.s3errors import S3Error

LIST = "s3:ListBucket"
GET = "s3:GetObject"
PUT = "s3:PutObject"
DELETE = "s3:DeleteObject"
OTHER = "s3:*"

_LIST_PARAMETERS = {
    *("list-type", "prefix", "delimiter", "marker", "max-keys", "encoding-type"),
    *("continuation-token", "start-after", "fetch-owner", "x-id"),
}
_UPLOAD_PARAMETERS = {"uploads", "uploadId", "partNumber", "x-id"}
_OBJECT_ACTIONS = {"GET": GET, "HEAD": GET, "PUT": PUT, "POST": PUT, "DELETE": DELETE}


@dataclass(frozen=True)
class Operation:
    """What a request wants to do, read once; `target` is exactly what is passed on."""

    action: str
    bucket: str
    keys: tuple[str, ...]
    prefix: str | None
    target: str
    batch_delete: bool = False


def read_operation(method: str, path: str, query: str, copy_source: str | None) -> Operation:
    """Read a path-style request; InvalidArgument for a path that a server might reinterpret."""
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    parameters = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in parameters]
    if len(set(names)) < len(names):
        raise S3Error("InvalidArgument", "A query parameter is given twice")
    given = dict(parameters)
    target = quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/-_.~")
    if parameters:
        target += "?" + urlencode(parameters, quote_via=quote, safe="-_.~")

    action = OTHER
    keys: tuple[str, ...] = ()
    batch = False
    if key:
        keys = (_plain(key), *_copied(copy_source, bucket))
        if set(names) <= _UPLOAD_PARAMETERS and not (method == "POST" and not names):
            action = _OBJECT_ACTIONS.get(method, OTHER)
    elif bucket and method in {"GET", "HEAD"} and set(names) <= _LIST_PARAMETERS:
        action = LIST
    elif bucket and method == "POST" and set(names) <= {"delete", "x-id"} and "delete" in names:
        action = DELETE
        batch = True
    prefix = given.get("prefix")
    if prefix:
        _plain(prefix.removesuffix("/"))
    return Operation(action, bucket, keys, prefix, target, batch)


def _copied(source: str | None, bucket: str) -> tuple[str, ...]:
    """Return the key that a CopyObject reads, which has to be allowed as well."""
    if source is None:
        return ()
    from_bucket, _, key = unquote(source).removeprefix("/").partition("/")
    if from_bucket != bucket or not key:
        raise S3Error("AccessDenied", "Access Denied")
    return (_plain(key),)


def _plain(key: str) -> str:
    """Return a key that no server can take for another one."""
    parts = key.split("/")
    if {"", ".", ".."} & set(parts) or any(ord(c) < 32 or c == "\\" for c in key):
        raise S3Error("InvalidArgument", "The lab refuses keys with empty or dotted parts")
    return key


def batch_keys(body: bytes) -> tuple[str, ...]:
    """Return the keys that a DeleteObjects document names."""
    try:
        tree = ET.fromstring(body)  # noqa: S314 - signed by a known device, expat limits entities
    except ET.ParseError:
        raise S3Error("MalformedXML", "The XML you provided was not well-formed") from None
    return tuple(_plain(element.text or "") for element in tree.iter() if element.tag.endswith("Key"))


def authorise(key: Key, operation: Operation, keys: Iterable[str], bucket: str) -> None:
    """Return when the policy allows an operation on `keys`; AccessDenied otherwise."""
    if not _allowed(key, operation, tuple(keys), bucket):
        raise S3Error("AccessDenied", "Access Denied")


def _allowed(key: Key, operation: Operation, keys: tuple[str, ...], bucket: str) -> bool:
    if operation.bucket != bucket:
        return False
    if key.role == AUDITOR:
        return operation.action in {LIST, GET}
    if key.thing is None or operation.action == OTHER:
        return False
    own = f"{key.thing}/"
    if operation.action == LIST:
        return (operation.prefix or "").startswith(own)
    return bool(keys) and all(name.startswith(own) for name in keys)
