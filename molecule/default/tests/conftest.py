"""What the phases of this scenario share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "molecule/shared"))
HOSTS = yaml.safe_load((ROOT / "inventory/lab/hosts.yml").read_text())["all"]["children"]["edge_devices"][
    "hosts"
]


@pytest.fixture
def name(host: Any) -> str:
    """Inventory name of the device under test."""
    return str(host.backend.hostname)


@pytest.fixture
def mode(name: str) -> str:
    """How this device hands credentials over."""
    return str(HOSTS[name]["edge_rotator_delivery"])


@pytest.fixture
def secret_file(mode: str) -> str:
    """Where this device's credentials lie."""
    return {
        "process": "/run/edge-rotator/credentials.json",
        "environment": "/run/edge-rotator/litestream.env",
    }[mode]


@pytest.fixture
def credentials(host: Any, mode: str, secret_file: str) -> dict[str, str]:
    """Read the credentials Litestream has been given, by their AWS names."""
    text = host.file(secret_file).content_string
    if mode == "process":
        found = json.loads(text)
        return {
            "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
            "AWS_SESSION_TOKEN": found["SessionToken"],
        }
    pairs = dict(line.partition("=")[::2] for line in text.splitlines() if line and not line.startswith("#"))
    return {key: value.strip('"') for key, value in pairs.items()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Show the journals of the device where a test failed: that is where the reason stands."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.when == "call" and report.failed and host is not None:
        units = ["edge-rotator.service", "litestream.service", "health-check.service"]
        matches = " ".join(f"--unit={unit}" for unit in units)
        report.sections.append(("journal", host.run(f"journalctl --no-pager --lines=60 {matches}").stdout))
    return report
