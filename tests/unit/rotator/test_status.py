"""`status`: tells the truth on one screen, and by its exit code."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Device, Time
from cryptography.hazmat.primitives.asymmetric import ec
from faultserver import Handler
from pki import DAY, Authority, now
from test_doctor import control_socket, listing

from edge_rotator import __version__, status
from edge_rotator.clock import format_iso
from edge_rotator.errors import FORCE, KINDS, PERMANENT
from edge_rotator.files import stat_of


@pytest.fixture
def seen(local: Device) -> Device:
    """A device of which nobody asks Litestream."""
    local.configure(delivery={"litestream_socket": ""})
    return local


def ask(device: Device, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON report, whose exit code is the command's."""
    capsys.readouterr()
    code = device.tick("status", "--json")
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == code
    return report


def screen(device: Device, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the human form, which fits 80 by 24; a fix is not cut for that."""
    capsys.readouterr()
    device.tick("status")
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80, text
    fix = text.partition("\n  its fix")[2].partition("\nreplica")[0].count("\n") + 1
    assert len(text.splitlines()) <= 24 + max(0, fix - 2), text
    return text


def renew(device: Device, authority: Authority, days: float, age: float) -> None:
    """Give the device a certificate of so many days, so many days ago."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    start = now() - age * DAY
    device.certificate.write_bytes(authority.sign("edge01", key, start=start, days=days))


def test_healthy(seen: Device, world: Time, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with control_socket(tmp_path / "s", listing(2.0)) as path:
        seen.configure(delivery={"litestream_socket": str(path)})
        assert seen.tick() == 0
        report = ask(seen, capsys)
        text = screen(seen, capsys)
    assert (report["level"], report["problems"]) == ("ok", [])
    assert report["credentials"]["remaining_s"] == pytest.approx(840, abs=2)
    assert report["replication"]["databases"]["/db0"]["age_s"] == pytest.approx(2, abs=2)
    assert (report["version"], report["replication"]["version"]) == (__version__, "0.5.17")
    for words in ("edge01, process mode", "role alias edge-litestream", "last 14 min more", "/db0: synced"):
        assert words in text
    assert "canary" not in text.replace(str(tmp_path), "")


def test_a_replica_that_was_ahead_is_told_and_is_no_reason_against_ok(
    seen: Device, world: Time, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written now is replicated; what the device lost is for people to bring back."""
    at = world.wall - 3600
    with control_socket(tmp_path / "s", listing(2.0, behind={"db0\x1b[2J": at})) as path:
        seen.configure(delivery={"litestream_socket": str(path)})
        assert seen.tick() == 0
        report = ask(seen, capsys)
        text = " ".join(screen(seen, capsys).split())
    assert (report["level"], list(report["replication"]["behind"].values())) == ("ok", [format_iso(at)])
    assert f"at {format_iso(at)}: rows that the device lost may be in its past" in text
    assert "was ahead of db0" in text and "\x1b" not in text


def test_never_rotated(seen: Device, capsys: pytest.CaptureFixture[str]) -> None:
    report = ask(seen, capsys)
    assert (report["level"], report["exit_code"]) == ("critical", 2)
    assert report["last_rotation"] is None
    text = screen(seen, capsys)
    assert "none that are valid" in text and "never" in text and "at the next tick" in text


def test_failure_with_good_credentials_says_how_long_they_last(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seen.tick() == 0
    seen.server.respond = lambda handler: handler.reply(403, b'{"message":"Access Denied"}')
    world.advance(500)
    assert seen.tick() == 31
    report = ask(seen, capsys)
    assert report["exit_code"] == 1
    assert report["last_error"]["current"] is True
    assert report["credentials"]["remaining_s"] == pytest.approx(340, abs=2)
    text = screen(seen, capsys)
    assert "policy_denied (now)" in text
    assert "AssumeRoleWithCertificate" in text.replace("\n" + " " * 14, " ")
    world.advance(1000)
    seen.server.respond = seen.server.good
    assert seen.tick() == 0
    assert ask(seen, capsys)["last_error"]["current"] is False
    assert "policy_denied (fixed since" in screen(seen, capsys)


def test_what_failed_is_not_fixed_while_the_next_attempt_hangs(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seen.tick() == 0
    seen.server.respond = lambda handler: handler.reply(403, b'{"message":"Access Denied"}')
    world.advance(500)
    assert seen.tick() == 31
    during: list[str] = []

    def hang(handler: Handler) -> None:
        during.append((seen.root / "state/state.json").read_text())
        handler.close_connection = True

    seen.server.respond = hang
    world.advance(1000)
    assert seen.tick() == 13
    (seen.root / "state/state.json").write_text(during[0])
    report = ask(seen, capsys)
    assert (report["last_error"]["class"], report["last_error"]["current"]) == ("policy_denied", True)
    assert "the last attempt failed: policy_denied" in report["problems"]
    text = screen(seen, capsys)
    assert "policy_denied (now)" in text
    assert "unless the one under way succeeds" in text


def test_the_wait_has_its_reason_and_who_wanted_it(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    seen.server.respond = lambda handler: handler.reply(429, b"", headers={"Retry-After": "1800"})
    assert seen.tick() == 14
    assert 1800 <= ask(seen, capsys)["next_attempt_in_s"] <= 1830
    text = " ".join(screen(seen, capsys).split())
    assert (
        "in 30 min (backoff after throttled; the provider asked for 1800 s, Retry-After), last tick 12 s ago"
        in text
    )
    world.advance(3601)
    seen.server.respond = lambda handler: handler.reply(403, b'{"message":"Access Denied"}')
    assert seen.tick() == 31
    assert "(backoff after policy_denied)," in " ".join(screen(seen, capsys).split())


def test_a_refused_pin_has_no_next_attempt(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    seen.server.respond = lambda handler: handler.reply(500, b"")
    assert seen.tick() == 15
    state = seen.state
    state["failure"]["kind"], state["latched"] = "pin_refused", True
    state["pin"] = stat_of(str(seen.pin_file))
    (seen.root / "state/state.json").write_text(json.dumps(state))
    assert ask(seen, capsys)["next_reason"] == "pin_latched"
    assert "next attempt  none until the PIN file changes, last tick 12 s ago" in screen(seen, capsys)


@pytest.mark.parametrize("name", KINDS)
def test_no_fix_is_cut_and_what_needs_somebody_says_what_to_run_afterwards(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    seen.server.respond = lambda handler: handler.reply(500, b"")
    assert seen.tick() == 15
    state = seen.state
    state["failure"]["kind"] = name
    state["failure"]["boot"] -= 301  # an interrupted one is not under way
    (seen.root / "state/state.json").write_text(json.dumps(state))
    text = " ".join(screen(seen, capsys).split())
    assert KINDS[name].fix in text
    assert (f"After repairing: `{FORCE}`" in text) == (KINDS[name].retry == PERMANENT)


def test_longest_of_everything_fits(
    seen: Device, world: Time, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many databases, long names, every problem at once."""
    seen.tick()
    state = seen.state
    longest = max(KINDS.values(), key=lambda kind: len(kind.advice))
    state["last_error"] = {"kind": longest.name, "detail": "word " * 60, "wall": world.wall}
    state["clock_skew"] = 5000.0
    (seen.root / "state/state.json").write_text(json.dumps(state))
    with control_socket(tmp_path / "s", listing(*[900.0] * 20, None)) as path:
        seen.configure(
            provider={"endpoint": "a" * 60 + ".credentials.iot.eu-central-1.amazonaws.com"},
            delivery={"litestream_socket": str(path)},
        )
        text = screen(seen, capsys)
    assert "never synced" in text
    assert "more, synced later" in text
    assert "more (--json)" in text


@pytest.mark.parametrize(
    ("days", "age", "code"),
    [
        (365, 0.1, 0),
        (365, 334, 0),
        (365, 336, 1),  # 29 of 365 days left: 30 days are the limit
        (30, 1, 0),  # a third of its validity is, where that is less
        (30, 19, 0),
        (30, 21, 1),
        (30, 31, 2),
    ],
)
def test_certificate(
    seen: Device,
    pki: tuple[Authority, Authority, Path],
    capsys: pytest.CaptureFixture[str],
    days: float,
    age: float,
    code: int,
) -> None:
    assert seen.tick() == 0
    renew(seen, pki[1], days, age)
    report = ask(seen, capsys)
    problems = [text for text in report["problems"] if "certificate" in text]
    assert (report["exit_code"], bool(problems)) == (code, bool(code))
    screen(seen, capsys)


def test_certificate_that_cannot_be_read(seen: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert seen.tick() == 0
    seen.certificate.unlink()
    assert "the certificate cannot be read" in ask(seen, capsys)["problems"]
    screen(seen, capsys)


def test_device_that_boots_in_1970_recovers_by_itself(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """No RTC, no network time yet: it says so; once the clock is set the next tick rotates."""
    right = world.wall
    world.wall = 100.0
    seen.server.now = lambda: right
    assert seen.tick() in (0, 50), "the fault server's TLS goes by the real clock"
    report = ask(seen, capsys)
    assert report["clock_set"] is False
    assert any("the clock is not set: it says 1970-01-01" in text for text in report["problems"])
    assert any("not valid yet" in text for text in report["problems"])
    assert abs(report["clock_skew_s"]) > 1e9
    world.wall = right
    seen.touched()
    assert seen.tick("due") == 0
    assert seen.tick() == 0
    report = ask(seen, capsys)
    assert report["clock_set"] is True
    assert abs(report["clock_skew_s"]) < 5
    assert report["last_error"]["current"] is False


def test_600_s_off(seen: Device, world: Time, capsys: pytest.CaptureFixture[str]) -> None:
    world.server = 600.0
    assert seen.tick() == 50
    report = ask(seen, capsys)
    assert report["credentials"]["remaining_s"] > 800, "good all the same"
    assert report["last_error"]["class"] == "clock_wrong"
    assert report["last_error"]["current"] is True
    assert report["clock_skew_s"] == pytest.approx(-600, abs=2)
    assert len(report["problems"]) == 1
    world.wall += 600
    world.server = 0.0
    seen.touched()
    assert seen.tick() == 0
    assert ask(seen, capsys)["last_error"]["current"] is False


def test_restart_that_failed(seen: Device, world: Time, capsys: pytest.CaptureFixture[str]) -> None:
    seen.configure(delivery={"mode": "environment"})
    seen.fake("restart", code=1)
    assert seen.tick() == 71
    report = ask(seen, capsys)
    assert report["restart_pending"] is True
    assert report["last_error"]["current"] is True
    assert "has yet to be restarted" in screen(seen, capsys)


def test_unknown(seen: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen.configure(service={"state_directory": "/nowhere"})
    assert seen.tick("status") == 3
    assert "cannot read /nowhere" in capsys.readouterr().out
    seen.config.write_text("nonsense")
    assert seen.tick("status", "--json") == 3
    assert json.loads(capsys.readouterr().out)["level"] == "unknown"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h 0 min"), (2 * 86400, "2 d"), (-5, "5 s")],
)
def test_span(seconds: float, text: str) -> None:
    assert status.span(seconds) == text


def test_a_restart_is_no_reason_to_warn(
    seen: Device, world: Time, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Monitoring must not flap with each rotation; nor may the grace outlast the restart."""
    socket = tmp_path / "not-listening-yet"
    seen.configure(delivery={"mode": "environment", "litestream_socket": str(socket)})
    seen.fake("restart", code=1)
    assert seen.tick() == 71
    both = ["Litestream has yet to be restarted", "Litestream does not answer"]
    assert ask(seen, capsys)["problems"] == both, "it failed"
    # What the rotator has saved before it restarts.
    (seen.root / "state/state.json").write_text(json.dumps({**seen.state, "last_error": None}))
    assert ask(seen, capsys)["problems"] == [], "it is under way"
    world.advance(31)
    assert ask(seen, capsys)["problems"] == both
    seen.fake("restart", code=0)
    assert seen.tick() == 0
    assert ask(seen, capsys)["problems"] == ["Litestream does not answer"], "it said that it was up"
    with control_socket(socket, listing(None, uptime=1.0)):
        assert ask(seen, capsys)["problems"] == [], "its first sync is yet to come"


@pytest.mark.parametrize(
    ("age", "facts", "problem"),
    [
        (15.0, {}, ""),
        (18.1, {}, "has not been replicated lately"),
        (None, {"uptime": 9.0}, ""),
        (None, {"uptime": 11.0}, "has not been replicated lately"),
        (0.0, {"status": ""}, ""),  # it waits for S3's first answer
        (0.0, {"missing": True}, "is gone, and what an application still writes to it is lost"),
        (0.0, {"replaced": True}, "was replaced, and Litestream has the old file open"),
        (0.0, {"status": "stopped"}, "is not being replicated: Litestream has it stopped"),
        (0.0, {"error": "disk full"}, "cannot be read by Litestream: disk full"),
    ],
)
def test_what_is_not_replicated(
    seen: Device,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    age: float | None,
    facts: dict[str, Any],
    problem: str,
) -> None:
    """Two intervals and 15 s are the limit; what Litestream cannot read it goes on to call synced."""
    with control_socket(tmp_path / "s", listing(age, **facts)) as path:
        seen.configure(delivery={"litestream_socket": str(path)})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert report["problems"] == ([f"/db0 {problem}"] if problem else [])


def test_the_interval_is_the_measure(
    seen: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with control_socket(tmp_path / "s", listing(600.0)) as path:
        seen.configure(delivery={"litestream_socket": str(path), "sync_interval": 300})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert report["problems"] == []
    assert report["replication"]["limit_s"] == 615


@pytest.mark.parametrize(
    ("room", "lack"),
    [
        ([33554432, 100], ""),
        ([1572864, 100], "1.5 MiB left"),
        ([33554432, 99], "99 inodes left"),
        ([33554432, None], ""),  # a file system that has no such thing
    ],
)
def test_room_for_the_database(
    seen: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str], room: list[int | None], lack: str
) -> None:
    with control_socket(tmp_path / "s", listing(0.0, rooms={"/srv": room})) as path:
        seen.configure(delivery={"litestream_socket": str(path)})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert report["problems"] == ([f"hardly any room in /srv: {lack}"] if lack else [])


def test_room_for_the_rotator(
    seen: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen.tick() == 0
    monkeypatch.setattr(status, "ROOM", 10**18)
    problems = ask(seen, capsys)["problems"]
    assert len(problems) == 2 and all("hardly any room in " in text for text in problems)


def test_a_database_that_litestream_does_not_know(
    seen: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with control_socket(tmp_path / "s", listing(1.0)) as path:
        seen.configure(delivery={"litestream_socket": str(path), "databases": ["/db0", "/app.db"]})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert (report["level"], report["problems"]) == ("warning", ["/app.db is not known to Litestream"])


@pytest.mark.parametrize(
    ("pattern", "problems"),
    [
        ("/*", []),
        ("/**/db[^1]", []),
        ("/*.db", ["/*.db matches no database"]),
        ("/srv/*", ["/srv/* matches no database"]),
        ("/srv/**/*", ["/srv/**/* matches no database"]),
    ],
)
def test_a_pattern_that_matches_nothing(
    seen: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: str, problems: list[str]
) -> None:
    """Litestream runs on with an empty directory, and nothing of what it is for is in S3."""
    with control_socket(tmp_path / "s", listing(1.0)) as path:
        seen.configure(delivery={"litestream_socket": str(path), "patterns": [pattern]})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert report["problems"] == problems
    assert report["exit_code"] == len(problems)
    # What the gate of a rollout waits for: each has been replicated.
    nothing = {"age_s": None, "known": False, "problem": "matches no database"}
    assert [report["replication"]["databases"].get(pattern)] == ([nothing] if problems else [None])


def test_a_sync_in_the_future_is_none(
    seen: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was dated by a clock that has been set back since."""
    with control_socket(tmp_path / "s", listing(-3600.0)) as path:
        seen.configure(delivery={"litestream_socket": str(path)})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert report["replication"]["databases"]["/db0"]["age_s"] is None
    assert report["problems"] == ["/db0 has not been replicated lately"]


def test_an_answer_made_to_harm(seen: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seen.tick() == 0
    for body in (
        b"[" * 200000,
        b'{"uptime_s": 9, "databases": [{"path": "/x\\u001b[2J", "error": "\\u001b[2J"}]}',
    ):
        with control_socket(tmp_path / "s", body) as path:
            seen.configure(delivery={"litestream_socket": str(path)})
            assert seen.tick("status") == 1
            assert "\x1b" not in capsys.readouterr().out
        path.unlink(missing_ok=True)


def test_a_state_made_to_harm(seen: Device, world: Time, capsys: pytest.CaptureFixture[str]) -> None:
    """The service's user writes it, root reads the screen."""
    assert seen.tick() == 0
    detail = "\x1b]0;title\x07 a\rb \x9b2J \u202e end"
    error = {"kind": "policy_denied", "detail": detail, "wall": world.wall}
    (seen.root / "state/state.json").write_text(json.dumps({**seen.state, "last_error": error}))
    text = screen(seen, capsys)
    assert "]0;title" in text
    assert "a b" in text
    assert text.replace("\n", "").isprintable()


def test_what_is_waited_for_goes_before_what_failed_after_it(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    seen.configure(delivery={"mode": "environment"})
    seen.fake("restart", code=1)
    assert seen.tick() == 71
    world.advance(700)
    seen.server.respond = lambda h: h.reply(403, b'{"message":"Access Denied"}')
    assert seen.tick() == 31
    assert seen.tick() == 71
    report = ask(seen, capsys)
    assert report["last_error"]["class"] == "policy_denied"
    assert "the last attempt failed: policy_denied" in report["problems"]
    assert "Litestream has yet to be restarted" in report["problems"]


def test_a_rotation_under_way_is_no_failure(
    seen: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seen.tick() == 0
    during: list[dict[str, Any]] = []

    def asked(handler: Handler) -> None:
        during.append(json.loads((seen.root / "state/state.json").read_text()))
        handler.close_connection = True

    seen.server.respond = asked
    world.advance(700)
    assert seen.tick() == 13
    (seen.root / "state/state.json").write_text(json.dumps(during[0]))
    assert during[0]["failure"]["kind"] == "interrupted"
    assert ask(seen, capsys)["problems"] == []
    world.advance(301)
    assert "the last attempt failed: interrupted" in ask(seen, capsys)["problems"]


def test_a_sync_is_told_in_any_time_zone(
    seen: Device, world: Time, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Litestream tells it in the device's."""
    at = datetime.fromtimestamp(world.wall - 3, timezone(timedelta(hours=1)))
    with control_socket(tmp_path / "s", listing(0.0, last_sync_at=at.isoformat())) as path:
        seen.configure(delivery={"litestream_socket": str(path)})
        assert seen.tick() == 0
        report = ask(seen, capsys)
    assert report["replication"]["databases"]["/db0"]["age_s"] == pytest.approx(3, abs=2)
