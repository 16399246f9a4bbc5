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
    try:
        operation = policy.read_operation(method, path, query, copy_source)
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
        ("GET", OWN, "tagging"),
        ("POST", OWN, ""),
        ("PATCH", OWN, ""),
    ],
)
def test_a_thing_may_do_nothing_else(method: str, path: str, query: str) -> None:
    assert decide(THING, method, path, query) == "AccessDenied"


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
    operation = policy.read_operation("GET", "/b/edge01/a%20b%2Fc", "prefix=x%2Fy&list-type=2", None)
    assert operation.target == "/b/edge01/a%20b/c?prefix=x%2Fy&list-type=2"
    assert operation.keys == ("edge01/a b/c",)


def test_a_batch_names_its_keys_in_the_body() -> None:
    operation = policy.read_operation("POST", "/backups", "delete", None)
    assert operation.batch_delete
    body = b'<Delete xmlns="http://s3"><Object><Key>edge01/a</Key></Object></Delete>'
    assert policy.batch_keys(body) == ("edge01/a",)
    policy.authorise(THING, operation, ["edge01/a"], "backups")
    for keys in (["edge01/a", "edge02/a"], []):
        with pytest.raises(S3Error, match="Access Denied"):
            policy.authorise(THING, operation, keys, "backups")
    with pytest.raises(S3Error, match="well-formed"):
        policy.batch_keys(b"<Delete>")


def test_the_auditor_reads_everything_and_writes_nothing() -> None:
    assert decide(ROOT, "GET", OWN) == "allowed"
    assert decide(ROOT, "GET", "/backups", "list-type=2") == "allowed"
    assert decide(ROOT, "PUT", OWN) == "AccessDenied"
    assert decide(ROOT, "DELETE", OWN) == "AccessDenied"
