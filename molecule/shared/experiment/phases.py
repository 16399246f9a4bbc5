"""What the test phases of every scenario share; their conftest.py takes the names from here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiment import observe

ROOT = Path(__file__).resolve().parents[3]

UNITS = ("edge-rotator*", "litestream.service", "sample-app.service", "tpm2-abrmd.service")


@pytest.fixture
def name(host: Any) -> str:
    """Inventory name of the device under test."""
    return str(host.backend.hostname)


def wait_for(what: Callable[[], Any], at_most_s: float = 90) -> Any:
    """Poll until a function gives something true; fail after a bounded time."""
    deadline = time.monotonic() + at_most_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {at_most_s} s"
        time.sleep(1)
    return found


class Played(NamedTuple):
    """How a playbook ended: exit code, and all it said with every blank and line break made one blank."""

    code: int
    text: str


def play(
    name: str, limit: str = "all", variables: dict[str, Any] | None = None, options: tuple[str, ...] = ()
) -> Played:
    """Run a playbook against the lab, as an operator would."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory=inventory/lab", *options]
    command += [f"--limit={limit}", f"--extra-vars={json.dumps(variables or {})}", f"playbooks/{name}.yml"]
    plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=plain, capture_output=True, text=True, check=False, timeout=300
    )
    return Played(done.returncode, " ".join((done.stdout + done.stderr).split()))


def play_with(
    inventory: Path,
    name: str,
    words: Sequence[str],
    variables: dict[str, Any],
    at: tuple[str, int] | None = None,
    event: Callable[[], None] | None = None,
) -> Played:
    """Run a playbook as an operator does; let something happen when a task begins for the nth time."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={inventory}"]
    command += [f"--extra-vars={json.dumps(variables)}", *words, f"playbooks/{name}.yml"]
    running = subprocess.Popen(
        ["timeout", "1100", *command],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    lines, seen = [], 0
    for line in running.stdout:
        lines.append(line)
        seen += at is not None and line.startswith(f"TASK [{at[0]}]")
        if event and at and seen == at[1]:
            event()
            event = None
    assert event is None, "".join(lines)
    return Played(running.wait(timeout=60), " ".join("".join(lines).split()))


def lab(command: str, machine: str) -> None:
    """Let something happen to a machine."""
    subprocess.run([sys.executable, "-m", "lab", command, machine], check=True, timeout=150)


def refused_by_preflight(variables: dict[str, Any]) -> str:
    """Run playbooks/site.yml on edge01 with these variables over the inventory's; return what it said.

    It has to stop with nothing changed.
    """
    done = play("site", "edge01", variables)
    assert done.code != 0
    assert re.search(r"edge01 : ok=\d+ changed=0 unreachable=0 failed=1", done.text), done.text
    return done.text


def assert_lossless(host: Any, thing: str) -> list[str]:
    """Compare the replica, restored on the cloud machine, with the database row by row; return the rows.

    The sample writer rests meanwhile.
    """
    try:
        observe.finish_replication(thing)
        here, there = observe.rows(thing, observe.DATABASE), observe.restore(thing)
    finally:
        host.check_output("systemctl start sample-app.service")
    assert there.integrity == here.integrity == "ok"
    assert here.rows
    assert there.rows == here.rows
    return here.rows


@pytest.fixture
def at_rest(host: Any) -> Iterator[None]:
    """Nothing rotates or restarts meanwhile: the timer is stopped, and what it had begun has ended."""
    host.check_output("systemctl stop edge-rotator.timer")
    # A start waits for a run that is under way; the lock, for one that an operator forced.
    host.run("systemctl start edge-rotator.service")
    host.check_output("flock --timeout 60 /var/lib/edge-rotator/lock true")
    yield
    host.check_output("systemctl start edge-rotator.timer")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the journals of the device where a test failed: that is where the reason stands."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.when == "call" and report.failed and host is not None:
        matches = " ".join(f"--unit='{unit}'" for unit in UNITS)
        report.sections.append(("journal", host.run(f"journalctl --no-pager --lines=60 {matches}").stdout))
    return report
