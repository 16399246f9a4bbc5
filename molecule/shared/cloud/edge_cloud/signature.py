"""Whether a request is rightly signed: botocore makes the signature it should bear."""

import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable, Iterable

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from edge_cloud.ledger import Key
from edge_cloud.s3errors import S3Error

MAX_SKEW_S = 900
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<access_key>\w+)/(?P<scope>\d{8}/[\w-]+/\w+/aws4_request)"
    r",\s*SignedHeaders=(?P<signed>[\w;.-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


class Signer(S3SigV4Auth):  # type: ignore[misc]
    """Signs as the client did: the headers it named, at the time it said."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        """Leave none of the given headers out."""
        return request.headers


class Signed:
    """A request whose signature is right: whose it is, and how its chunks have to be signed."""

    def __init__(self, key: Key, region: str, request: AWSRequest, signature: str) -> None:
        self.key = key
        self.signature = signature
        self._request = request
        self._signer = Signer(Credentials(key.access_key, key.secret), "s3", region)

    def expected(self) -> str:
        """Return the signature of the request."""
        canonical = self._signer.canonical_request(self._request)
        return self._sign(self._signer.string_to_sign(self._request, canonical))

    def check_chunk(self, kind: str, digests: Iterable[str], signature: str) -> None:
        """Check the signature of a chunk, which covers the one before it."""
        stamp, scope = self._request.context["timestamp"], self._signer.credential_scope(self._request)
        text = "\n".join([f"AWS4-HMAC-SHA256-{kind}", stamp, scope, self.signature, *digests])
        if not hmac.compare_digest(self._sign(text), signature):
            raise does_not_match()
        self.signature = signature

    def _sign(self, text: str) -> str:
        return str(self._signer.signature(text, self._request))


def does_not_match() -> S3Error:
    """Return S3's refusal of a signature."""
    return S3Error(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
    )


def access_key(authorization: str | None) -> str | None:
    """Return the key that an Authorization header claims, for the log."""
    claim = _AUTHORIZATION.fullmatch((authorization or "").strip())
    return claim["access_key"] if claim else None


def check(
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    lookup: Callable[[str], Key | None],
    region: str,
    now_s: float,
) -> Signed:
    """Return whose request this is. Raises S3Error in S3's own words where it is not rightly signed."""
    given = {name.lower(): value for name, value in headers}
    if "authorization" not in given:
        raise S3Error("AccessDenied", "Access Denied")
    claim = _AUTHORIZATION.fullmatch(given["authorization"].strip())
    if claim is None:
        raise S3Error("AuthorizationHeaderMalformed", "The authorization header is malformed")
    key, token = lookup(claim["access_key"]), given.get("x-amz-security-token")
    if key is None or (key.token is not None and token is None):
        raise S3Error(
            "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
        )
    if token is not None and not hmac.compare_digest(token, key.token or ""):
        raise S3Error("InvalidToken", "The provided token is malformed or otherwise invalid.")
    if key.expires_s is not None and now_s >= key.expires_s:
        raise S3Error("ExpiredToken", "The provided token has expired.")
    stamp = given.get("x-amz-date", "")
    _check_scope(stamp, claim["scope"], region, now_s)
    names = set(claim["signed"].split(";"))
    if not {"host", *(name for name in given if name.startswith("x-amz-"))} <= names:
        raise S3Error("AccessDenied", "There were headers present in the request which were not signed")
    if "x-amz-content-sha256" not in given:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")

    request = AWSRequest(method, f"https://s3{target}")
    for name, value in headers:
        if name.lower() in names:
            request.headers.add_header(name.lower(), value)
    request.context["timestamp"] = stamp
    signed = Signed(key, region, request, claim["signature"])
    if not hmac.compare_digest(signed.expected(), signed.signature):
        raise does_not_match()
    return signed


def _check_scope(stamp: str, scope: str, region: str, now_s: float) -> None:
    try:
        signed_s = timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
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
    if scope != expected:
        raise S3Error(
            "AuthorizationHeaderMalformed",
            f"The authorization header is malformed; expecting the scope '{expected}'",
        )
