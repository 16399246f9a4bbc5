"""What the phases of this scenario share."""

from __future__ import annotations

from experiment.phases import at_rest, name, pytest_runtest_makereport

__all__ = ["TPM_DEVICE", "at_rest", "name", "pytest_runtest_makereport"]

TPM_DEVICE = "edge03"
