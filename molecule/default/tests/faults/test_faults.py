"""The short rows of molecule/faults/table.yml, on both devices at once; `make faults` walks them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from experiment.faults import Drill, Fault, choose, devices, run
from experiment.phases import wait_for

pytestmark = pytest.mark.timeout(400)
FAULTS = choose("", short=True)
# As `make faults` has it. With the 30 s of the rest of the scenario, environment mode restarts Litestream
# every 15 s, and it takes 17 s until a Litestream is late: on a busy machine nobody ever saw it.
LIFETIME_S, SCENARIOS_LIFETIME_S = 60, 30


@pytest.fixture(scope="module")
def drill() -> Iterator[Drill]:
    """One walk; whatever happens, the cloud is healed after it."""
    drill = Drill(devices(), record=False)
    run({"cloud": f"cloudctl set-lifetime {LIFETIME_S}"}, drill.targets[0])
    drill.everywhere([{"device": "systemctl start edge-rotator-force.service"}], drill.targets)
    for device in drill.targets:
        wait_for(lambda device=device: device.status()["level"] == "ok")
    yield drill
    run({"cloud": f"cloudctl heal && cloudctl set-lifetime {SCENARIOS_LIFETIME_S}"}, drill.targets[0])


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_it_is_told_and_heals(drill: Drill, fault: Fault) -> None:
    assert [outcome.line() for outcome in drill.one(fault) if outcome.wrong] == []


def test_no_row_is_lost(drill: Drill) -> None:
    assert drill.compare("short") == []
