"""What a thing may do in the bucket, and what it may not."""

from dataclasses import replace

import pytest

from edge_cloud import policy
from edge_cloud.ledger import AUDITOR, DEVICE, Key
from edge_cloud.s3errors import S3Error

THING = Key("ASIA", "s", "t", DEVICE, "edge01", "alias", "01", 0, 1)
NOBODY = replace(THING, thing=None)
ROOT = Key("AKIA", "s", None, AUDITOR, None, None, None, 0, None)
OWN = "/backups/edge01/sample.db/0000/1.ltx"


def decide(key: Key, method: str, path: str, query: str = "", copy_source: str | None = None) -> str:
    """Return "allowed", or S3's code for the refusal."""
    headers = [("x-amz-copy-source", copy_source)] if copy_source else []
    try:
        operation = policy.read_operation(method, f"{path}?{query}" if query else path, headers)
        policy.authorise(key, operation, operation.keys, "backups")
    except S3Error as error:
        return error.code
    return "allowed"


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", OWN, "x-id=GetObject"),
        ("HEAD", OWN, ""),
        ("PUT", OWN, "x-id=PutObject"),
        ("DELETE", OWN, ""),
        ("POST", OWN, "uploads"),
        ("PUT", OWN, "partNumber=1&uploadId=1"),
        ("POST", OWN, "uploadId=1"),
        ("DELETE", OWN, "uploadId=1&x-id=AbortMultipartUpload"),
        ("GET", "/backups", "list-type=2&prefix=edge01%2Fsample.db%2F"),
        ("GET", "/backups/", "prefix=edge01/"),
    ],
)
def test_a_thing_may_use_its_own_prefix(method: str, path: str, query: str) -> None:
    assert decide(THING, method, path, query) == "allowed"
    assert decide(NOBODY, method, path, query) == "AccessDenied"


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/backups/edge02/sample.db", ""),
        ("PUT", "/backups/edge010/sample.db", ""),
        ("PUT", "/backups/edge01", ""),
        ("GET", "/elsewhere/edge01/sample.db", ""),
        ("GET", "/backups", ""),
        ("GET", "/backups", "prefix="),
        ("GET", "/backups", "prefix=edge0"),
        ("GET", "/backups", "prefix=edge02/"),
        ("HEAD", "/backups", ""),
        ("PUT", "/backups", ""),
        ("DELETE", "/backups", ""),
        ("GET", "/backups", "location"),
        ("GET", "/backups", "uploads&prefix=edge01/"),
        ("GET", "/", ""),
        ("PUT", OWN, "acl"),
        ("PUT", OWN, "tagging"),
        ("GET", OWN, "tagging"),
        ("GET", OWN, "uploadId=1"),
        ("PUT", OWN, "uploadId=1"),
        ("GET", OWN, "versionId=1"),
        ("DELETE", OWN, "versionId=1"),
        ("GET", "/backups/", "uploads"),
        ("POST", OWN, ""),
        ("PATCH", OWN, ""),
    ],
)
def test_a_thing_may_do_nothing_else(method: str, path: str, query: str) -> None:
    assert decide(THING, method, path, query) == "AccessDenied"


@pytest.mark.parametrize(
    "header",
    [
        *("x-amz-acl", "x-amz-grant-read", "X-Amz-Tagging", "x-amz-object-lock-mode"),
        "x-amz-server-side-encryption-customer-algorithm",
    ],
)
def test_a_header_that_asks_for_more_than_an_upload(header: str) -> None:
    operation = policy.read_operation("PUT", OWN, [(header, "x")])
    with pytest.raises(S3Error, match="Access Denied"):
        policy.authorise(THING, operation, operation.keys, "backups")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/backups/edge01/../edge02/sample.db", ""),
        ("/backups/edge01/%2e%2e/edge02/sample.db", ""),
        ("/backups/edge01%2F..%2Fedge02/sample.db", ""),
        ("/backups/edge01//sample.db", ""),
        ("/backups/edge01/a%0Ab", ""),
        ("/backups", "prefix=edge01/../edge02/"),
        ("/backups", "prefix=edge01/&prefix=edge02/"),
    ],
)
def test_no_path_can_be_read_in_two_ways(path: str, query: str) -> None:
    assert decide(THING, "GET", path, query) == "InvalidArgument"


def test_a_copy_needs_its_source_too() -> None:
    assert decide(THING, "PUT", OWN, copy_source="/backups/edge01/other") == "allowed"
    assert decide(THING, "PUT", OWN, copy_source="backups/edge02/other") == "AccessDenied"
    assert decide(THING, "PUT", OWN, copy_source="elsewhere/edge01/other") == "AccessDenied"
    assert decide(THING, "PUT", OWN, copy_source="backups/edge01%2F..%2Fx") == "InvalidArgument"


def test_what_is_passed_on_is_what_was_checked() -> None:
    operation = policy.read_operation("GET", "/b/edge01/a%20b%2Fc?prefix=x%2Fy&list-type=2")
    assert operation.target == "/b/edge01/a%20b/c?prefix=x%2Fy&list-type=2"
    assert operation.keys == ("edge01/a b/c",)


def document(content: str) -> bytes:
    return f'<Delete xmlns="http://s3">{content}</Delete>'.encode()


def test_a_batch_names_its_keys_in_the_body() -> None:
    operation = policy.read_operation("POST", "/backups?delete")
    assert operation.batch_delete
    body = document("<Object><Key>edge01/a</Key></Object><Quiet>true</Quiet>")
    assert policy.batch_keys(body) == ("edge01/a",)
    policy.authorise(THING, operation, ["edge01/a"], "backups")
    for keys in (["edge01/a", "edge02/a"], []):
        with pytest.raises(S3Error, match="Access Denied"):
            policy.authorise(THING, operation, keys, "backups")


@pytest.mark.parametrize(
    "body",
    [
        b"<Delete>",
        document(""),
        document("<Object/>"),
        document("<Object><Key>edge01/a</Key><Size>1</Size></Object>"),
        document("<Object><Key/></Object>"),
        document("<Object><Key>edge01/a</Key></Object><Object></Object>"),
        document("<Object><Key>edge01/a</Key><Key>edge01/b</Key></Object>"),
        document("<Object><Key>edge01/a</Key></Object><Key>edge01/b</Key>"),
        document("<Wrapped><Object><Key>edge01/a</Key></Object></Wrapped>"),
        document("<Object><Key>edge01/a</Key></Object>" * 1001),
        b"<Remove><Object><Key>edge01/a</Key></Object></Remove>",
    ],
)
def test_a_malformed_batch_is_refused_whole(body: bytes) -> None:
    with pytest.raises(S3Error) as refused:
        policy.batch_keys(body)
    assert (refused.value.code, refused.value.status) == ("MalformedXML", 400)


def test_a_batch_of_versions_needs_another_permission() -> None:
    with pytest.raises(S3Error, match="Access Denied"):
        policy.batch_keys(document("<Object><Key>edge01/a</Key><VersionId>1</VersionId></Object>"))


def test_the_auditor_reads_everything_and_writes_nothing() -> None:
    assert decide(ROOT, "GET", OWN) == "allowed"
    assert decide(ROOT, "GET", "/backups", "list-type=2") == "allowed"
    assert decide(ROOT, "PUT", OWN) == "AccessDenied"
    assert decide(ROOT, "DELETE", OWN) == "AccessDenied"
