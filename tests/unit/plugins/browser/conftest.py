"""Debian's Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Start the browser once."""
    program = shutil.which("chromium")
    assert program, "missing chromium: apt-get install --no-install-recommends chromium"
    with sync_playwright() as playwright:
        # Tests run as root, where Chromium has no sandbox; it opens our pages alone, and has no network.
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--proxy-server=0.0.0.0:1"],
        )
        yield browser
        browser.close()
