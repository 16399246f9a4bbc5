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

from edge_rotator import cli, clock, delivery, errors, provider, rotation, schedule
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import Clock
from edge_rotator.delivery import Credentials
from edge_rotator.errors import KINDS, RotatorError
from edge_rotator.provider import Answer

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
        assert isinstance(delivery.parse(data), Credentials)
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
        made = delivery.parse(json.dumps({"credentials": inner}).encode())
    except RotatorError as error:
        assert SECRET not in str(error) + repr(error) + error.detail
        return
    for value in (made.access_key_id, made.secret_access_key, made.session_token):
        assert value.isascii() and value.isprintable() and " " not in value
    assert SECRET not in f"{made} {made!r} {[made]} {vars(delivery).get(str(made))}"
    for rendered in (delivery.process_json(made, 0), delivery.environment_file(made, "r")):
        assert rendered.isascii()
        assert rendered.count(b"\n") == (1 if rendered.startswith(b"{") else 4)


@given(st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31)))
def test_times_are_read_like_datetime(moment: datetime.datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=datetime.UTC)
    epoch = int(moment.timestamp())
    assert clock.parse_iso(moment.strftime("%Y-%m-%dT%H:%M:%SZ")) == epoch
    assert clock.parse_iso(moment.isoformat()) == epoch
    assert clock.parse_iso(moment.strftime("%Y-%m-%dT%H:%M:%S.125Z")) == epoch + 0.125
    assert clock.parse_iso(clock.format_iso(epoch + 0.9)) == epoch


@given(st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*)?(Z|[+-]..:?..)"))
def test_time_readers_take_anything(text: str) -> None:
    value = clock.parse_iso(text)
    assert value is None or 0 <= value < 253402300861


# The state -----------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "version": 2,
    "success": {"wall": 1.0, "boot": 1.0, "lifetime": 900.0, "usable": 840.0, "due_after": 400.0},
    "failure": {
        "kind": "dns",
        "detail": "",
        "reason": "schedule",
        "wall": 1.0,
        "boot": 1.0,
        "count": 1,
        "delay": 60.0,
    },
    "last_error": {"kind": "dns", "detail": "", "wall": 1.0},
    "latched": False,
    "pin": None,
    "restart_pending": False,
    "clock_skew": 0.0,
    "attempts": {},
}
NUMBERS = ("wall", "boot", "lifetime", "usable", "due_after", "delay")
RECORDS = {
    name: st.none()
    | st.fixed_dictionaries(
        {key: TIMES if key in NUMBERS else st.just(value) for key, value in FULL[name].items()}
    )
    for name in ("success", "failure", "last_error")
}
# Well formed but for one thing at most, so that not all of them are taken for fresh ones.
WELL_FORMED = st.fixed_dictionaries(
    {key: RECORDS.get(key, st.just(value)) for key, value in FULL.items()}
    | {"latched": st.booleans(), "restart_pending": st.booleans()}
)
DAMAGED = st.tuples(WELL_FORMED, st.sampled_from(sorted(FULL)), JSON).map(lambda t: {**t[0], t[1]: t[2]})
STATES = (WELL_FORMED | DAMAGED).map(lambda data: json.dumps(data).encode())


@given(st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()) | STATES)
def test_state_loader_survives_anything(data: bytes) -> None:
    state = states.parse(data)
    assert states.parse(state.to_json()) == state


# The schedule --------------------------------------------------------------------------------


@given(st.binary(max_size=60) | st.from_regex(rb"[ \t]*[0-9]{0,17}[ \t]*/?[a-z]*[ \t]*\n?"))
def test_next_may_be_anything(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "next").write_bytes(data)
        entry = schedule.read_next(name)
        assert entry is None or (entry.at >= 0 and entry.file.startswith("/"))
        assert schedule.is_due(name, 0) in (True, False)


CLOCKS = st.builds(Clock, st.floats(0, 1e10), st.floats(0, 1e9))


