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

from edge_rotator import provider
from edge_rotator import state as states

# Kills itself before the N-th call of those that change files; a write is cut in half first.
CHILD = """
import sys
sys.path[:0] = sys.argv[1:3]
import os, signal
from edge_rotator import cli
left = [int(sys.argv[3])]
def deadly(name, call):
    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            if name == "write":
                call(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted
for name in ("open", "unlink", "fstat", "fchmod", "write", "fsync", "close", "replace", "posix_spawn"):
    setattr(os, name, deadly(name, getattr(os, name)))
sys.exit(cli.main(sys.argv[4:]))
"""
MOST = 80  # steps; a rotation has about forty


def start(device: Device, step: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-IS", "-c", CHILD, str(ROOT), sysconfig.get_paths()["platlib"]]
    return subprocess.Popen(
        [*command, str(step), "--config", str(device.config), "rotate"],
        env={"STATE_DIRECTORY": f"{device.root}/state"},
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


def check(device: Device, world: Time, asked: list[object]) -> None:
    """Check what a killed run left, then let time pass and tick again."""
    content(device)
    if (device.root / "state/state.json").exists():
        data = (device.root / "state/state.json").read_bytes()
        assert states.parse(data).to_json() == data, "the state is not whole"
    killed = states.load(f"{device.root}/state")
    before = len(asked)
    world.wall = time.time()
    world.reboot()
    device.tick()
    if killed.failure:
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
    if device.environment_file.exists():
        assert state.applied == [
            (found := device.environment_file.stat()).st_ino,
            found.st_mtime_ns,
            found.st_size,
        ]
    assert not list(device.root.glob("*/.*.tmp"))


@pytest.mark.parametrize("mode", ["process", "environment"])
def test_kill_at_each_step(mode: str, local: Device, world: Time, asked: list[object]) -> None:
    local.configure(delivery={"mode": mode})
    world.wall = time.time()
    assert local.tick() == 0
    for step in range(1, MOST):
        # Due again: to the child the state is of another boot.
        child = start(local, step)
        code = child.wait(30)
        assert code in (-signal.SIGKILL, 0)
        check(local, world, asked)
        if code == 0:
            break
    assert 20 < step < MOST - 1


def test_kill_at_any_moment(local: Device, world: Time, asked: list[object]) -> None:
    world.wall = time.time()
    assert local.tick() == 0
    chance = random.Random(4711)  # noqa: S311
    for _ in range(12):
        child = start(local, 0)
        time.sleep(chance.uniform(0.02, 0.12))
        child.kill()
        child.wait(30)
        check(local, world, asked)
