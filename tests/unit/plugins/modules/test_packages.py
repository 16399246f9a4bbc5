"""A package comes from the release that the device runs, or is not installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import debian_upgrade, packages

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What apt-get was called with, on a device that has no openssl."""
    programs = {"dpkg-query": "exit 1", "apt-get": f'echo "$@" >>{tmp_path}/called'}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "LISTS", tmp_path / "lists")
    monkeypatch.setattr(packages, "UPGRADE", tmp_path / "upgrade")
    return tmp_path / "called"


def test_nothing_is_installed_from_the_next_release(run: Run, called: Path, tmp_path: Path) -> None:
    kept = tmp_path / "upgrade/sources/sources.list"
    kept.parent.mkdir(parents=True)
    kept.touch()
    refused = run(names=["openssl"])
    assert refused["failed"]
    assert "run edge_litestream.appliance.debian_upgrade for this device again" in refused["msg"]
    assert not called.exists()
    assert run(names=["openssl"], check=True)["missing"] == ["openssl"]
    (tmp_path / "upgrade/begun").touch()
    assert run(names=["openssl"])["changed"]
    assert "install openssl" in called.read_text()


@pytest.mark.parametrize("repaired", [True, False])
def test_an_installation_that_was_broken_off_is_finished(
    run: Run, called: Path, tmp_path: Path, repaired: bool
) -> None:
    """Nobody is there to answer what dpkg would ask about a configuration file that was changed."""
    programs = {
        "apt-get": f"""[ -e {tmp_path}/finished ] && exit 0
            echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'" >&2; exit 100""",
        "dpkg": f"""echo "$@" >>{called}; echo "dpkg: error processing package cron"
            {f"touch {tmp_path}/finished" if repaired else "exit 1"}""",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    answer = run(names=["openssl"])
    assert set(called.read_text().splitlines()) == {"--force-confold --configure --pending"}
    assert bool(answer.get("failed")) is not repaired
    if not repaired:
        dpkg, apt = "error processing package cron", "dpkg was interrupted"
        assert answer["msg"].index(dpkg) < answer["msg"].index(apt)


def test_both_modules_mean_the_same_directory() -> None:
    assert packages.UPGRADE == debian_upgrade.STATE
