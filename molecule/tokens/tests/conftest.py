"""What the phases of this scenario share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "molecule/shared"))

TPM_DEVICE = "edge03"


@pytest.fixture
def name(host: Any) -> str:
    """Inventory name of the device under test."""
    return str(host.backend.hostname)


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Poll until a function gives something true; fail after a bounded time."""

    def poll(what: Callable[[], Any], at_most_s: float = 90) -> Any:
        deadline = time.monotonic() + at_most_s
        while not (found := what()):
            assert time.monotonic() < deadline, f"not within {at_most_s} s"
            time.sleep(1)
        return found

    return poll


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Show the journals of the device where a test failed: that is where the reason stands."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.when == "call" and report.failed and host is not None:
        units = ["edge-rotator*", "litestream.service", "tpm2-abrmd.service"]
        matches = " ".join(f"--unit='{unit}'" for unit in units)
        report.sections.append(("journal", host.run(f"journalctl --no-pager --lines=60 {matches}").stdout))
    return report
