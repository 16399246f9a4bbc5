"""What the phases of this scenario share."""

from __future__ import annotations

from typing import Any

from experiment.phases import at_rest, name, pytest_runtest_makereport

__all__ = ["TPM_DEVICE", "at_rest", "name", "pytest_runtest_makereport", "switched_at"]

TPM_DEVICE = "edge03"


def switched_at(host: Any) -> float:
    """When the device was given another backend: its configuration was written then, and not since."""
    return float(host.check_output("stat --format=%.Y /etc/edge-rotator/config.toml"))
