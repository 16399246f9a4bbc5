"""The command line: help that helps, exit codes that hold, never a traceback."""

from __future__ import annotations

import os

import pytest
from conftest import Device

from edge_rotator import cli, files, rotation, schedule, state
from edge_rotator import config as configuration
from edge_rotator.errors import KINDS

COMMANDS = ["", "rotate", "due", "status", "metrics", "doctor", "report", "csr"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_manual(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        cli.main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "exit codes" in text.lower()
    assert not command or "example" in text


def test_every_exit_code_is_in_a_documented_range() -> None:
    ranges = [1, 2, 3, 4, 5, *range(10, 16), *range(20, 25), *range(30, 37), *range(40, 47), 50]
    ranges += [*range(60, 70), *range(70, 80)]
    codes = [kind.exit_code for kind in KINDS.values()]
    assert len(set(codes)) == len(codes)
    assert set(codes) <= set(ranges)
    for words in ("10-15 network", "30-36 the", "60-69 pycurl", "70-74 handing over", "75 another"):
        assert words in cli._TOP_END.replace("\n", " ")


@pytest.mark.parametrize(
    "arguments", [[], ["report", "app.db/0000"], ["nonsense"], ["rotate", "--nonsense"], ["due", "x"]]
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: edge-rotator" in capsys.readouterr().err


def test_fault_of_ours_names_its_place_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(path: str, force: bool = False) -> int:
        raise LookupError("canary")

    monkeypatch.setattr(rotation, "rotate", fault)
    assert cli.main(["rotate"]) == 1
    text = capsys.readouterr().err
    assert "error=internal_error" in text
    assert "LookupError at test_cli.py:" in text
    assert "canary" not in text and "Traceback" not in text
    monkeypatch.setattr(configuration, "load", fault)
    assert cli.main(["due"]) == 0, "what cannot be told is work for rotate, which says why"
    assert capsys.readouterr().err == ""


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: str, force: bool = False) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(rotation, "rotate", stop)
    assert cli.main(["rotate"]) == 130


def test_dry_run_stores_nothing(local: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert local.tick("rotate", "--dry-run") == 0
    assert "event=dry_run" in capsys.readouterr().err
    assert not local.credentials.exists()
    assert local.tick("due") == 0


def test_busy_tick_is_no_error(local: Device, capsys: pytest.CaptureFixture[str]) -> None:
    held = local.lock()
    try:
        assert local.tick() == 0
        assert "event=skipped" in capsys.readouterr().err
    finally:
        os.close(held)
    assert local.tick() == 0


def test_priority_for_the_journal(
    local: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    local.server.stop()
    assert local.tick() == 11
    assert capsys.readouterr().err.startswith("<3>event=failed error=connect ")


@pytest.mark.parametrize("command", ["due", "status", "metrics"])
def test_root_becomes_the_services_user_before_it_reads_what_that_user_may_write(
    command: str, local: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state's or a socket's path is that user's to exchange."""
    done: list[str] = []

    def read(path: str, most: int) -> bytes:
        done.append("read")
        return files.read_regular(path, most)

    monkeypatch.setattr(files, "become", lambda user: done.append(f"become {user}"))
    for module in (schedule, state):
        monkeypatch.setattr(module, "read_regular", read)
    local.configure(
        service={"user": "nobody", "metrics_file": f"{local.root}/run/edge_rotator.prom"},
        delivery={"litestream_socket": ""},
    )
    local.tick(command)
    assert done[:2] == ["become nobody", "read"]


def test_due_changes_nothing(local: Device) -> None:
    def everything() -> list[tuple[str, int, int]]:
        found = [(path, path.lstat()) for path in sorted(local.root.rglob("*"))]
        return [(str(path), stat.st_mtime_ns, stat.st_ino) for path, stat in found]

    assert local.tick("due") == 0
    before = everything()
    for code, change in ((0, None), (1, local.tick)):
        if change:
            assert change() == 0
            before = everything()
        assert local.tick("due") == code
        assert local.tick("status", "--json") in (0, 1, 2)
        assert everything() == before
