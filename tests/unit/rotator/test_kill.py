"""SIGKILL at every step of a rotation: files are the old or the new one, and the next tick fixes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import sysconfig
import time
from typing import Any

import pytest
from conftest import ROOT, Device, Time

from edge_rotator import provider, schedule
from edge_rotator import state as states

# Kills itself before the N-th call of those that change files; a write is cut in half first.
CHILD = """
import sys
sys.path[:0] = sys.argv[1:3]
import os, signal, subprocess
from edge_rotator import cli, files
left = [int(sys.argv[3])]
def step():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def deadly(call):
    def counted(*args, **kwargs):
        step()
        return call(*args, **kwargs)
    return counted
class Halved:
    def __init__(self, fd, mode):
        self.file = open(fd, mode)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        step()
        self.file.write(data[len(data) // 2 :])
for name in ("open", "unlink", "fstat", "fchmod", "fsync", "close", "replace"):
    setattr(os, name, deadly(getattr(os, name)))
subprocess.Popen = deadly(subprocess.Popen)
files.open = Halved
sys.exit(cli.main(sys.argv[4:]))
"""
MOST = 80  # steps; a rotation has about forty


def start(device: Device, step: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-IS", "-c", CHILD, str(ROOT), sysconfig.get_paths()["platlib"]]
    return subprocess.Popen(
        [*command, str(step), "--config", str(device.config), "rotate"],
        env={},
        stderr=subprocess.DEVNULL,
    )


def content(device: Device) -> bytes:
    """The credentials file of either mode, if there is one; it must be whole."""
    for path in (device.credentials, device.environment_file):
        if path.exists():
            data = path.read_bytes()
            if path == device.credentials:
                assert json.loads(data)["SessionToken"].endswith("==")
            else:
                assert [line.split(b"=")[0] for line in data.splitlines()][3] == b"AWS_DEFAULT_REGION"
                assert data.endswith(b'"\n')
            return data
    return b""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Requests of this process alone: the server may come to a killed child's only now."""
    seen: list[object] = []
    real = provider.fetch

    def fetch(*arguments: Any) -> provider.Answer:
        seen.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(provider, "fetch", fetch)
    return seen


def synchronise(world: Time) -> None:
    """A child goes by the real clocks, and so do we while we look at what it left."""
    world.wall = time.time()
    world.boot = time.clock_gettime(time.CLOCK_BOOTTIME)


def check(device: Device, world: Time, asked: list[object]) -> None:
    """Check what a killed run left, then let time pass and tick again."""
    content(device)
    if (device.root / "state/state.json").exists():
        data = (device.root / "state/state.json").read_bytes()
        assert states.parse(data).to_json() == data, "the state is not whole"
    killed = states.load(f"{device.root}/state")
    before = len(asked)
    synchronise(world)
    next_ = schedule.read_next(str(device.root / "run"))
    assert next_ is not None or not device.next.exists(), "half of it was written"
    device.tick()
    if next_ and killed.failure:
        # A run that may have asked counts as an attempt: no second request in the same minute.
        assert killed.failure.kind == "interrupted"
        assert len(asked) == before
    world.advance(70)
    device.tick()
    world.advance(70)
    assert device.tick() == 0
    assert device.tick("due") == 1
    assert content(device)
    state = states.load(f"{device.root}/state")
    assert state.success and not state.failure
    assert state.restart_pending is False
    if device.environment_file.exists():
        assert (device.root / "restart.log").exists()
    assert not list(device.root.glob("*/.*.tmp"))


@pytest.mark.parametrize("mode", ["process", "environment"])
def test_kill_at_each_step(mode: str, local: Device, world: Time, asked: list[object]) -> None:
    local.configure(delivery={"mode": mode})
    synchronise(world)
    assert local.tick() == 0
    for step in range(1, MOST):
        local.touched()
        child = start(local, step)
        code = child.wait(30)
        assert code in (-signal.SIGKILL, 0)
        check(local, world, asked)
        if code == 0:
            break
    assert 20 < step < MOST - 1


def test_kill_at_any_moment(local: Device, world: Time, asked: list[object]) -> None:
    synchronise(world)
    assert local.tick() == 0
    chance = random.Random(4711)  # noqa: S311
    for _ in range(12):
        local.touched()
        child = start(local, 0)
        time.sleep(chance.uniform(0.05, 0.3))
        child.kill()
        child.wait(30)
        check(local, world, asked)
