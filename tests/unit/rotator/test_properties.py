"""What holds for every input (Hypothesis)."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rotator import clock, credentials, events, provider, quickjson, rotation, schedule
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import Clock
from edge_rotator.credentials import Credentials
from edge_rotator.errors import KINDS, RotatorError
from edge_rotator.provider import Answer
from edge_rotator.schedule import Facts
from edge_rotator.state import State

SECRET = "canary"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
FIELDS = ("accessKeyId", "secretAccessKey", "sessionToken", "expiration")
TIMES = st.floats(-1e18, 1e18) | st.integers(-(10**30), 10**30) | st.floats(0, 1e6)


def mutated(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The dictionary with some of its values replaced, some keys gone."""
    return st.fixed_dictionaries({}, optional={k: st.just(v) | JSON | TIMES for k, v in good.items()})


# The parser ----------------------------------------------------------------------------------


@given(st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()))
def test_parser_takes_anything(data: bytes) -> None:
    try:
        assert isinstance(credentials.parse(data), Credentials)
    except RotatorError as error:
        assert error.kind.name.startswith("answer_")


@given(
    mutated(dict.fromkeys(FIELDS[:3], SECRET) | {"expiration": "2018-01-18T09:18:06Z"}),
    st.sampled_from(FIELDS),
    st.text(max_size=3),
)
def test_parsed_fields_are_printable_and_errors_hold_none_of_them(
    inner: dict[str, Any], key: str, tail: str
) -> None:
    inner[key] = SECRET + tail
    try:
        made = credentials.parse(json.dumps({"credentials": inner}).encode())
    except RotatorError as error:
        assert SECRET not in str(error) + repr(error) + error.detail
        return
    for value in (made.access_key_id, made.secret_access_key, made.session_token):
        assert value.isascii() and value.isprintable() and " " not in value
    assert SECRET not in f"{made} {made!r} {[made]} {vars(credentials).get(str(made))}"
    for rendered in (credentials.process_json(made, 0), credentials.environment_file(made, "r")):
        assert rendered.isascii()
        assert rendered.count(b"\n") == (1 if rendered.startswith(b"{") else 4)


@given(st.text(max_size=50) | JSON.map(json.dumps))
def test_quickjson_reads_like_json(text: str) -> None:
    def refuse(name: str) -> float:
        raise ValueError(name)

    try:
        data = text.encode()
        expected = json.loads(data.decode(), parse_constant=refuse)
    except ValueError:
        with pytest.raises(ValueError):
            quickjson.loads(text.encode(errors="surrogatepass"))
        return
    assert quickjson.loads(data) == expected


@given(JSON)
def test_quickjson_writes_like_json(value: Any) -> None:
    try:
        expected = json.dumps(value, allow_nan=False)
    except ValueError:
        with pytest.raises(ValueError, match="finite"):
            quickjson.dumps(value)
        return
    assert quickjson.dumps(value) == expected


@given(st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31)))
def test_times_are_read_like_datetime(moment: datetime.datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=datetime.UTC)
    epoch = int(moment.timestamp())
    assert clock.parse_iso(moment.strftime("%Y-%m-%dT%H:%M:%SZ")) == epoch
    assert clock.parse_iso(moment.isoformat()) == epoch
    assert clock.parse_iso(moment.strftime("%Y-%m-%dT%H:%M:%S.125Z")) == epoch
    assert clock.parse_http(moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) == epoch
    assert clock.parse_iso(clock.format_iso(epoch + 0.9)) == epoch


@given(st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*)?(Z|[+-]..:?..)"))
def test_time_readers_take_anything(text: str) -> None:
    for value in (clock.parse_iso(text), clock.parse_http(text)):
        assert value is None or 0 <= value < 253402300861


# The state -----------------------------------------------------------------------------------

STATE = json.loads(State().to_json()) | {
    "success": {
        "wall": 1.0,
        "boot": 1.0,
        "boot_id": "b",
        "lifetime": 900.0,
        "usable": 840.0,
        "due_after": 400.0,
    },
    "failure": {
        "kind": "dns",
        "detail": "",
        "wall": 1.0,
        "boot": 1.0,
        "boot_id": "b",
        "count": 1,
        "delay": 60.0,
    },
}
NUMBERS = ("wall", "boot", "lifetime", "usable", "due_after", "delay")
RECORDS = {
    name: st.fixed_dictionaries(
        {
            key: TIMES
            if key in NUMBERS
            else st.sampled_from(["", "b", "c"])
            if key == "boot_id"
            else st.sampled_from(sorted(KINDS))
            if key == "kind"
            else st.just(value)
            for key, value in STATE[name].items()
        }
    )
    for name in ("success", "failure")
}
STATES = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={key: st.just(value) | JSON for key, value in STATE.items() if key != "version"}
    | {name: record | JSON for name, record in RECORDS.items()}
    | {"latched": st.booleans()},
).map(lambda data: json.dumps(data).encode())


@given(st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()) | STATES)
def test_state_loader_survives_anything(data: bytes) -> None:
    state = states.parse(data)
    rendered = state.to_json()
    assert states.parse(rendered).to_json() == rendered


# The schedule --------------------------------------------------------------------------------

CLOCKS = st.builds(Clock, st.floats(0, 1e11), st.floats(0, 1e9), st.sampled_from(["", "b", "c"]))
STATS = st.none() | st.just([1, 1, 1])
FACTS = st.builds(Facts, STATS, STATS, st.just({}))


