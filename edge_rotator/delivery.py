"""The credentials: check the provider's answer, write the file that Litestream uses, never show a secret."""

from __future__ import annotations

import grp
import json
import re
from typing import Any

from edge_rotator.clock import format_iso, parse_iso
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError
from edge_rotator.files import read_regular, write_atomic
from edge_rotator.schedule import MAX_LIFETIME

CLOCK_TOLERANCE = 300.0  # s; S3 refuses signatures that are 900 s off
_MAX_FILE = 65536
_SHORTEST_SHARE = 0.1  # of the expected life time; less is of no use to anybody
_AS_EXPECTED = 0.9  # of the expected life time; the rest is the way here and the alias' rounding


class Credentials:
    """One set of credentials; its repr tells none. `expiration` is the provider's, in seconds since 1970."""

    def __init__(
        self, access_key_id: str, secret_access_key: str, session_token: str, expiration: float
    ) -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token
        self.expiration = expiration


def _text(raw: dict[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise RotatorError("answer_field_missing", f"no text in credentials.{key}")
    # A credential is printable ASCII without blanks.
    if not all("!" <= c <= "~" for c in value):
        raise RotatorError("answer_control_character", f"in credentials.{key}")
    return value


def parse(body: bytes) -> Credentials:
    """Read the body of a 200 answer. Raises an `answer_…` error."""
    try:
        raw = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise RotatorError("answer_not_json", f"{len(body)} bytes") from None
    inner = raw.get("credentials") if isinstance(raw, dict) else None
    if not isinstance(inner, dict):
        raise RotatorError("answer_field_missing", "no object `credentials`")
    expiration = parse_iso(_text(inner, "expiration"))
    if expiration is None:
        raise RotatorError("answer_field_missing", "credentials.expiration is no UTC time")
    return Credentials(
        _text(inner, "accessKeyId"),
        _text(inner, "secretAccessKey"),
        _text(inner, "sessionToken"),
        expiration,
    )


def judge_times(expiration: float, date: float | None, now: float, expected: float) -> tuple[float, float]:
    """Return life time and clock skew: server minus ours, 0.0 where `Date` is not believed. All in seconds.

    `expiration` and `Date` come from one server, so their difference needs no clock of ours. Either
    clock may lie, though: ours by decades, on a device that has none without power, `Date` in one
    answer. The life time that was expected is the judge: if it fits our clock and not `Date`, `Date`
    lies. More than was expected is believed only as far as both clocks say so.
    """
    by_clock = expiration - now
    by_date = by_clock if date is None else expiration - date
    if date is None or abs(by_clock - expected) <= CLOCK_TOLERANCE < abs(by_date - expected):
        return min(by_clock, expected), 0.0
    skew = date - now
    agreed = by_clock if abs(skew) <= CLOCK_TOLERANCE else expected
    return min(by_date, max(expected, agreed), MAX_LIFETIME), skew


def check_lifetime(lifetime: float, expected: float, held: float) -> None:
    """Refuse what is no gain. All in seconds; `held` is what the present credentials still last.

    What lives as long as expected is always taken: those held may only claim to last longer.

    Raises `answer_expired` or `answer_short_lived`.
    """
    if lifetime <= 0:
        raise RotatorError("answer_expired", f"{-lifetime:.0f} s ago by the provider's clock")
    if lifetime < _SHORTEST_SHARE * expected:
        raise RotatorError("answer_short_lived", f"{lifetime:.0f} s, {expected:.0f} s expected")
    if lifetime < min(held, _AS_EXPECTED * expected):
        raise RotatorError("answer_short_lived", f"{lifetime:.0f} s, those held last {held:.0f} s")


def process_json(credentials: Credentials, expires: float) -> bytes:
    """Render for `credential_process`; `expires` is seconds since 1970 by our own clock."""
    data = {
        "Version": 1,
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
        "SessionToken": credentials.session_token,
        "Expiration": format_iso(expires),
    }
    return json.dumps(data).encode() + b"\n"


def environment_file(credentials: Credentials, region: str) -> bytes:
    """Render as systemd's `EnvironmentFile=` is written, quoted so that every character stands for itself."""
    values = {
        "AWS_ACCESS_KEY_ID": credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
        "AWS_SESSION_TOKEN": credentials.session_token,
        "AWS_DEFAULT_REGION": region,
    }
    lines = []
    for name, value in values.items():
        escaped = "".join("\\" + c if c in '\\"`$' else c for c in value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines).encode()


def read(config: Config) -> Credentials:
    """Read what was handed over; its expiration is left at 0. Raises `file_unreadable`."""
    path = config.credentials_file
    try:
        text = read_regular(path, _MAX_FILE).decode()
        if config.mode == "process":
            raw = json.loads(text)
            values = [raw[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
        else:
            pairs = dict(line.split("=", 1) for line in text.splitlines())
            quoted = [
                pairs[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            ]
            values = [re.sub(r"\\(.)", r"\1", value[1:-1]) for value in quoted]
        key, secret, session = (str(value) for value in values)
        return Credentials(key, secret, session, 0.0)
    except OSError as exc:
        raise RotatorError("file_unreadable", f"{path}: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise RotatorError("file_unreadable", f"{path} is not what the rotator writes") from None


def _gid(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise RotatorError("write_failed", f"no group {group} (delivery.group)") from None


def write(config: Config, credentials: Credentials, expires: float) -> None:
    """Replace the credentials file; `expires` in seconds since 1970 by our own clock.

    Raises `write_failed`; the old file is then still there.
    """
    if config.mode == "process":
        data = process_json(credentials, expires)
    else:
        data = environment_file(credentials, config.region)
    try:
        write_atomic(config.credentials_file, data, 0o640, _gid(config.group))
    except OSError as exc:
        raise RotatorError("write_failed", f"{config.credentials_file}: {exc.strerror}") from None
