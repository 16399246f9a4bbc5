"""AWS Signature Version 4, the server's side, for S3."""

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_plus

from edge_cloud.ledger import Key
from edge_cloud.s3errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 900
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING = "STREAMING-"

_AUTHORIZATION = re.compile(
    ALGORITHM + r"\s+Credential=(?P<access_key>\w+)/(?P<date>\d{8})/(?P<region>[\w-]+)/(?P<service>\w+)"
    r"/aws4_request,\s*SignedHeaders=(?P<signed>[\w;.-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Request:
    """A request as it came over the wire: nothing decoded, header order kept."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """Return a header's value, several of one name joined as the signature wants them."""
        values = [value.strip() for key, value in self.headers if key.lower() == name.lower()]
        return ",".join(values) if values else None


@dataclass(frozen=True)
class Authorization:
    """What an Authorization header claims."""

    access_key: str
    date: str
    region: str
    service: str
    signed: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def parse_authorization(header: str | None) -> Authorization:
    """Read an Authorization header; AccessDenied for none, malformed for another."""
    if header is None:
        raise S3Error("AccessDenied", "Access Denied")
    match = _AUTHORIZATION.fullmatch(header.strip())
    if match is None:
        raise S3Error("AuthorizationHeaderMalformed", "The authorization header is malformed")
    return Authorization(
        access_key=match["access_key"],
        date=match["date"],
        region=match["region"],
        service=match["service"],
        signed=tuple(match["signed"].split(";")),
        signature=match["signature"],
    )


def check(request: Request, lookup: Callable[[str], Key | None], region: str, now_s: float) -> Key:
    """Return the key a request is rightly signed with; S3Error in S3's own words otherwise."""
    claim = parse_authorization(request.header("authorization"))
    key = lookup(claim.access_key)
    token = request.header("x-amz-security-token")
    if key is None or (key.token is not None and token is None):
        raise S3Error(
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
        )
    if token is not None and not hmac.compare_digest(token, key.token or ""):
        raise S3Error("InvalidToken", "The provided token is malformed or otherwise invalid.")
    if key.expires_s is not None and now_s >= key.expires_s:
        raise S3Error("ExpiredToken", "The provided token has expired.")
    _check_scope(request, claim, region, now_s)
    _check_signed_headers(request, claim)
    if not hmac.compare_digest(signature(request, claim, key.secret), claim.signature):
        raise S3Error(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        )
    return key


def _check_scope(request: Request, claim: Authorization, region: str, now_s: float) -> None:
    stamp = request.header("x-amz-date") or ""
    try:
        signed_s = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise S3Error(
            "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
        ) from None
    if abs(signed_s - now_s) > MAX_SKEW_S:
        raise S3Error(
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )
    expected = f"{stamp[:8]}/{region}/s3/aws4_request"
    if claim.scope != expected:
        raise S3Error(
            "AuthorizationHeaderMalformed",
            f"The authorization header is malformed; expecting the scope '{expected}'",
        )


def _check_signed_headers(request: Request, claim: Authorization) -> None:
    """S3 wants the host and every x-amz-* header that is there under the signature."""
    present = {name.lower() for name, _ in request.headers}
    required = {"host"} | {name for name in present if name.startswith("x-amz-")}
    if not required <= set(claim.signed):
        raise S3Error("AccessDenied", "There were headers present in the request which were not signed")


def signature(request: Request, claim: Authorization, secret: str) -> str:
    """Return the signature a request should bear."""
    text = "\n".join(
        [
            ALGORITHM,
            request.header("x-amz-date") or "",
            claim.scope,
            hashlib.sha256(canonical_request(request, claim.signed).encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for part in (claim.date, claim.region, claim.service, "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def canonical_request(request: Request, signed: Sequence[str]) -> str:
    """Return the canonical request; S3 encodes the path once and does not normalise it."""
    headers = "".join(f"{name}:{' '.join((request.header(name) or '').split())}\n" for name in sorted(signed))
    return "\n".join(
        [
            request.method,
            quote(unquote(request.path), safe="/-_.~"),
            _canonical_query(request.query),
            headers,
            ";".join(sorted(signed)),
            payload_hash(request),
        ]
    )


def payload_hash(request: Request) -> str:
    """Return what the request says about its body: a digest, or how it is left unsigned."""
    return request.header("x-amz-content-sha256") or hashlib.sha256(b"").hexdigest()


def _canonical_query(query: str) -> str:
    pairs = []
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        pairs.append((_encode(name), _encode(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _encode(text: str) -> str:
    return quote(unquote_plus(text), safe="-_.~")
