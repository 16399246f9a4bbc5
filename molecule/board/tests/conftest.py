"""What the phases of this scenario share."""

from __future__ import annotations

import os
from typing import Any

import pytest

from experiment.phases import ROOT, at_rest, name, pytest_runtest_makereport
from lab.settings import Machine, inventory

__all__ = ["at_rest", "machine", "name", "pytest_runtest_makereport"]

HOSTS = ROOT / "molecule/board/inventory/hosts.yml"
# The lab's own commands, which the phases give, are for this scenario's machines.
os.environ["EDGE_LAB_INVENTORY"] = str(HOSTS)


@pytest.fixture
def machine(name: str) -> Machine:
    """Return what the inventory says of the board."""
    return inventory(HOSTS)[name]


@pytest.fixture
def release(host: Any) -> str:
    """Return the board's Debian."""
    return str(host.check_output(". /etc/os-release && echo $VERSION_CODENAME"))
