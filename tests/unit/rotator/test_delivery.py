"""Handing over: the file, the restart, the nudge."""

from __future__ import annotations

import grp
import json
import os
import select
import stat
import time
from pathlib import Path

import pytest

from edge_rotator import delivery
from edge_rotator.config import Config
from edge_rotator.credentials import Credentials
from edge_rotator.errors import RotatorError

MADE = Credentials("AKID", "canary-secret", "canary-token", 0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config()
    made.mode = "process"
    made.directory = str(tmp_path)
    made.group = grp.getgrgid(os.getgid()).gr_name
    made.region = "eu-central-1"
    made.restart_command = []
    made.sync_command = []
    made.databases = []
    made.litestream_socket = ""
    return made


def script(path: Path, text: str) -> list[str]:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def test_process_mode(config: Config) -> None:
    delivery.write(config, MADE, 1516267086)
    path = Path(config.credentials_file)
    assert path.name == "credentials.json"
    assert json.loads(path.read_text())["Expiration"] == "2018-01-18T09:18:06Z"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_environment_mode(config: Config) -> None:
    config.mode = "environment"
    config.group = "no-such-group"  # does not matter here
    delivery.write(config, MADE, 0)
    path = Path(config.credentials_file)
    assert path.name == "litestream.env"
    assert 'AWS_DEFAULT_REGION="eu-central-1"' in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


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


def test_run_gives_the_exit_code(tmp_path: Path) -> None:
    assert delivery.run(script(tmp_path / "a", "exit 0"), 5) == 0
    assert delivery.run(script(tmp_path / "b", "exit 7"), 5) == 7
    assert delivery.run(script(tmp_path / "c", "kill -15 $$"), 5) == 143
    assert delivery.run([str(tmp_path / "none")], 5) == 127


def test_run_gives_arguments_and_a_bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    command = script(tmp_path / "a", f'echo "$@" > {tmp_path}/arguments; env > {tmp_path}/env')
    assert delivery.run([*command, "x y", "z"], 5) == 0
    assert (tmp_path / "arguments").read_text() == "x y z\n"
    names = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names == {"PATH", "LC_ALL", "PWD"}
    assert "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n" in (tmp_path / "env").read_text()
    assert "LC_ALL=C.UTF-8\n" in (tmp_path / "env").read_text()


def test_run_kills_what_takes_too_long(tmp_path: Path) -> None:
    start = time.monotonic()
    assert delivery.run(script(tmp_path / "a", "exec sleep 20"), 0.2) == 137
    assert 0.2 <= time.monotonic() - start < 5


def test_run_waits_in_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Poll:
        def register(self, handle: int) -> None:
            pass

        def poll(self, milliseconds: float) -> list[int]:
            waited.append(milliseconds)
            return [1]

    monkeypatch.setattr(select, "poll", Poll)
    assert delivery.run(script(tmp_path / "a", "exit 0"), 2.5) == 0
    assert waited == [2500]


def test_run_leaves_alone_what_it_may_not_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def refused(pid: int, number: int) -> None:
        asked.append((pid, number))
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refused)
        assert delivery.run(script(tmp_path / "a", "exec sleep 20"), 0.1) == 137
    assert [number for _, number in asked] == [9]
    os.kill(asked[0][0], 9)
    os.waitpid(asked[0][0], 0)


def test_run_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        delivery.run(script(tmp_path / "a", "exit 0"), 5)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_restart(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], float]] = []
    codes = [0, 5]

    def run(command: list[str], timeout: float) -> int:
        seen.append((command, timeout))
        return codes.pop(0)

    monkeypatch.setattr(delivery, "run", run)
    config.restart_command = ["/bin/restart", "litestream.service"]
    delivery.restart(config)
    with pytest.raises(RotatorError) as caught:
        delivery.restart(config)
    assert caught.value.kind.name == "restart_failed"
    assert caught.value.detail == "exit code 5 of /bin/restart litestream.service"
    assert seen == [(["/bin/restart", "litestream.service"], 240.0)] * 2


def test_request_restart(config: Config) -> None:
    """A file that is replaced, for a path unit sees only that; not kept from one boot to the next."""
    request = Path(config.directory) / "restart-litestream"
    delivery.request_restart(config)
    before = request.stat()
    assert (request.read_bytes(), before.st_mode & 0o7777) == (b"", 0o640)
    delivery.request_restart(config)
    assert request.stat().st_ino != before.st_ino
    config.directory = "/nowhere"
    with pytest.raises(RotatorError) as caught:
        delivery.request_restart(config)
    assert caught.value.kind.name == "write_failed"
    assert caught.value.detail == "/nowhere/restart-litestream: No such file or directory"


def test_request_restart_spares_the_flash(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(os, "fsync", seen.append)
    delivery.request_restart(config)
    assert seen == []


def test_nudge(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], float]] = []

    def run(command: list[str], timeout: float) -> int:
        seen.append((command, timeout))
        return {"/a.db": 0, "/b.db": 1, "/c.db": 137}[command[-1]]

    monkeypatch.setattr(delivery, "run", run)
    assert delivery.nudge(config) is None
    config.databases = ["/a.db"]
    assert delivery.nudge(config) is None
    config.sync_command = ["/bin/sync", "-wait"]
    config.databases = []
    assert delivery.nudge(config) is None
    config.databases = ["/a.db", "/b.db", "/c.db"]
    config.litestream_socket = str(tmp_path / "socket")
    assert delivery.nudge(config) is None
    assert seen == []
    (tmp_path / "socket").touch()
    assert delivery.nudge(config) == 2
    assert seen == [(["/bin/sync", "-wait", path], 60.0) for path in config.databases]
    config.litestream_socket = ""
    config.databases = ["/a.db"]
    assert delivery.nudge(config) == 0
