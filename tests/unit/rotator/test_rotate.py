"""The whole command against a real token and a real TLS server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import PIN, THING, Device, Time
from faultserver import Handler, credentials_body
from test_doctor import control_socket

from edge_rotator import cli, lock
from edge_rotator import config as configuration
from edge_rotator.errors import RotatorError


def test_rotates_and_is_then_not_due(device: Device) -> None:
    done = device.run("rotate")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("event=rotated "), done.stderr
    request = device.server.requests[0]
    assert request["path"] == "/role-aliases/edge-litestream/credentials"
    assert request["headers"]["x-amzn-iot-thingname"] == THING
    assert request["subject"] == {"commonName": THING}
    stored = json.loads(device.credentials.read_text())
    assert stored.keys() == {
        "Version",
        "AccessKeyId",
        "SecretAccessKey",
        "SessionToken",
        "Expiration",
    }
    assert device.credentials.stat().st_mode & 0o7777 == 0o640
    assert device.run("due").returncode == 1
    again = device.run("rotate")
    assert (again.returncode, again.stderr) == (0, "")
    assert len(device.server.requests) == 1
    assert device.run("rotate", "--force").returncode == 0
    assert len(device.server.requests) == 2


def test_environment_mode_restarts_once_per_change_and_retries(device: Device) -> None:
    device.configure(delivery={"mode": "environment"})
    log = device.fake("restart", code=1)
    failed = device.run("rotate")
    assert failed.returncode == 71, failed.stderr
    assert device.environment_file.stat().st_mode & 0o7777 == 0o640
    assert device.run("due").returncode == 0
    assert json.loads(device.run("status", "--json").stdout)["restart_pending"] is True
    log = device.fake("restart")
    assert device.run("rotate").returncode == 0
    assert len(device.server.requests) == 1
    assert device.run("due").returncode == 1
    assert log.read_text() == "\n\n"
    lines = dict(line.split("=", 1) for line in device.environment_file.read_text().splitlines())
    assert lines["AWS_DEFAULT_REGION"] == '"eu-central-1"'
    assert lines.keys() == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_DEFAULT_REGION",
    }


def test_refused_pin_latches_until_the_file_changes(device: Device) -> None:
    device.pin_file.write_text("wrong-pin")
    assert device.run("rotate").returncode == 65
    for _ in range(3):
        assert device.run("due").returncode == 1
        assert device.run("rotate").stderr == ""
    assert device.run("rotate", "--force").returncode == 65
    assert device.run("status").returncode == 2
    # Whatever else was touched or set.
    device.touched()
    assert device.run("rotate").stderr == ""
    assert device.run("due").returncode == 1
    device.pin_file.write_text(PIN)
    device.touched()
    assert device.run("due").returncode == 0
    assert device.run("rotate").returncode == 0
    assert device.state["latched"] is False


def test_failure_keeps_good_credentials_and_waits(device: Device) -> None:
    assert device.run("rotate").returncode == 0
    before = device.credentials.read_bytes()
    device.server.respond = lambda h: h.reply(403, b'{"message":"Access Denied"}')
    refused = device.run("rotate", "--force")
    assert refused.returncode == 31
    assert "error=policy_denied" in refused.stderr
    assert device.credentials.read_bytes() == before
    status = json.loads(device.run("status", "--json").stdout)
    assert status["last_error"]["class"] == "policy_denied"
    assert 800 < status["credentials"]["remaining_s"] <= 840


def test_missing_credentials_are_due_at_once(device: Device) -> None:
    assert device.run("rotate").returncode == 0
    device.credentials.unlink()
    assert device.run("due").returncode == 0
    assert device.run("rotate").returncode == 0
    assert device.credentials.exists()


def test_renewal_after_an_outage_asks_litestream_to_sync(device: Device) -> None:
    asked: list[str] = []
    with control_socket(device.root / "query", b"exit 0\n", asked) as path:
        databases = ["/var/lib/a.db", "/var/lib/b.db"]
        device.configure(delivery={"databases": databases, "litestream_socket": str(path)})
        assert device.run("rotate").returncode == 0
        assert asked == ["sync /var/lib/a.db", "sync /var/lib/b.db"]
        assert device.run("rotate", "--force").returncode == 0
    assert len(asked) == 2


def test_life_time_of_twenty_seconds(device: Device) -> None:
    device.configure(schedule={"expected_lifetime": 20, "refresh_margin": 5, "safety_margin": 3})
    device.server.lifetime = 20
    assert device.run("rotate").returncode == 0
    success = device.state["success"]
    assert 8 <= success["due_after"] <= 10
    assert 16 < success["usable"] < 19


def test_no_secret_outside_the_credentials_file(device: Device) -> None:
    outputs = [
        device.run(*command)
        for command in (
            ("rotate",),
            ("rotate", "--dry-run"),
            ("status",),
            ("status", "--json"),
            ("doctor", "--login"),
            ("csr",),
        )
    ]
    text = "".join(done.stdout + done.stderr for done in outputs)
    text += (device.root / "state/state.json").read_text()
    assert "canary" not in text.replace(str(device.root), "")


def test_a_configuration_that_cannot_be_read(local: Device, world: Time) -> None:
    assert local.tick() == 0
    local.config.write_text("nonsense")
    assert local.tick() == 3
    # What cannot be told counts as work, so that `rotate` says what is wrong.
    assert local.tick("due") == 0


def test_only_one_at_a_time(
    local: Device, world: Time, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held = local.lock()
    try:
        assert local.tick() == 0
        assert capfd.readouterr().err == "event=skipped reason=busy\n"
        monkeypatch.setattr(lock, "_TRIES", 2)
        assert local.tick("rotate", "--force") == 75
        assert "error=busy" in capfd.readouterr().err
    finally:
        os.close(held)
    assert local.server.requests == []
    assert local.tick() == 0


def test_without_memory_there_is_no_request(local: Device, world: Time) -> None:
    (local.root / "run").rmdir()
    assert local.tick() == 70
    shutil.rmtree(local.root / "state")
    assert local.tick() == 72
    assert local.server.requests == []


@pytest.fixture
def worn(local: Device, world: Time) -> Device:
    """A device whose state cannot be saved: a disk that is full, an SD card that is read-only now."""
    (local.root / "state/state.json").mkdir()
    return local


def test_a_state_that_cannot_be_saved_does_not_stop_rotation(
    worn: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    assert worn.tick() == 0
    assert capfd.readouterr().err.count("event=state_not_saved") == 1, "told once in a run"
    assert worn.tick("due") == 1
    world.advance(450)
    assert worn.tick() == 0
    assert len(worn.server.requests) == 2
    (worn.root / "state/state.json").rmdir()
    assert worn.tick("rotate", "--force") == 0
    assert worn.state["attempts"] == {"rotated": 1}


def test_a_state_that_cannot_be_saved_makes_nobody_hammer(worn: Device, world: Time) -> None:
    worn.server.respond = lambda h: h.reply(500, b"")
    for _ in range(120):
        worn.tick()
        world.advance(60)
    assert len(worn.server.requests) == 8, "every 15 minutes, for the number of failures is not known"


def test_a_restart_that_failed_without_memory_makes_nobody_hammer(worn: Device, world: Time) -> None:
    worn.configure(delivery={"mode": "environment"})
    worn.fake("restart", code=1)
    for _ in range(60):
        worn.tick()
        world.advance(60)
    assert len(worn.server.requests) == 4


def test_a_refused_pin_is_not_tried_again_in_this_boot_without_memory(
    worn: Device, world: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise RotatorError("pin_refused", "")

    monkeypatch.setattr("edge_rotator.provider.fetch", refuse)
    assert worn.tick() == 65
    world.advance(1e9)
    assert worn.tick() == 0
    assert len(asked) == 1


def test_write_that_fails(local: Device, world: Time, capfd: pytest.CaptureFixture[str]) -> None:
    assert local.tick() == 0
    before = local.credentials.read_bytes()
    local.configure(delivery={"group": "no-such-group"})
    assert local.tick("rotate", "--force") == 70
    assert "no-such-group" in capfd.readouterr().err
    assert local.credentials.read_bytes() == before
    assert local.state["failure"]["kind"] == "write_failed"


def test_dry_run_stores_nothing(local: Device, world: Time, capfd: pytest.CaptureFixture[str]) -> None:
    assert local.tick("rotate", "--dry-run") == 0
    assert "event=dry_run thing=edge01 lifetime_s=" in capfd.readouterr().err
    assert not local.credentials.exists()
    local.server.respond = lambda h: h.reply(403, b'{"message":"Access Denied"}')
    assert local.tick("rotate", "--dry-run") == 31
    # An attempt counts, whoever made it.
    assert local.tick("due") == 1


def test_a_fault_of_our_own(
    local: Device,
    world: Time,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("canary-secret")

    monkeypatch.setattr("edge_rotator.delivery.write", broken)
    assert local.tick() == 1
    err = capfd.readouterr().err
    assert "error=internal_error" in err and "KeyError at test_rotate.py:" in err
    assert "canary" not in err
    # It counts as an attempt, too.
    assert local.state["failure"]["kind"] == "internal_error"
    assert local.tick("due") == 1
    monkeypatch.setattr(configuration, "load", broken)
    assert local.tick("due") == 0


def test_interrupted_by_the_keyboard(local: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(configuration, "load", stopped)
    assert local.tick() == 130


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_refused(local: Device, world: Time, capfd: pytest.CaptureFixture[str]) -> None:
    local.configure(service={"user": "nobody"})
    for command in (("rotate",), ("rotate", "--dry-run")):
        assert local.tick(*command) == 4
        assert "error=wrong_user" in capfd.readouterr().err
    assert local.server.requests == []


def test_sync_that_fails_is_told(
    local: Device, world: Time, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    with control_socket(local.root / "query", b"exit 1\n") as path:
        local.configure(delivery={"databases": ["/a.db"], "litestream_socket": str(path)})
        assert local.tick() == 0
    assert "<4>event=sync_requested databases=1 failed=1\n" in capfd.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("rotate", "due", "status", "metrics", "doctor", "csr"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["dance"])
    assert caught.value.code == 2


def test_flash_is_spared_unless_the_state_must_outlive_the_boot(
    local: Device, world: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    credentials = [f"{local.root}/run/.credentials.json.tmp", f"{local.root}/run"]
    state = [f"{local.root}/state/.state.json.tmp", f"{local.root}/state"]
    assert local.tick() == 0
    assert synced == credentials
    synced.clear()
    local.server.respond = lambda h: h.reply(500, b"")
    assert local.tick("rotate", "--force") == 15
    assert synced == state
    synced.clear()
    local.server.respond = local.server.good
    assert local.tick("rotate", "--force") == 0
    assert synced == credentials + state


def test_a_new_configuration_is_tried_while_the_old_credentials_last(
    local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    assert local.tick() == 0
    assert local.tick("due") == 1
    local.configure(provider={"role_alias": "another"})
    local.touched()
    assert local.tick("due") == 0
    local.server.respond = lambda h: h.reply(404, b'{"message":"Role alias does not exist"}')
    assert local.tick() == 33
    assert local.tick("due") == 1, "the wait of its class holds"
    world.advance(1000)
    assert local.tick("due") == 0, "and it is not forgotten"
    local.server.respond = local.server.good
    capfd.readouterr()
    assert local.tick() == 0
    assert "reason=configuration" in capfd.readouterr().err
    assert local.tick("due") == 1


@pytest.mark.parametrize(
    ("mode", "step", "asked"),
    [("process", -3600, True), ("process", 3600, False), ("environment", -3600, False)],
)
def test_a_clock_set_back_makes_litestream_forget_the_old_expiry(
    mode: str, step: float, asked: bool, local: Device, world: Time
) -> None:
    """In process mode it asks again at the expiry it was told, by the wall clock."""
    local.configure(delivery={"mode": mode})
    assert local.tick() == 0
    request = local.root / "run/restart-litestream"
    assert not request.exists()
    world.wall += step
    local.touched()
    assert local.tick() == 0
    assert request.exists() == asked
    assert local.tick("due") == 1


def test_a_clock_set_back_is_noticed_however_long_the_outage_was(local: Device, world: Time) -> None:
    """By the time that passed the credentials have expired; by the clock, Litestream's have not."""
    assert local.tick() == 0
    world.wall -= 7200
    local.server.respond = lambda h: h.reply(503, b"")
    world.advance(1800)
    assert local.tick() != 0
    local.server.respond = local.server.good
    world.advance(1800)
    assert local.tick() == 0
    assert (local.root / "run/restart-litestream").exists()


