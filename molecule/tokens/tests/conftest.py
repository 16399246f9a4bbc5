"""What the phases of this scenario share."""

from __future__ import annotations

from experiment.phases import name, pytest_runtest_makereport

__all__ = ["TPM_DEVICE", "name", "pytest_runtest_makereport"]

TPM_DEVICE = "edge03"
