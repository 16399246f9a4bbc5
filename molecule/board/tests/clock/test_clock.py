"""A clock that is wrong at the boot, as without a clock chip, and one that is set while the board runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from experiment import observe
from experiment.phases import assert_lossless, wait_for

# An emulated processor, on a host that does other things too.
pytestmark = pytest.mark.timeout(900)
HEALS_WITHIN_S = 300
WRONG_BY_S = 86400
STEPS = ["+10 minutes", "-10 minutes", "+1 year", "-1 year"]


def set_clock(host: Any, step: str = "") -> None:
    """Set the board's clock so far off, or to the true time."""
    host.check_output(f"date --set='{step or f'@{time.time():.0f}'}'")


def well(host: Any) -> bool:
    return bool(host.run("sudo -u edge-rotator edge-rotator status").rc == 0)


def uploads(name: str, since: float) -> list[float]:
    """Return uploads that succeeded since a time, by the cloud's clock."""
    return observe.uploads(observe.s3_requests(name, since))


@pytest.fixture
def on_time(host: Any) -> Iterator[None]:
    """Leave the board with the true time."""
    yield
    set_clock(host)


def lab(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lab", *words], check=True)


@pytest.mark.usefixtures("on_time")
def test_a_board_without_a_clock_chip_waits_for_the_time(host: Any, name: str) -> None:
    """It boots years ago, says so, and goes on by itself once the time arrives."""
    lab("power-cut", name)
    lab("boot", name, "--clock", "2020-01-01T00:00:00")
    # systemd advances it to its own build time.
    assert int(host.check_output("date +%s")) < time.time() - WRONG_BY_S
    wait_for(lambda: "clock" in host.run("edge-rotator status").stdout, 120)
    assert not well(host)
    since = observe.now(observe.CLOUD)
    set_clock(host)
    wait_for(lambda: well(host), HEALS_WITHIN_S)
    assert wait_for(lambda: uploads(name, since), 60)
    assert_lossless(host, name)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.usefixtures("on_time")
def test_a_clock_that_is_set_while_it_runs_loses_nothing(host: Any, name: str, step: str) -> None:
    """Wrong for half a minute, then right again."""
    wait_for(lambda: well(host), HEALS_WITHIN_S)
    set_clock(host, step)
    time.sleep(30)
    since = observe.now(observe.CLOUD)
    set_clock(host)
    wait_for(lambda: well(host), HEALS_WITHIN_S)
    assert wait_for(lambda: uploads(name, since), 60)
    assert_lossless(host, name)
