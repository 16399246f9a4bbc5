"""The provider's answer: parse it, check it, render it; never show a secret."""

from __future__ import annotations

from edge_rotator import quickjson
from edge_rotator.clock import format_iso, parse_iso
from edge_rotator.errors import RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SHORTEST_SHARE = 0.1  # of the expected life time; less is of no use to anybody


class Credentials:
    """One set of credentials. `expiration` is the provider's, in seconds since 1970."""

    __slots__ = ("access_key_id", "expiration", "secret_access_key", "session_token")

    def __init__(
        self, access_key_id: str, secret_access_key: str, session_token: str, expiration: int
    ) -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token
        self.expiration = expiration

    def __repr__(self) -> str:
        return f"<Credentials until {format_iso(self.expiration)}>"


def _field(raw: dict[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise RotatorError("answer_field_missing", f"no text in credentials.{key}")
    # Stricter than control characters alone: a credential is printable ASCII without blanks.
    if not all("!" <= c <= "~" for c in value):
        raise RotatorError("answer_control_character", f"in credentials.{key}")
    return value


def parse(body: bytes) -> Credentials:
    """Read the body of a 200 answer. Raises an `answer_…` error."""
    try:
        raw = quickjson.loads(body)
    except (ValueError, RecursionError):
        raise RotatorError("answer_not_json", f"{len(body)} bytes") from None
    inner = raw.get("credentials") if isinstance(raw, dict) else None
    if not isinstance(inner, dict):
        raise RotatorError("answer_field_missing", "no object `credentials`")
    expiration = parse_iso(_field(inner, "expiration"))
    if expiration is None:
        raise RotatorError("answer_field_missing", "credentials.expiration is no UTC time")
    return Credentials(
        _field(inner, "accessKeyId"),
        _field(inner, "secretAccessKey"),
        _field(inner, "sessionToken"),
        expiration,
    )


def check_lifetime(lifetime: float, expected: float, held: float) -> None:
    """Refuse what is no gain. All in seconds; `held` is what the present credentials still last.

    Raises `answer_expired` or `answer_short_lived`.
    """
    if lifetime <= 0:
        raise RotatorError("answer_expired", f"{-lifetime:.0f} s ago by the provider's clock")
    if lifetime < _SHORTEST_SHARE * expected:
        raise RotatorError("answer_short_lived", f"{lifetime:.0f} s, {expected:.0f} s expected")
    if lifetime < held:
        raise RotatorError("answer_short_lived", f"{lifetime:.0f} s, those held last {held:.0f} s")


def process_json(credentials: Credentials, expires: float) -> bytes:
    """Render for `credential_process`; `expires` is seconds since 1970 by our own clock."""
    return (
        quickjson.dumps(
            {
                "Version": 1,
                "AccessKeyId": credentials.access_key_id,
                "SecretAccessKey": credentials.secret_access_key,
                "SessionToken": credentials.session_token,
                "Expiration": format_iso(expires),
            }
        ).encode()
        + b"\n"
    )


def environment_file(credentials: Credentials, region: str) -> bytes:
    """Render for systemd's `EnvironmentFile=`, quoted so that every character stands for itself."""
    lines = []
    for name, value in (
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key),
        ("AWS_SESSION_TOKEN", credentials.session_token),
        ("AWS_DEFAULT_REGION", region),
    ):
        escaped = "".join("\\" + c if c in '\\"`$' else c for c in value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines).encode()
