"""Units are stopped in the order in which they start one another; check mode only says so."""

import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
NAMES = ["app.service", "app.timer", "app.path"]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A systemctl that knows one state of every unit, and notes what else it is told."""

    def make(active: str = "active", file: str = "enabled", reload: str = "no") -> Path:
        program, log = tmp_path / "systemctl", tmp_path / "log"
        block = (
            f"Id=x\nLoadState=loaded\nActiveState={active}\nUnitFileState={file}\nNeedDaemonReload={reload}\n"
        )
        program.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" != show ]; then echo "$@" >>{log}; exit 0; fi\n'
            "shift 2; first=1\n"
            f"for unit; do [ $first ] || echo; first=; printf %s {shlex.quote(block)}; done\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        log.touch()
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return log

    return make


def test_what_starts_a_unit_is_stopped_before_it(run: Run, systemctl: Callable[..., Path]) -> None:
    log = systemctl()
    assert run(names=NAMES, state="stopped")["changed"]
    assert log.read_text().splitlines() == ["stop app.timer app.path", "stop app.service"]


@pytest.mark.parametrize("active", ["inactive", "failed"])
def test_what_does_not_run_is_not_stopped(run: Run, systemctl: Callable[..., Path], active: str) -> None:
    log = systemctl(active)
    assert not run(names=NAMES, state="stopped")["changed"]
    assert log.read_text() == ""


def test_what_is_just_starting_is_stopped(run: Run, systemctl: Callable[..., Path]) -> None:
    systemctl("activating")
    assert run(names=["app.service"], state="stopped")["changed"]


def test_started_units_are_left_alone(run: Run, systemctl: Callable[..., Path]) -> None:
    log = systemctl()
    assert not run(names=NAMES)["changed"]
    assert run(names=NAMES, restart=True)["changed"]
    # Systemd does not notice by itself that a file of ours has replaced a package's unit.
    assert log.read_text().splitlines() == ["daemon-reload", f"restart {' '.join(NAMES)}"]


def test_changed_files_are_read_and_units_enabled_and_started(
    run: Run, systemctl: Callable[..., Path]
) -> None:
    log = systemctl("inactive", "disabled", "yes")
    names = " ".join(NAMES)
    assert run(check=True, names=NAMES)["changed"]
    assert log.read_text() == ""
    assert run(names=NAMES)["changed"]
    assert log.read_text().splitlines() == ["daemon-reload", f"enable {names}", f"start {names}"]


def test_what_is_not_wanted_any_more_goes_first(run: Run, systemctl: Callable[..., Path]) -> None:
    log = systemctl("activating")
    told = run(check=True, names=["app.timer"], absent=["old.service", "old.timer"])["commands"]
    assert log.read_text() == ""
    done = run(names=["app.timer"], absent=["old.service", "old.timer"])
    assert done["changed"] and done["commands"] == told
    commands = ["stop old.timer", "stop old.service", "start app.timer"]
    assert log.read_text().splitlines() == commands


def test_nothing_is_done_where_nothing_unwanted_is_left(run: Run, systemctl: Callable[..., Path]) -> None:
    log = systemctl("inactive")
    assert not run(absent=["old.timer"])["changed"]
    assert log.read_text() == ""
