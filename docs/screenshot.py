#!/usr/bin/env python3
"""Draw docs/status.png: the page of the fleet, with devices that are made up."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.loader import init_plugin_loader
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
init_plugin_loader([str(ROOT / ".collections")])

from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import (  # noqa: E402
    fleet_page,
    fleet_status,
)

sys.path.insert(0, str(ROOT))
from edge_rotator import __version__  # noqa: E402
from edge_rotator.errors import KINDS  # noqa: E402

DAY = 86400.0
SITES = ("bremen", "lyon", "porto", "turku")


def answer(number: int, **told: Any) -> dict[str, Any]:
    """Make the answer of a device; it is well where nothing else is said."""
    report: dict[str, Any] = {
        "level": "ok",
        "version": __version__,
        "mode": "process",
        "problems": [],
        "credentials": {"remaining_s": 1900.0 + 97 * number},
        "certificate": {"remaining_s": (211 + 7 * number) * DAY},
        "last_rotation": f"2026-11-28T13:{14 + 2 * number:02}:{7 * number % 60:02}Z",
        "replication": {"version": "0.5.17", "limit_s": 17, "databases": {"/app.db": {"age_s": number % 3}}},
        "token": {"backend": "engine"},
    }
    return {"stdout": json.dumps(report | told)}


def fleet() -> dict[str, Any]:
    """Make up a fleet: most devices are well, and some are not in ways that happen."""
    answers = {f"{site}-0{unit}": answer(4 * unit + n) for n, site in enumerate(SITES) for unit in (1, 2, 3)}
    answers["lyon-02"] = answer(
        3,
        level="critical",
        problems=["no valid credentials", "the last attempt failed: certificate_inactive"],
        last_error={"current": True, "fix": KINDS["certificate_inactive"].fix},
        credentials={"remaining_s": 0},
        replication={"version": "0.5.17", "limit_s": 17, "databases": {"/app.db": {"age_s": 5460}}},
    )
    answers["turku-03"] = {
        "unreachable": True,
        "msg": "ssh: connect to host turku-03 port 22: No route to host",
    }
    answers["porto-01"] = answer(
        5,
        level="warning",
        problems=["the certificate has expired or soon will"],
        certificate={"remaining_s": 19 * DAY},
    )
    answers["bremen-03"] = answer(7, version="1.9.2")
    answers["porto-03"] = answer(
        9, replication={"version": "0.5.17", "limit_s": 7215, "databases": {"/app.db": {"age_s": 2210}}}
    )
    return answers


def main() -> None:
    """Write the page, look at it, keep what is seen."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "status.html"
        wanted = {device: {"rotator": __version__} for device in fleet()}
        devices = fleet_status.fleet(fleet(), wanted)
        page_file.write_text(fleet_page.render(devices, "2026-11-28T14:02:11Z"))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 300})
        page.goto(page_file.as_uri())
        page.screenshot(path=ROOT / "docs/status.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
