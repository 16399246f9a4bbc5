"""What the phases of this scenario share: releases to roll out, the playbooks, the report."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiment import observe
from experiment.phases import ROOT, Played, lab, play_with, wait_for
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
    """Roll a change out; let something happen when a task begins for the nth time."""
    given = {"rollout_report_dir": str(paths().state), "healthy_retries": 6, **(variables or {})}
    return play_with(INVENTORY, playbook, words, given, at, event)


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
