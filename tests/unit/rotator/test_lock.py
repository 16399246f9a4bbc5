"""Who stops while he has the lock: nobody waits for a person, and a holder that never ends is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest import ROOT, Device, Time

from edge_rotator import config as configuration
from edge_rotator import lock

HOLDER = """
import sys
sys.path[:0] = sys.argv[1:2]
from edge_rotator import config, lock
open("/proc/self/comm", "w").write("python\\x1b]0;x\\x07")  # a process names itself
held = lock.take(config.load(sys.argv[2]), patient=False)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(local: Device) -> Iterator[subprocess.Popen[str]]:
    """A process that has taken the lock, and was stopped there."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", HOLDER, str(ROOT), str(local.config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def test_a_doctor_at_a_stopped_terminal_does_not_keep_rotations_from_running(device: Device) -> None:
    """Stopped after each of its lines in turn, as by Ctrl-Z or a pager that is not read."""
    for lines in (1, 4, 8, 11):
        with subprocess.Popen(device.command("doctor", "--login"), stdout=subprocess.PIPE) as doctor:
            assert doctor.stdout
            for _ in range(lines):
                doctor.stdout.readline()
            doctor.send_signal(signal.SIGSTOP)
            try:
                # Its own check may have the lock at this moment, but ends by itself.
                done = device.run("rotate", "--force")
                assert done.returncode == 0, (lines, done.stderr)
            finally:
                doctor.kill()


def test_a_holder_that_never_ends_is_an_error_that_names_it(
    local: Device, world: Time, holder: subprocess.Popen[str], capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = local.root / "metrics.prom"
    local.configure(service={"metrics_file": str(metrics)})
    for _ in range(5):  # what is under way is no error
        assert local.tick() == 0
        assert "event=skipped reason=busy" in capfd.readouterr().err
        world.advance(59)
    assert local.tick("metrics") == 0
    assert "edge_rotator_lock_stuck 0.000" in metrics.read_text()
    world.advance(10)
    assert local.tick() == 76
    told = capfd.readouterr().err
    assert "error=lock_stuck" in told
    assert f"process {holder.pid} (python" in told
    assert "T (stopped)" in told
    assert local.tick("status", "--json") == 2
    report = json.loads(capfd.readouterr().out)
    assert report["last_error"]["class"] == "lock_stuck"
    assert str(holder.pid) in report["last_error"]["detail"]
    assert local.tick("status") == 2
    screen = capfd.readouterr().out
    assert "(python ]0;x" in screen
    for text in (told, screen):
        assert text.replace("\n", "").isprintable(), "it cannot act on root's terminal"
    assert local.tick("metrics") == 0
    assert "edge_rotator_lock_stuck 1.000" in metrics.read_text()
    # What the fix says.
    holder.kill()
    holder.wait()
    assert local.tick("metrics") == 0
    assert "edge_rotator_lock_stuck 0.000" in metrics.read_text()
    assert local.tick() == 0
    assert local.credentials.exists()
    assert not (local.root / "run/busy").exists()


@pytest.mark.parametrize(
    "command", [("doctor",), ("rotate", "--dry-run"), ("csr",), ("status",)], ids=" ".join
)
def test_a_callers_umask_shuts_nobody_out(command: tuple[str, ...], device: Device) -> None:
    """Sudo adds it to its own; a lock file of mode 0 would end all rotations of the service's user."""
    device.run(*command, preexec_fn=lambda: os.umask(0o777))
    files = [path for name in ("state", "run") for path in (device.root / name).iterdir()]
    assert files or command == ("status",)
    assert [path.name for path in files if path.stat().st_mode & 0o640 != 0o640] == []


def test_one_holder_after_another_is_no_stuck_one(local: Device, world: Time) -> None:
    for _ in range(10):
        held = local.lock()
        assert local.tick() == 0
        world.advance(200)
        os.close(held)
        os.close(local.lock())
    assert local.tick() == 0
    assert local.credentials.exists()


@pytest.mark.parametrize("record", [b"", b"x y\n", b"1\n", b"0 0\n", b"9" * 70])
def test_a_record_of_nobody_accuses_nobody(record: bytes, local: Device, world: Time) -> None:
    (local.root / "run/busy").write_bytes(record)
    config = configuration.load(str(local.config))
    held = local.lock()
    os.close(held)
    (local.root / "run/busy").write_bytes(record)
    world.advance(1000)
    assert lock.stuck(config) == ""


def test_a_holder_that_ended_before_it_was_named_accuses_nobody(
    local: Device, world: Time, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Between the refusal and the look into /proc/locks."""
    config = configuration.load(str(local.config))
    monkeypatch.setattr(lock, "holder", lambda path: 0)
    held = local.lock()
    assert local.tick() == 0
    world.advance(1000)
    assert "a process that /proc/locks does not tell" in lock.stuck(config)
    os.close(held)
    assert lock.stuck(config) == ""
    local.tick("status", "--json")
    assert "lock_stuck" not in capfd.readouterr().out


def test_without_a_place_for_the_record_it_is_busy(local: Device, world: Time) -> None:
    (local.root / "run/busy").mkdir()
    held = local.lock()
    try:
        assert local.tick() == 0
    finally:
        os.close(held)


def test_who_holds_it_is_known_to_the_kernel(local: Device) -> None:
    path = f"{local.root}/state/lock"
    assert lock.holder(path) == 0, "no such file"
    held = local.lock()
    assert lock.holder(path) == os.getpid()
    os.close(held)
    time.sleep(0)
    assert lock.holder(path) == 0