@settings(max_examples=300)
@given(STATES, FACTS, CLOCKS, st.sampled_from(configuration.MODES))
def test_next_attempt_is_bounded(data: bytes, facts: Facts, now: Clock, mode: str) -> None:
    state = states.parse(data)
    decision = schedule.decide(state, facts, now, mode)
    assert 0 <= decision.wait <= schedule.MAX_LIFETIME
    if decision.work == schedule.NOTHING:
        assert decision.wait > 0
    if decision.reason in ("backoff", "pin_latched"):
        assert decision.wait <= 3961
    if not facts.credentials:
        assert decision.work == schedule.ROTATE or decision.reason in ("backoff", "pin_latched")
    assert schedule.remaining(state, now) >= 0


@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(-5, 10**12),
    st.floats(5, 43200),
    st.none() | st.floats(0, 1e15),
    st.floats(0, 0.999),
)
def test_backoff_is_bounded(
    kind: str, count: int, lifetime: float, retry_after: float | None, jitter: float
) -> None:
    delay = schedule.backoff(kind, count, lifetime, retry_after, jitter)
    assert 0 <= delay <= 3961
    if KINDS[kind].retry == "permanent":
        assert delay >= 900
    if KINDS[kind].retry == "transient":
        assert delay >= min(60, lifetime / 15)
        assert delay >= min(retry_after or 0, 3600)


@given(
    st.floats(5, 1e9),
    st.sampled_from(configuration.MODES),
    st.floats(0, 43200),
    st.text(min_size=1, max_size=20),
    st.floats(0, 3600),
)
def test_rotation_comes_well_before_the_end(
    lifetime: float, mode: str, margin: float, thing: str, safety: float
) -> None:
    due = schedule.due_after(lifetime, mode, margin, thing)
    assert 0 < due <= schedule.MAX_LIFETIME
    assert due < schedule.usable(lifetime, safety)
    assert schedule.usable(lifetime, safety) >= 0.9 * lifetime - 1e-6
    if lifetime >= 2 * margin:
        assert due <= lifetime - margin


# Secrets -------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(["detail", "thing", "x"]), st.text(), max_size=3))
def test_an_event_is_one_line(fields: dict[str, str]) -> None:
    for value in fields.values():
        quoted = events._quote(value)
        assert quoted.isprintable()
        assert quoted.startswith('"') or " " not in quoted


@given(st.integers(100, 599), st.dictionaries(st.text(max_size=8), st.text(max_size=30)), st.binary())
def test_any_answer_has_a_class(status: int, headers: dict[str, str], body: bytes) -> None:
    headers["retry-after"] = headers.get("x", "")
    error = provider.http_error(Answer(status, headers, body, 1e9))
    assert (error is None) == (status == 200)
    assert error is None or error.detail.isprintable()


@given(st.integers(0, 99), st.text(max_size=60))
def test_any_transport_error_has_a_class(code: int, message: str) -> None:
    assert provider.transport_error(code, message).kind.retry in ("permanent", "transient")


# Never a worse credential --------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(["good", "bad", "short", "expired", "error"]), st.floats(0, 2000), st.booleans()
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=2, max_size=8), st.sampled_from(configuration.MODES))
def test_no_run_stores_a_worse_credential(steps: list[tuple[str, float, bool]], mode: str) -> None:
    """Whatever the provider does: what is stored never ends before what we promised before."""
    world = Time()
    number = iter(range(100))

    def answer(kind: str) -> Callable[..., Answer]:
        def fetch(config: configuration.Config, pin: str) -> Answer:
            if kind == "error":
                raise RotatorError("connect", "refused")
            lifetime = {"good": 900, "bad": 900, "short": 200, "expired": -5}[kind]
            inner = dict.fromkeys(FIELDS[:3], f"{SECRET}{next(number)}")
            inner["expiration"] = clock.format_iso(world.wall + lifetime)
            if kind == "bad":
                inner["sessionToken"] = "with\nnewline"
            body = json.dumps({"credentials": inner}).encode()
            now = datetime.datetime.fromtimestamp(world.wall, datetime.UTC)
            date = now.strftime("%a, %d %b %Y %H:%M:%S GMT")
            return Answer(200, {"date": date}, body, world.wall)

        return fetch

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        patch.setattr(clock, "read_clock", world.read)
        patch.setattr(rotation, "read_clock", world.read)
        patch.setenv("STATE_DIRECTORY", name)
        path = root / "config.toml"
        path.write_text(
            '[provider]\nendpoint="x"\nrole_alias="x"\nthing_name="x"\nbackend="file"\n'
            f'[token]\nkey_file="/x"\n[delivery]\nmode="{mode}"\ndirectory="{name}"\ngroup=""\n'
            'region="eu-central-1"\nrestart_command=["/bin/true"]\n'
            f'[schedule]\nexpected_lifetime=900\n[service]\nuser="root"\nstate_directory="{name}"\n'
        )
        promised = 0.0
        stored = b""
        file = root / ("credentials.json" if mode == "process" else "litestream.env")
        for kind, pause, force in steps:
            patch.setattr(provider, "fetch", answer(kind))
            code = rotation.rotate(str(path), force)
            now = file.read_bytes() if file.exists() else b""
            state = states.load(name)
            if now != stored:
                assert kind in ("good", "short") and code == 0
                assert state.success and state.success.wall == world.wall
                # It may be promised less by the safety margin, never less than it really has.
                assert world.wall + state.success.lifetime >= promised
                promised = world.wall + state.success.usable
                assert state.success.usable < state.success.lifetime
                stored = now
            else:
                assert code or not force
            assert SECRET not in json.dumps(vars(state), default=str)
            assert sorted({p.name for p in root.iterdir()} - {"config.toml", "lock", "state.json"}) == (
                [file.name] if stored else []
            )
            world.advance(pause)
