"""Whether the timer ticks: what systemd answers, as recorded on devices, and what is made of it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Device, Time
from test_doctor import kind
from test_metrics import samples
from test_status import ask, screen

from edge_rotator import config as configuration
from edge_rotator import doctor, systemd
from edge_rotator.doctor import SkippedError
from edge_rotator.systemd import Ticks

LOOK = systemd.ticks  # before a fixture replaces it
# Debian 12; the times are filled in.
TICKING = """\
TimersMonotonic={ OnUnitInactiveUSec=1min 30s ; next_elapse=12min 28.140281s }
TimersMonotonic={ OnBootUSec=5s ; next_elapse=9min 35.308670s }
TimersMonotonic={ OnActiveUSec=1s ; next_elapse=11min 22.800333s }
Result=success
LoadState=loaded
ActiveState=active
UnitFileState=enabled
ActiveEnterTimestampMonotonic=%d
ConditionTimestampMonotonic=%d

Result=exec-condition
ExecMainStatus=0
ExecCondition={ path=/bin/sh ; argv[]=/bin/sh -c exit 1 ; ignore_errors=no ; start_time=[Sat] ; \
stop_time=[Sat] ; pid=7 ; code=exited ; status=1 }
LoadState=loaded
ActiveState=inactive
UnitFileState=static
ActiveEnterTimestampMonotonic=0
ConditionTimestampMonotonic=%d
"""


def looked(monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str], ticked: float = 12.0) -> Ticks:
    """Look at what systemd says after these changes; `ticked` seconds ago the service was started last."""
    now = 20000_000_000
    text = TICKING % (now - 4000_000_000, now - 4000_000_000, now - int(ticked * 1e6) if ticked else 0)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)  # the timer's, where both have it
    done: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 0, text, "")
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", lambda *_, **__: done)
        patch.setattr(time, "monotonic", lambda: now / 1e6)
        return LOOK()


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [("code=exited ; status=1", "code=exited ; status=0")],
        [("ExecMainStatus=0", "ExecMainStatus=31"), ("Result=exec-condition", "Result=exit-code")],
        [("code=exited ; status=1", "code=killed ; status=9")],
        [("code=exited ; status=1", "code=(null) ; status=0"), ("=inactive", "=activating")],
        [("UnitFileState=enabled", "UnitFileState=enabled-runtime")],
    ],
)
def test_it_ticks(monkeypatch: pytest.MonkeyPatch, changes: list[tuple[str, str]]) -> None:
    found = looked(monkeypatch, *changes)
    assert (found.known, found.runs, found.error, found.detail) == (True, True, "", "")
    assert found.ago == pytest.approx(12, abs=1)


@pytest.mark.parametrize(
    ("changes", "ticked", "expected"),
    [
        ([("=active", "=inactive")], 12, (False, "timer_stopped", "edge-rotator.timer is inactive")),
        (
            [("=active", "=inactive"), ("=enabled", "=disabled")],
            12,
            (False, "timer_stopped", "edge-rotator.timer is inactive and disabled"),
        ),
        ([("=active", "=failed")], 12, (False, "timer_stopped", "edge-rotator.timer is failed")),
        (
            [("=loaded", "=masked"), ("=active", "=inactive"), ("=enabled", "=masked")],
            12,
            (False, "timer_stopped", "edge-rotator.timer is masked and inactive"),
        ),
        (
            [("=loaded", "=not-found"), ("=active", "=inactive"), ("=enabled", "=")],
            0,
            (False, "timer_stopped", "edge-rotator.timer is not-found and inactive"),
        ),
        (
            [("=enabled", "=disabled")],
            12,
            (True, "timer_stopped", "edge-rotator.timer is disabled: a reboot ends it"),
        ),
        (
            [("status=1 }", "status=243 }")],
            12,
            (False, "unit_broken", "edge-rotator.service could not be started: exit code 243"),
        ),
        (
            [("ExecMainStatus=0", "ExecMainStatus=226"), ("Result=exec-condition", "Result=exit-code")],
            12,
            (False, "unit_broken", "edge-rotator.service could not be started: exit code 226"),
        ),
        (
            [("Result=exec-condition", "Result=resources")],
            12,
            (False, "unit_broken", "edge-rotator.service could not be started: resources"),
        ),
        (
            [("status=1 }\nLoadState=loaded", "status=1 }\nLoadState=bad-setting")],
            12,
            (False, "unit_broken", "edge-rotator.service is bad-setting"),
        ),
        (
            [("=active", "=failed"), ("status=1 }\nLoadState=loaded", "status=1 }\nLoadState=bad-setting")],
            12,
            (False, "unit_broken", "edge-rotator.service is bad-setting"),
        ),
        ([], 689, (True, "", "")),
        (
            [("=inactive", "=deactivating")],
            691,
            (
                False,
                "timer_stopped",
                "edge-rotator.timer has not ticked for 691 s; edge-rotator.service is deactivating",
            ),
        ),
        (
            [],
            0,
            (
                False,
                "timer_stopped",
                "edge-rotator.timer has not ticked for 4000 s; edge-rotator.service is inactive",
            ),
        ),
        ([("OnUnitInactiveUSec=1min 30s", "OnUnitInactiveUSec=4h")], 14000, (True, "", "")),
        ([("OnUnitInactiveUSec", "OnSomething")], 14000, (True, "", "")),
    ],
)
def test_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
    changes: list[tuple[str, str]],
    ticked: float,
    expected: tuple[bool, str, str],
) -> None:
    found = looked(monkeypatch, *changes, ticked=ticked)
    assert (found.known, found.runs, found.error, found.detail) == (True, *expected)
    assert (found.ago is None) == (ticked == 0)


@pytest.mark.parametrize(
    "answer",
    [
        FileNotFoundError(),
        subprocess.TimeoutExpired("systemctl", 5),
        subprocess.CalledProcessError(1, "systemctl"),
        subprocess.CompletedProcess([], 0, "", ""),
        subprocess.CompletedProcess([], 0, "nonsense\n\nnonsense", ""),
        subprocess.CompletedProcess([], 0, TICKING.replace("%d", "soon"), ""),
    ],
)
def test_a_systemd_that_does_not_answer_is_unknown_and_not_ok(
    monkeypatch: pytest.MonkeyPatch,
    local: Device,
    world: Time,
    capsys: pytest.CaptureFixture[str],
    answer: Any,
) -> None:
    def run(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    local.configure(
        delivery={"litestream_socket": ""}, service={"metrics_file": str(local.root / "run/x.prom")}
    )
    assert local.tick() == 0
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        found = LOOK()
    assert (found.known, found.runs, found.error) == (False, True, "")
    monkeypatch.setattr(systemd, "ticks", lambda: found)
    report = ask(local, capsys)
    assert (report["level"], report["problems"]) == (
        "warning",
        ["systemd does not say whether the timer ticks"],
    )
    assert "last tick unknown" in screen(local, capsys)
    with pytest.raises(SkippedError, match="unknown"):
        doctor._timer(configuration.load(str(local.config)))
    assert "timer_up" not in samples(local, local.root / "run/x.prom")


STOPPED = Ticks(True, False, 4000.0, "timer_stopped", "edge-rotator.timer is inactive")
BROKEN = Ticks(True, False, 12.0, "unit_broken", "edge-rotator.service could not be started: exit code 243")
DISABLED = Ticks(True, True, 12.0, "timer_stopped", "edge-rotator.timer is disabled: a reboot ends it")


@pytest.mark.parametrize(
    ("ticks", "level", "problem", "command"),
    [
        (
            STOPPED,
            "critical",
            "the timer does not tick; nothing is tried until it does",
            "sudo systemctl --no-pager start edge-rotator.timer",
        ),
        (
            BROKEN,
            "critical",
            "systemd cannot start the rotator; nothing is tried until it can",
            "sudo systemctl --no-pager status edge-rotator.service",
        ),
        (
            DISABLED,
            "warning",
            "the timer is not enabled; a reboot ends its ticks",
            "sudo systemctl --no-pager enable edge-rotator.timer",
        ),
    ],
)
def test_status_doctor_and_metrics_tell(
    monkeypatch: pytest.MonkeyPatch,
    local: Device,
    capsys: pytest.CaptureFixture[str],
    ticks: Ticks,
    level: str,
    problem: str,
    command: str,
) -> None:
    local.configure(
        delivery={"litestream_socket": ""}, service={"metrics_file": str(local.root / "run/x.prom")}
    )
    assert local.tick() == 0
    monkeypatch.setattr(systemd, "ticks", lambda: ticks)
    report = ask(local, capsys)
    assert (report["level"], report["problems"]) == (level, [problem])
    text = screen(local, capsys)
    assert f"timer {ticks.detail} its fix" in " ".join(text.split())
    assert command in " ".join(text.split())
    assert ("none until the timer ticks again" in text) == (not ticks.runs)
    assert kind(lambda: doctor._timer(configuration.load(str(local.config)))) == ticks.error
    assert samples(local, local.root / "run/x.prom")["timer_up"] == ticks.runs


def test_a_timer_that_is_stopped_does_not_hide_a_failure(
    monkeypatch: pytest.MonkeyPatch, local: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    local.configure(delivery={"litestream_socket": ""})
    local.server.respond = lambda handler: handler.reply(403, b'{"message":"Access Denied"}')
    assert local.tick() == 31
    monkeypatch.setattr(systemd, "ticks", lambda: STOPPED)
    report = ask(local, capsys)
    assert report["last_error"]["class"] == "policy_denied"
    assert "the last attempt failed: policy_denied" in report["problems"]
    assert "the timer does not tick; nothing is tried until it does" in report["problems"]
    assert "policy_denied (now)" in screen(local, capsys)


def test_a_run_that_cannot_say_when_to_run_next_has_failed(
    local: Device, world: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """No inode is left on /run: no request is made, at every tick anew, and it is no rotation under way."""
    local.configure(delivery={"litestream_socket": ""})
    assert local.tick() == 0
    world.advance(700)
    directory = local.root / "run"
    local.next.unlink()
    (directory / ".next.tmp").mkdir()  # stands in its way, whoever we are
    asked = len(local.server.requests)
    assert local.tick() == 70
    assert len(local.server.requests) == asked
    report = ask(local, capsys)
    assert report["problems"] == ["the last attempt failed: write_failed"]
    (directory / ".next.tmp").rmdir()
    assert local.tick() == 0
    assert ask(local, capsys)["problems"] == []


def test_a_login_that_was_never_made_is_not_counted(device: Device) -> None:
    directory: Path = device.root / "run"
    (directory / ".next.tmp").mkdir()
    for _ in range(3):
        assert device.run("rotate").returncode == 70
    (directory / ".next.tmp").rmdir()
    done = device.run("rotate")
    assert done.returncode == 0, done.stderr
    assert device.credentials.exists(), "three logins with a PIN that was never accepted would have latched"


@pytest.mark.parametrize(("said", "count"), [("NRestarts=3\n", 3), ("NRestarts=\n", None), ("", None)])
def test_restarts_by_systemd_itself(monkeypatch: pytest.MonkeyPatch, said: str, count: int | None) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said, ""))
    assert systemd.restarts("litestream.service") == count


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("Environment=A=x SSL_CERT_FILE=/etc/ca.pem B=y\n", "/etc/ca.pem"),
        ("Environment=SSL_CERT_FILE=/etc/ca.pem\n", "/etc/ca.pem"),
        ("Environment=NO_SSL_CERT_FILE=/etc/ca.pem\n", ""),
        ("Environment=\n", ""),
        ("", ""),
    ],
)
def test_a_variable_of_a_units_environment(monkeypatch: pytest.MonkeyPatch, said: str, value: str) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said, ""))
    assert systemd.environment("litestream.service", "SSL_CERT_FILE") == value


def test_a_systemd_that_does_not_answer_has_no_restarts_and_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("systemctl", 10)

    monkeypatch.setattr(subprocess, "run", silent)
    assert systemd.restarts("litestream.service") is None
    assert systemd.environment("litestream.service", "SSL_CERT_FILE") == ""