@pytest.mark.parametrize("off", [-240, -39600, -1e9, 39600, 1e9], ids=lambda off: f"{off:+.0f}s")
def test_a_date_that_lies_neither_lengthens_credentials_nor_accuses_our_clock(
    off: float, local: Device, world: Time, capfd: pytest.CaptureFixture[str]
) -> None:
    local.server.respond = lambda h: h.reply(200, credentials_body(900, world.wall), date=world.wall + off)
    assert local.tick() == 0
    assert local.state["success"]["lifetime"] == pytest.approx(900, abs=2)
    assert abs(local.state["clock_skew"]) <= 300
    assert ("event=date_ignored" in capfd.readouterr().err) == (abs(off) > 300)
    local.server.respond = local.server.good
    world.advance(450)
    assert local.tick() == 0
    assert len(local.server.requests) == 2


@pytest.mark.parametrize("arguments", [(), ("rotate", "--force")])
def test_a_good_answer_is_taken_whatever_those_held_claim(
    arguments: tuple[str, ...], local: Device, world: Time
) -> None:
    assert local.tick() == 0
    state = local.state
    state["success"] |= {"lifetime": 43200.0, "usable": 43140.0}
    (local.root / "state/state.json").write_text(json.dumps(state))
    world.advance(500)
    assert local.tick(*arguments) == 0
    assert local.state["success"]["lifetime"] == pytest.approx(900, abs=2)


