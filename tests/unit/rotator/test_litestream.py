"""Litestream: commands that end, a restart that is asked for, an answer that may be anything."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from test_doctor import control_socket

from edge_rotator import litestream
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config()
    made.directory = str(tmp_path)
    made.restart_command = []
    made.databases = []
    made.litestream_socket = ""
    return made


def script(path: Path, text: str) -> list[str]:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def test_run_gives_the_exit_code(tmp_path: Path) -> None:
    assert litestream.run(script(tmp_path / "a", "exit 0"), 5) == 0
    assert litestream.run(script(tmp_path / "b", "exit 7"), 5) == 7
    assert litestream.run(script(tmp_path / "c", "kill -15 $$"), 5) == 143
    assert litestream.run([str(tmp_path / "none")], 5) == 127


def test_run_gives_arguments_and_a_bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    command = script(tmp_path / "a", f'echo "$@" > {tmp_path}/arguments; env > {tmp_path}/env')
    assert litestream.run([*command, "x y", "z"], 5) == 0
    assert (tmp_path / "arguments").read_text() == "x y z\n"
    names = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names == {"PATH", "LC_ALL", "PWD"}
    assert "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n" in (tmp_path / "env").read_text()
    assert "LC_ALL=C.UTF-8\n" in (tmp_path / "env").read_text()


def test_run_kills_what_takes_too_long(tmp_path: Path) -> None:
    start = time.monotonic()
    assert litestream.run(script(tmp_path / "a", "exec sleep 20"), 0.2) == 137
    assert 0.2 <= time.monotonic() - start < 5


def test_run_leaves_alone_what_it_may_not_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def refused(pid: int, number: int) -> None:
        asked.append((pid, number))
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refused)
        assert litestream.run(script(tmp_path / "a", "exec sleep 20"), 0.1) == 137
    assert [number for _, number in asked] == [9]
    os.kill(asked[0][0], 9)
    os.waitpid(asked[0][0], 0)


def test_run_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        litestream.run(script(tmp_path / "a", "exit 0"), 5)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_restart(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], float]] = []
    codes = [0, 5]

    def run(command: list[str], timeout: float) -> int:
        seen.append((command, timeout))
        return codes.pop(0)

    monkeypatch.setattr(litestream, "run", run)
    config.restart_command = ["/bin/restart", "litestream.service"]
    litestream.restart(config)
    with pytest.raises(RotatorError) as caught:
        litestream.restart(config)
    assert caught.value.kind.name == "restart_failed"
    assert caught.value.detail == "exit code 5 of /bin/restart litestream.service"
    assert seen == [(["/bin/restart", "litestream.service"], 240.0)] * 2


def test_request_restart(config: Config) -> None:
    """A file that is replaced, for a path unit sees only that; not kept from one boot to the next."""
    request = Path(config.directory) / "restart-litestream"
    litestream.request_restart(config)
    before = request.stat()
    assert (request.read_bytes(), before.st_mode & 0o7777) == (b"", 0o640)
    litestream.request_restart(config)
    assert request.stat().st_ino != before.st_ino
    config.directory = "/nowhere"
    with pytest.raises(RotatorError) as caught:
        litestream.request_restart(config)
    assert caught.value.kind.name == "write_failed"
    assert caught.value.detail == "/nowhere/restart-litestream: No such file or directory"


def test_request_restart_spares_the_flash(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(os, "fsync", seen.append)
    litestream.request_restart(config)
    assert seen == []


def test_sync(config: Config, tmp_path: Path) -> None:
    asked: list[str] = []
    assert litestream.sync(config) is None
    config.databases = ["/a.db", "/b c.db"]
    assert litestream.sync(config) is None
    config.litestream_socket = str(tmp_path / "s")
    assert litestream.sync(config) == 2, "nobody answers"
    for number, (answer, failed) in enumerate(
        [(b'{"error": ""}', 0), (b'{"error": "no"}', 2), (b"", 2), (b'{"error": "not running"}', None)]
    ):
        with control_socket(tmp_path / f"s{number}", answer, asked) as path:
            config.litestream_socket = str(path)
            assert litestream.sync(config) == failed
    assert asked == ["sync /a.db", "sync /b c.db"] * 3 + ["sync /a.db"], "one is enough where it does not run"


def test_an_answer_without_end_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(100):
                    connection.sendall(b"x")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        start = time.monotonic()
        with pytest.raises((ValueError, TimeoutError)):
            litestream.ask(str(tmp_path / "s"), "list", 0.3)
        assert time.monotonic() - start < 2
