"""What the phases of this scenario share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiment import observe
from experiment.phases import ROOT, Played, lab, name, play_with, pytest_runtest_makereport
from lab.settings import paths

__all__ = ["INSTALLING", "REPORT", "lab", "name", "pytest_runtest_makereport", "release", "report", "upgrade"]

REPORT = paths().state / "debian_upgrade.report"
# What waits for the packages to be installed.
INSTALLING = "debian_phase | It has ended: upgrade"


def upgrade(*words: str, at: str = "", event: Callable[[], None] | None = None, **variables: Any) -> Played:
    """Roll Debian 13 out; let something happen when a task begins."""
    given = {"rollout_report_dir": str(paths().state), "healthy_retries": 6, **variables}
    inventory = ROOT / "molecule/debian/inventory"
    return play_with(inventory, "debian_upgrade", words, given, (at, 1) if at else None, event)


def report() -> dict[str, Any]:
    """Read what has become of each device."""
    return dict(json.loads(Path(f"{REPORT}.json").read_text())["devices"])


def release(device: str) -> str:
    """Return the Debian that a device runs."""
    return observe.run(device, ". /etc/os-release; echo $VERSION_CODENAME").strip()
