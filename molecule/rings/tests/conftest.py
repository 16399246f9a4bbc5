"""What the phases of this scenario share: releases to roll out, the playbooks, the report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiment import observe
from experiment.phases import ROOT, Played, wait_for
from lab.settings import paths

__all__ = [
    "NEW",
    "OLD",
    "REPORT",
    "lab",
    "report",
    "roll_out",
    "status",
    "used",
    "wait_for",
]

INVENTORY = ROOT / "molecule/rings/inventory"
OLD, NEW = "0.5.17", "0.5.18"
RELEASES = paths().state / "releases"
REPORT = paths().state / "upgrade.report"
# The release that all have, by another name; for edge04 a program that ends at once.
VARIABLES: dict[str, Any] = {
    "litestream_version": NEW,
    "litestream_source": "file",
    "litestream_archive": f"{RELEASES}/{{{{ lab_release | default('good') }}}}",
    "litestream_sha256": "{{ lookup('ansible.builtin.file', litestream_archive ~ '.sha256') }}",
}


@pytest.fixture(scope="session", autouse=True)
def releases() -> None:
    """Make what is rolled out."""
    pin = yaml.safe_load((ROOT / "files/litestream-checksums.yml").read_text())["litestream_checksums"]
    good = paths().cache / f"litestream/{OLD}-amd64-{pin[OLD]['amd64'][:16]}/litestream"
    RELEASES.mkdir(exist_ok=True)
    for release, program in {"good": good, "broken": Path("/bin/false")}.items():
        shutil.copyfile(program, RELEASES / release)
        digest = hashlib.sha256(program.read_bytes()).hexdigest()
        Path(RELEASES, f"{release}.sha256").write_text(digest)


def roll_out(
    playbook: str,
    *words: str,
    variables: dict[str, Any] | None = None,
    at: tuple[str, int] | None = None,
    event: Callable[[], None] | None = None,
) -> Played:
    """Run a playbook as an operator does; let something happen when a task begins for the nth time."""
    given = {"rollout_report_dir": str(paths().state), "healthy_retries": 6, **(variables or {})}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={INVENTORY}"]
    command += [f"--extra-vars={json.dumps(given)}", *words, f"playbooks/{playbook}.yml"]
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


def report() -> dict[str, Any]:
    """Read what the roll-out noted."""
    return dict(json.loads(Path(f"{REPORT}.json").read_text()))


def used(device: str) -> str:
    """Return the version of Litestream that a device runs, as the kernel says."""
    running = "sudo readlink /proc/$(systemctl show -P MainPID litestream)/exe"
    return observe.run(device, running).strip().split("/")[3]


def status(device: str) -> dict[str, Any]:
    """Return how a device stands."""
    return dict(json.loads(observe.run(device, "sudo edge-rotator status --json", check=False)))


def lab(command: str, machine: str) -> None:
    """Let something happen to a machine."""
    subprocess.run([sys.executable, "-m", "lab", command, machine], check=True, timeout=150)