def test_who_forces_gets_valid_credentials_however_short(local: Device, world: Time) -> None:
    local.server.lifetime = 3600
    assert local.tick() == 0
    local.server.lifetime = 200
    assert local.tick("rotate", "--force") == 0
    assert local.state["success"]["lifetime"] == pytest.approx(200, abs=2)


def test_what_only_root_can_read_does_not_make_the_service_wait(device: Device) -> None:
    """Run by hand as the service's user there is no credential; the service has it."""
    device.pin_file.rename(device.root / "aside")
    for arguments in ((), ("--force",), ("--dry-run",)):
        assert device.run("rotate", *arguments).returncode == 67
    (device.root / "credentials").mkdir()
    (device.root / "aside").rename(device.root / "credentials/pin")
    served = device.run("rotate", env={"CREDENTIALS_DIRECTORY": f"{device.root}/credentials"})
    assert served.returncode == 0, served.stderr
    assert device.credentials.exists()


def test_a_shorter_life_time_that_was_asked_for_is_taken(local: Device, world: Time) -> None:
    local.configure(schedule={"expected_lifetime": 3600})
    local.server.lifetime = 3600
    assert local.tick() == 0
    local.server.lifetime = 900
    world.advance(1800)
    assert local.tick() == 46, "unasked it is no gain"
    local.configure(schedule={"expected_lifetime": 900})
    local.touched()
    assert local.tick() == 0
    assert local.state["success"]["lifetime"] == pytest.approx(900, abs=2)


