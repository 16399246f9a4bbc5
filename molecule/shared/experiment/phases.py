"""What the test phases of every scenario share; their conftest.py takes the names from here."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

UNITS = ("edge-rotator*", "litestream.service", "health-check.service", "tpm2-abrmd.service")


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the journals of the device where a test failed: that is where the reason stands."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.when == "call" and report.failed and host is not None:
        matches = " ".join(f"--unit='{unit}'" for unit in UNITS)
        report.sections.append(("journal", host.run(f"journalctl --no-pager --lines=60 {matches}").stdout))
    return report
