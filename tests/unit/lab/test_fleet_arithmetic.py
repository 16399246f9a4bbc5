"""The simulation behind docs/scale.md, on fleets so small that the numbers are known."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from fleet import BEGIN, END, HEAD, PAGE, PICTURE, ROWS, TICK, Fleet, Run, row, simulate, ticks

from edge_rotator import schedule


@pytest.fixture(scope="module")
def crowded() -> dict[float, Run]:
    """Two hours' worth of a limit that fifteen minutes would use up, with and without spread."""
    return {spread: simulate(Fleet(9000, 3600, 10, spread)) for spread in (0.0, 1.0)}


def test_alone_a_thing_asks_at_its_boot_and_then_on_its_schedule() -> None:
    run = simulate(Fleet(1, 3600, 1, boots_within=1))
    asked = np.flatnonzero(run.asked)
    due = schedule.due_after(3600, "process", 300, "edge-0000000")
    assert asked[0] == 5
    assert all(due < wait <= due + TICK + 1 for wait in np.diff(asked))
    assert run.supplied[0] == 0 and run.supplied[5:].all() and run.expired == 0.0


def test_the_provider_answers_no_more_than_its_limit(crowded: dict[float, Run]) -> None:
    for run in crowded.values():
        assert (run.asked - run.refused).max() == 10
        assert run.refused.sum() > 0


def test_ticks_are_what_a_wait_is_rounded_to() -> None:
    assert list(ticks([30, 59, 60, 119.4, 120])) == [60, 60, 120, 120, 180]


def test_spread_is_what_brings_a_fleet_back(crowded: dict[float, Run]) -> None:
    """15 min if no second were left unused. Whoever asks together again leaves most of them unused."""
    with_it, without = (crowded[spread].share_after(1.0) for spread in (1.0, 0.0))
    assert 900 <= with_it < 3600 < without


def test_in_the_steady_state_spread_lowers_the_peak() -> None:
    peaks = [simulate(Fleet(5000, 3600, 5000, spread)).steady()[1] for spread in (0.0, 1.0)]
    assert peaks[1] < peaks[0] / 2


def test_too_small_a_limit_is_shown_as_credentials_that_run_out() -> None:
    fleet = Fleet(9000, 3600, 3)
    run = simulate(fleet)
    assert run.expired > 0.1
    assert run.share_after(1.0) == float("inf") or run.supplied[-1] < 9000
    assert len(row(fleet, run).split("|")) == len(HEAD.split("|")) + 2


def test_schedule_is_as_it_was_afterwards() -> None:
    before = schedule.LIFETIME_JITTER, schedule.BACKOFF_JITTER
    simulate(Fleet(10, 900, 1, 0.0))
    assert before == (schedule.LIFETIME_JITTER, schedule.BACKOFF_JITTER)


def test_the_page_holds_a_row_for_each_fleet() -> None:
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()
    assert table[0].strip("| ").split(" | ") == HEAD.split("|")
    assert len(table) == len(ROWS) + 2
    assert PICTURE.stat().st_size < 50_000