@settings(max_examples=60, deadline=None)
@given(STATES, CLOCKS, st.sampled_from(configuration.MODES), st.booleans(), st.booleans())
def test_whatever_the_state_a_tick_ends_and_asks_for_the_next(
    data: bytes, now: Clock, mode: str, present: bool, asked: bool
) -> None:
    """And so do those that tell of it."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        world = Time()
        world.wall, world.boot = now.wall, now.boot
        path, file = small_device(root, mode, world, patch)
        (root / "state.json").write_bytes(data)
        if present:
            file.touch()
        if asked:
            schedule.write_next(name, now.boot, "/")
        requests: list[object] = []

        def fetch(*arguments: object) -> Answer:
            requests.append(arguments)
            raise RotatorError("connect", "refused")

        patch.setattr(provider, "fetch", fetch)
        assert rotation.rotate(str(path)) in (0, KINDS["connect"].exit_code)
        assert len(requests) <= 1
        entry = schedule.read_next(name)
        assert entry and entry.at <= now.boot + schedule.MAX_LIFETIME + 1
        if requests:
            assert 30 <= entry.at - now.boot <= schedule.MAX_BACKOFF * 1.1 + 1
        for command in (["due"], ["status"], ["status", "--json"], ["metrics"]):
            assert cli.main(["--config", str(path), *command]) in (0, 1, 2)


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
    assert 0 <= delay <= 3600, "the hour that docs promise"
    if KINDS[kind].retry in ("permanent", "latch"):
        assert delay >= 900
    if KINDS[kind].retry == "transient":
        assert delay >= min(60, lifetime / 15) / 2
        assert delay >= min(retry_after or 0, 3600 - 450)


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
        quoted = errors._quote(value)
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


def small_device(root: Path, mode: str, world: Time, patch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Lay a device out whose provider is nobody; return its configuration and its credentials file."""
    world.rule(patch)
    path = root / "config.toml"
    path.write_text(
        '[provider]\nendpoint="x"\nrole_alias="x"\nthing_name="x"\nbackend="file"\n'
        f'[token]\nkey_file="/x"\n[delivery]\nmode="{mode}"\ndirectory="{root}"\ngroup=""\n'
        'region="eu-central-1"\nrestart_command=["/bin/true"]\nlitestream_socket=""\n'
        f'[schedule]\nexpected_lifetime=900\n[service]\nuser="root"\nstate_directory="{root}"\n'
        f'metrics_file="{root}/x.prom"\n'
    )
    return path, root / ("credentials.json" if mode == "process" else "litestream.env")


STEP = st.tuples(
    st.sampled_from(["good", "bad", "short", "expired", "error"]), st.floats(0, 2000), st.booleans()
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, min_size=2, max_size=8), st.sampled_from(configuration.MODES))
def test_no_run_stores_a_worse_credential(steps: list[tuple[str, float, bool]], mode: str) -> None:
    """Unless somebody forces it, what is stored never ends before what we promised before."""
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
        path, file = small_device(root, mode, world, patch)
        promised = 0.0
        stored = b""
        for kind, pause, force in steps:
            patch.setattr(provider, "fetch", answer(kind))
            code = rotation.rotate(str(path), force)
            now = file.read_bytes() if file.exists() else b""
            state = states.load(name)
            if now != stored:
                assert kind in ("good", "short") and code == 0
                assert state.success and state.success.wall == world.wall
                # It may be promised less by the safety margin, never less than it really has.
                assert force or world.wall + state.success.lifetime >= promised
                promised = world.wall + state.success.usable
                assert state.success.usable < state.success.lifetime
                stored = now
            else:
                assert code or not force
            assert SECRET not in json.dumps(vars(state), default=str)
            assert sorted(
                {p.name for p in root.iterdir()} - {"config.toml", "lock", "state.json", "next"}
            ) == ([file.name] if stored else [])
            world.advance(pause)
