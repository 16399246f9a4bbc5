"""Signature Version 4 against the examples that AWS documents for S3."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from edge_cloud import signature
from edge_cloud.ledger import DEVICE, Key
from edge_cloud.s3errors import S3Error


@dataclass(frozen=True)
class Request:
    """A request as it came over the wire."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]


HOST = "examplebucket.s3.amazonaws.com"
EMPTY = hashlib.sha256(b"").hexdigest()
NOW = 1369353600.0  # 2013-05-24T00:00:00Z
KEY = Key(
    access_key="AKIAIOSFODNN7EXAMPLE",
    secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    token=None,
    role=DEVICE,
    thing="edge01",
    alias="alias",
    serial="01",
    issued_ms=0,
    expires_s=int(NOW) + 900,
)


def example(method: str, target: str, headers: dict[str, str], signature: str) -> Request:
    """Build a documented example, all of whose headers are signed."""
    present = {"Host": HOST, "x-amz-date": "20130524T000000Z", **headers}
    present.setdefault("x-amz-content-sha256", EMPTY)
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={KEY.access_key}/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={';'.join(sorted(name.lower() for name in present))},"
        f"Signature={signature}"
    )
    return Request(method, target, [*present.items(), ("Authorization", authorization)])


GET = example(
    "GET",
    "/test.txt",
    {"Range": "bytes=0-9"},
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
)
EXAMPLES = {
    "get with a range": GET,
    "put with an encoded key": example(
        "PUT",
        "/test%24file.text",
        {
            "Date": "Fri, 24 May 2013 00:00:00 GMT",
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
            "x-amz-content-sha256": hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
        },
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    "a parameter without value": example(
        "GET",
        "/?lifecycle",
        {},
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ),
    "two parameters, unsorted": example(
        "GET",
        "/?prefix=J&max-keys=2",
        {},
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
}


def check(request: Request, key: Key | None = KEY, now_s: float = NOW, region: str = "us-east-1") -> Key:
    return signature.check(
        request.method, request.target, list(request.headers), lambda _access_key: key, region, now_s
    ).key


def code(request: Request, key: Key | None = KEY, now_s: float = NOW) -> str:
    with pytest.raises(S3Error) as refused:
        check(request, key, now_s)
    return refused.value.code


def with_header(request: Request, name: str, value: str) -> Request:
    kept = [pair for pair in request.headers if pair[0].lower() != name.lower()]
    return replace(request, headers=[*kept, (name, value)])


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples_pass(name: str) -> None:
    assert check(EXAMPLES[name]) == KEY


@pytest.mark.parametrize(
    "changed",
    [
        replace(GET, method="PUT"),
        replace(GET, target="/test.txT"),
        replace(GET, target="/test.txt?acl"),
        with_header(GET, "Range", "bytes=0-10"),
        with_header(GET, "Host", "elsewhere"),
        with_header(GET, "x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ],
)
def test_whatever_is_signed_cannot_be_changed(changed: Request) -> None:
    assert code(changed) == "SignatureDoesNotMatch"


def test_another_secret_does_not_match() -> None:
    assert code(GET, replace(KEY, secret="x")) == "SignatureDoesNotMatch"


def test_unknown_key() -> None:
    assert code(GET, None) == "InvalidAccessKeyId"


def test_temporary_key_without_its_token_is_no_key() -> None:
    assert code(GET, replace(KEY, token="token")) == "InvalidAccessKeyId"


@pytest.mark.parametrize("token", ["token", None])
def test_a_token_that_was_not_issued(token: str | None) -> None:
    request = with_header(GET, "x-amz-security-token", "other")
    assert code(request, replace(KEY, token=token)) == "InvalidToken"


def test_credentials_die_at_their_expiry() -> None:
    assert check(GET, replace(KEY, expires_s=int(NOW) + 1)).access_key == KEY.access_key
    assert code(GET, replace(KEY, expires_s=int(NOW))) == "ExpiredToken"


@pytest.mark.parametrize("skew_s", [-901, 901])
def test_a_clock_that_is_off_by_more_than_15_minutes(skew_s: int) -> None:
    eternal = replace(KEY, expires_s=None)
    assert code(GET, eternal, NOW + skew_s) == "RequestTimeTooSkewed"
    assert check(GET, eternal, NOW + skew_s * 900 / 901) == eternal


def test_an_amz_header_outside_the_signature() -> None:
    assert code(with_header(GET, "x-amz-acl", "public-read")) == "AccessDenied"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("AWS4-HMAC-SHA256 nonsense", "AuthorizationHeaderMalformed"),
        ("AWS AKIAIOSFODNN7EXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=", "AuthorizationHeaderMalformed"),
    ],
)
def test_malformed_authorization(header: str, expected: str) -> None:
    assert code(with_header(GET, "Authorization", header)) == expected


def test_anonymous_request() -> None:
    headers = [pair for pair in GET.headers if pair[0] != "Authorization"]
    assert code(replace(GET, headers=headers)) == "AccessDenied"


def test_a_payload_that_is_not_declared() -> None:
    headers = [
        (name, value.replace("x-amz-content-sha256;", ""))
        for name, value in GET.headers
        if name != "x-amz-content-sha256"
    ]
    assert code(replace(GET, headers=headers)) == "InvalidRequest"


def test_another_region() -> None:
    with pytest.raises(S3Error, match="eu-central-1"):
        check(GET, region="eu-central-1")


def test_a_key_never_shows_its_secret() -> None:
    assert KEY.secret not in repr(KEY)
    assert KEY.secret not in str(KEY.public())
