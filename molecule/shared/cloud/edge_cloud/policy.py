"""What a request wants to do, and whether the role's policy in files/aws-fleet.yaml lets it.

    Allow s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on BUCKET/THING/*
    Allow s3:ListBucket on BUCKET if s3:prefix is like THING/*

The auditor may read and list the whole bucket. A session of a role that the control plane knows needs that
role's inline policies as well, as they are now.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from edge_cloud import iam
from edge_cloud.ledger import AUDITOR, Key
from edge_cloud.s3errors import S3Error

LIST = "s3:ListBucket"
GET = "s3:GetObject"
PUT = "s3:PutObject"
DELETE = "s3:DeleteObject"
ABORT = "s3:AbortMultipartUpload"
OTHER = "s3:*"

_LIST_PARAMETERS = {
    *("list-type", "prefix", "delimiter", "marker", "max-keys", "encoding-type"),
    *("continuation-token", "start-after", "fetch-owner"),
}
# Method and sub-resources of a request for an object -> the permission that AWS asks for.
_OBJECT_ACTIONS = {
    ("GET", frozenset()): GET,
    ("HEAD", frozenset()): GET,
    ("PUT", frozenset()): PUT,
    ("DELETE", frozenset()): DELETE,
    ("POST", frozenset({"uploads"})): PUT,
    ("PUT", frozenset({"partNumber", "uploadId"})): PUT,
    ("POST", frozenset({"uploadId"})): PUT,
    ("DELETE", frozenset({"uploadId"})): ABORT,
}
# Headers that ask for more than s3:PutObject, or that the bucket's policy refuses.
_SSE_C = "x-amz-server-side-encryption-customer-"
_FURTHER = ("x-amz-acl", "x-amz-grant-", "x-amz-tagging", "x-amz-object-lock-", "x-amz-bypass-", _SSE_C)
_MAX_BATCH = 1000


@dataclass(frozen=True)
class Operation:
    """What a request wants to do, read once; `target` is exactly what is passed on."""

    action: str
    bucket: str
    keys: tuple[str, ...]
    prefix: str | None
    target: str
    batch_delete: bool = False


def read_operation(method: str, target: str, headers: Iterable[tuple[str, str]] = ()) -> Operation:
    """Read a path-style request; InvalidArgument for a path that a server might reinterpret."""
    path, _, query = target.partition("?")
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    given = dict(pairs := parse_qsl(query, keep_blank_values=True))
    if len(given) < len(pairs):
        raise S3Error("InvalidArgument", "A query parameter is given twice")
    fields = {name.lower(): value for name, value in headers}
    target = quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/-_.~")
    if pairs:
        target += "?" + urlencode(pairs, quote_via=quote, safe="-_.~")

    names = frozenset(given) - {"x-id"}
    action, batch = OTHER, False
    keys: tuple[str, ...] = ()
    if key:
        keys = (_plain(key), *_copied(fields.get("x-amz-copy-source"), bucket))
        if not any(name.startswith(_FURTHER) for name in fields):
            action = _OBJECT_ACTIONS.get((method, names), OTHER)
    elif bucket and method in {"GET", "HEAD"} and names <= _LIST_PARAMETERS:
        action = LIST
    elif bucket and method == "POST" and names == {"delete"}:
        action, batch = DELETE, True
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
    """Return the keys that a DeleteObjects document names. Raises S3Error where any part is malformed."""
    malformed = S3Error("MalformedXML", "The XML you provided was not well-formed or did not validate")
    try:
        tree = ET.fromstring(body)  # noqa: S314 - signed by a known device, expat limits entities
    except ET.ParseError:
        raise malformed from None
    objects = [element for element in tree if _name(element) == "Object"]
    others = [_name(element) for element in tree if _name(element) != "Object"]
    if _name(tree) != "Delete" or others not in ([], ["Quiet"]) or not 1 <= len(objects) <= _MAX_BATCH:
        raise malformed
    if any(_name(part) == "VersionId" for entry in objects for part in entry):
        raise S3Error("AccessDenied", "Access Denied")
    keys = [[part.text or "" for part in entry if _name(part) == "Key"] for entry in objects]
    if any(len(entry) != 1 for entry in objects) or any(len(found) != 1 or not found[0] for found in keys):
        raise malformed
    return tuple(_plain(key) for (key,) in keys)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


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


def authorise_session(key: Key, operation: Operation, keys: tuple[str, ...], documents: list[Any]) -> None:
    """Return when a role's policies allow a session what it asks for; AccessDenied otherwise."""
    bucket = f"arn:aws:s3:::{operation.bucket}"
    context = {
        "s3:prefix": operation.prefix,
        "credentials-iot:ThingName": key.thing,
        # Of whole seconds, as all times of AWS's tokens.
        "aws:TokenIssueTime": datetime.fromtimestamp(key.issued_ms // 1000, UTC).isoformat(),
        "aws:SecureTransport": "true",
    }
    wanted = [(operation.action, f"{bucket}/{name}") for name in keys] or [(operation.action, bucket)]
    try:
        allowed = all(iam.decide(documents, action, resource, context) for action, resource in wanted)
    except iam.UnknownPolicyError as error:
        raise S3Error("InternalError", str(error)) from None
    if not allowed:
        raise S3Error("AccessDenied", "Access Denied")