@pytest.mark.parametrize("change", ["boot", "file gone", "run out"])
def test_what_makes_a_short_life_time_good_enough_ends_the_wait_for_it(
    local: Device, world: Time, change: str
) -> None:
    local.configure(schedule={"expected_lifetime": 3600})
    local.server.lifetime = 3600
    assert local.tick() == 0
    local.server.lifetime = 400
    world.advance(3000)
    assert local.tick() == 46, "540 s are left"
    assert local.tick("due") == 1
    if change == "boot":
        world.reboot(local)
    elif change == "file gone":
        local.credentials.unlink()
    else:
        world.advance(538)
        assert local.tick("due") == 1
        world.advance(4)
    assert local.tick("due") == 0
    assert local.tick() == 0
    assert local.state["success"]["lifetime"] == pytest.approx(400, abs=2)


def test_a_clock_set_back_during_the_fetch_is_noticed(local: Device, world: Time) -> None:
    """Network and time service come up together."""
    assert local.tick() == 0

    def synchronised(handler: Handler) -> None:
        world.wall -= 3600
        local.server.good(handler)

    local.server.respond = synchronised
    world.advance(700)
    assert local.tick() == 0
    assert (local.root / "run/restart-litestream").exists()


def test_a_try_by_hand_does_not_undo_what_lifts_a_wait(device: Device) -> None:
    device.server.respond = lambda h: h.reply(404, b'{"message":"Role alias does not exist"}')
    assert device.run("rotate").returncode == 33
    assert device.run("due").returncode == 1
    device.configure(provider={"role_alias": "fixed"})
    device.touched()
    assert device.run("due").returncode == 0
    device.pin_file.rename(device.root / "aside")
    assert device.run("rotate", "--force").returncode == 67
    (device.root / "aside").rename(device.pin_file)
    assert device.run("due").returncode == 0


def test_another_run_may_have_rotated_while_this_one_waited(
    local: Device, world: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = lock.take

    def slow(config: configuration.Config, patient: bool) -> int:
        monkeypatch.setattr(lock, "take", take)
        local.tick()
        return take(config, patient)

    monkeypatch.setattr(lock, "take", slow)
    assert local.tick() == 0
    assert len(local.server.requests) == 1


def test_a_boot_is_a_new_situation(local: Device, world: Time) -> None:
    """Credentials are gone, so it is tried at once; what failed before is not forgotten for that."""
    local.server.respond = lambda h: h.reply(500, b"")
    for _ in range(3):
        assert local.tick() == 15
        world.advance(local.state["failure"]["delay"] + 1)
    assert local.tick() == 15
    assert local.tick("due") == 1
    world.reboot(local)
    assert local.tick("due") == 0
    assert local.tick() == 15
    assert local.state["failure"]["count"] == 5
    assert local.tick("due") == 1


def test_lost_credentials_end_a_wait_once(local: Device, world: Time) -> None:
    assert local.tick() == 0
    local.server.respond = lambda h: h.reply(403, b'{"message":"Access Denied"}')
    assert local.tick("rotate", "--force") == 31
    assert local.tick("due") == 1
    local.credentials.unlink()
    assert local.tick() == 31
    assert local.tick("due") == 1, "there is nothing more to lose"
