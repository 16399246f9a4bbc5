"""Parsing, checking, rendering and writing credentials."""

from __future__ import annotations

import grp
import json
import os
import stat
from pathlib import Path

import pytest

from edge_rotator import delivery
from edge_rotator.config import Config
from edge_rotator.delivery import Credentials
from edge_rotator.errors import RotatorError

GOOD = {
    "accessKeyId": "ASIA!",
    "secretAccessKey": "canary-secret~",
    "sessionToken": "canary-token==",
    "expiration": "2018-01-18T09:18:06Z",
}
EXPIRATION = 1516267086


def body(**changes: object) -> bytes:
    inner = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    return json.dumps({"credentials": inner}).encode()


def refused(data: bytes) -> RotatorError:
    with pytest.raises(RotatorError) as caught:
        delivery.parse(data)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


def test_parse() -> None:
    parsed = delivery.parse(body())
    assert parsed.access_key_id == GOOD["accessKeyId"]
    assert parsed.secret_access_key == GOOD["secretAccessKey"]
    assert parsed.session_token == GOOD["sessionToken"]
    assert parsed.expiration == EXPIRATION
    assert delivery.parse(b" \r\n" + body(extra=[1, {"a": None}]) + b"\n").expiration == EXPIRATION


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("value", [None, "", 7, [], {}, True])
def test_a_field_that_is_missing(key: str, value: object) -> None:
    error = refused(body(**{key: value}))
    assert error.kind.name == "answer_field_missing"
    assert error.detail == f"no text in credentials.{key}"


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("character", ["\x00", "\n", "\x1f", " ", "\x7f", "é", "\u2028", "\ud800"])
def test_a_character_no_credential_has(key: str, character: str) -> None:
    error = refused(body(**{key: f"canary{character}"}))
    assert error.kind.name == "answer_control_character"
    assert error.detail == f"in credentials.{key}"


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        (b"", "answer_not_json", "0 bytes"),
        (b"canary", "answer_not_json", "6 bytes"),
        (b"[" * 100000, "answer_not_json", "100000 bytes"),
        (b"[]", "answer_field_missing", "no object `credentials`"),
        (b"null", "answer_field_missing", "no object `credentials`"),
        (b"{}", "answer_field_missing", "no object `credentials`"),
        (b'{"credentials": ["canary"]}', "answer_field_missing", "no object `credentials`"),
        (
            body(expiration="canary"),
            "answer_field_missing",
            "credentials.expiration is no UTC time",
        ),
    ],
)
def test_what_is_no_answer(data: bytes, kind: str, detail: str) -> None:
    error = refused(data)
    assert (error.kind.name, error.detail) == (kind, detail)


@pytest.mark.parametrize(
    ("lifetime", "expected", "held", "kind", "detail"),
    [
        (0, 900, 0, "answer_expired", "0 s ago by the provider's clock"),
        (-90.0, 900, 0, "answer_expired", "90 s ago by the provider's clock"),
        (89.9, 900, 0, "answer_short_lived", "90 s, 900 s expected"),
        (90.0, 900, 0, "", ""),
        (0.5, 5, 0, "", ""),
        (900, 900, 900, "", ""),
        (809, 900, 810, "answer_short_lived", "809 s, those held last 810 s"),
        (810, 900, 43140, "", ""),
        (43200, 900, 43199, "", ""),
    ],
)
def test_check_lifetime(lifetime: float, expected: float, held: float, kind: str, detail: str) -> None:
    if not kind:
        delivery.check_lifetime(lifetime, expected, held)
        return
    with pytest.raises(RotatorError) as caught:
        delivery.check_lifetime(lifetime, expected, held)
    assert (caught.value.kind.name, caught.value.detail) == (kind, detail)


HOUR, YEAR = 3600.0, 31536000.0
NOW = 1.8e9


