"""The short rows of molecule/faults/table.yml, on both devices at once; `make faults` walks them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from experiment.faults import Drill, Fault, choose, devices, run
from experiment.phases import wait_for

pytestmark = pytest.mark.timeout(400)
FAULTS = choose("", short=True)


@pytest.fixture(scope="module")
def drill() -> Iterator[Drill]:
    """One walk; whatever happens, the cloud is healed after it."""
    drill = Drill(devices(), record=False)
    for device in drill.targets:
        wait_for(lambda device=device: device.status()["level"] == "ok")
    yield drill
    run({"cloud": "cloudctl heal"}, drill.targets[0])


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_it_is_told_and_heals(drill: Drill, fault: Fault) -> None:
    assert [outcome.line() for outcome in drill.one(fault) if outcome.wrong] == []


def test_no_row_is_lost(drill: Drill) -> None:
    assert drill.compare("short") == []
