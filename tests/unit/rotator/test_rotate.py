"""The whole command against a real token and a real TLS server."""

from __future__ import annotations

import json

from conftest import PIN, THING, Device


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
    assert device.environment_file.stat().st_mode & 0o7777 == 0o600
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
    device.pin_file.write_text(PIN)
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
    log = device.fake("sync")
    device.configure(
        delivery={
            "sync_command": [f"{device.root}/bin/sync", "sync", "-wait"],
            "databases": ["/var/lib/a.db", "/var/lib/b.db"],
            "litestream_socket": "",
        }
    )
    assert device.run("rotate").returncode == 0
    assert log.read_text() == "sync -wait /var/lib/a.db\nsync -wait /var/lib/b.db\n"
    assert device.run("rotate", "--force").returncode == 0
    assert len(log.read_text().splitlines()) == 2


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