@pytest.mark.parametrize(
    # What an alias of an hour grants; how far Date and our clock are off the truth.
    ("granted", "date", "ours", "expected", "lifetime", "skew"),
    [
        # Both are right.
        (HOUR, 0, 0, HOUR, HOUR, 0),
        (900, 0, 0, HOUR, 900, 0),
        (12 * HOUR, 0, 0, HOUR, 12 * HOUR, 0),
        (20 * HOUR, 0, 0, HOUR, 12 * HOUR, 0),
        # Our clock is wrong: by Date.
        (HOUR, 0, 240, HOUR, HOUR, -240),
        (HOUR, 0, -240, HOUR, HOUR, 240),
        (HOUR, 0, 11 * HOUR, HOUR, HOUR, -11 * HOUR),
        (HOUR, 0, -11 * HOUR, HOUR, HOUR, 11 * HOUR),
        (HOUR, 0, -20 * YEAR, HOUR, HOUR, 20 * YEAR),
        (900, 0, -20 * YEAR, HOUR, 900, 20 * YEAR),
        (12 * HOUR, 0, -20 * YEAR, HOUR, HOUR, 20 * YEAR),
        # Date is wrong: by our clock.
        (HOUR, -240, 0, HOUR, HOUR, -240),
        (HOUR, 240, 0, HOUR, HOUR - 240, 240),
        (HOUR, -11 * HOUR, 0, HOUR, HOUR, 0),
        (HOUR, 11 * HOUR, 0, HOUR, HOUR, 0),
        (HOUR, -20 * YEAR, 0, HOUR, HOUR, 0),
        (HOUR, 20 * YEAR, 0, HOUR, HOUR, 0),
        # Both are: never more than was expected.
        (HOUR, -11 * HOUR, -20 * YEAR, HOUR, HOUR, 20 * YEAR - 11 * HOUR),
        (HOUR, -11 * HOUR, -11 * HOUR, HOUR, 12 * HOUR, 0),  # nothing here can tell
        # No Date.
        (HOUR, None, 0, HOUR, HOUR, 0),
        (900, None, 0, HOUR, 900, 0),
        (12 * HOUR, None, 0, HOUR, HOUR, 0),
        (HOUR, None, -20 * YEAR, HOUR, HOUR, 0),
        (HOUR, None, 20 * YEAR, HOUR, HOUR - 20 * YEAR, 0),
    ],
)
def test_who_lies_the_clock_or_the_date(
    granted: float, date: float | None, ours: float, expected: float, lifetime: float, skew: float
) -> None:
    told = None if date is None else NOW + date
    judged = delivery.judge_times(NOW + granted, told, NOW + ours, expected)
    assert judged == (lifetime, skew)


def test_process_json() -> None:
    text = delivery.process_json(delivery.parse(body()), EXPIRATION + 0.9)
    assert text.endswith(b"}\n")
    assert json.loads(text) == {
        "Version": 1,
        "AccessKeyId": GOOD["accessKeyId"],
        "SecretAccessKey": GOOD["secretAccessKey"],
        "SessionToken": GOOD["sessionToken"],
        "Expiration": GOOD["expiration"],
    }


def test_environment_file() -> None:
    made = Credentials('A"B', "C\\D$E`F", "GX==", EXPIRATION)
    assert delivery.environment_file(made, "eu-central-1").decode().splitlines() == [
        'AWS_ACCESS_KEY_ID="A\\"B"',
        'AWS_SECRET_ACCESS_KEY="C\\\\D\\$E\\`F"',
        'AWS_SESSION_TOKEN="GX=="',
        'AWS_DEFAULT_REGION="eu-central-1"',
    ]
    assert delivery.environment_file(made, "eu-central-1").endswith(b'"\n')


def test_repr_tells_no_secret() -> None:
    made = delivery.parse(body())
    for secret in (made.access_key_id, made.secret_access_key, made.session_token):
        assert secret not in repr(made) + str(made)


MADE = Credentials("AKID", "canary-secret", "canary-token", 0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config()
    made.mode = "process"
    made.directory = str(tmp_path)
    made.group = grp.getgrgid(os.getgid()).gr_name
    made.region = "eu-central-1"
    made.restart_command = []
    made.databases = []
    made.litestream_socket = ""
    return made


def test_process_mode(config: Config) -> None:
    delivery.write(config, MADE, 1516267086)
    path = Path(config.credentials_file)
    assert path.name == "credentials.json"
    assert json.loads(path.read_text())["Expiration"] == "2018-01-18T09:18:06Z"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_environment_mode(config: Config) -> None:
    config.mode = "environment"
    delivery.write(config, MADE, 0)
    path = Path(config.credentials_file)
    assert path.name == "litestream.env"
    assert 'AWS_DEFAULT_REGION="eu-central-1"' in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_group(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []
    monkeypatch.setattr(delivery, "write_atomic", lambda path, data, mode, gid: given.append(gid))
    delivery.write(config, MADE, 0)
    config.group = ""
    delivery.write(config, MADE, 0)
    assert given == [os.getgid(), None]
    config.group = "no-such-group"
    with pytest.raises(RotatorError) as caught:
        delivery.write(config, MADE, 0)
    assert caught.value.kind.name == "write_failed"
    assert caught.value.detail == "no group no-such-group (delivery.group)"
    assert len(given) == 2


def test_directory_missing(config: Config) -> None:
    config.directory += "/none"
    with pytest.raises(RotatorError) as caught:
        delivery.write(config, MADE, 0)
    assert caught.value.kind.name == "write_failed"
    assert caught.value.detail == f"{config.credentials_file}: No such file or directory"
    assert caught.value.__suppress_context__
