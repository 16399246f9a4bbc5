"""What the phases of this scenario share."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from experiment.phases import ROOT, at_rest, name, pytest_runtest_makereport

__all__ = ["at_rest", "name", "pytest_runtest_makereport"]
HOSTS = yaml.safe_load((ROOT / "inventory/lab/hosts.yml").read_text())["all"]["children"]["edge_devices"][
    "hosts"
]


@pytest.fixture
def only_one(name: str) -> None:
    """Skip all devices but one: what takes long is shown once."""
    if name != "edge01":
        pytest.skip("one device shows it")


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
    """Read fresh credentials by their AWS names: all their life is ahead, however busy the machine is."""
    host.check_output("systemctl start edge-rotator-force.service")
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
