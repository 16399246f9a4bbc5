"""What was wrong is mended. The device loses its power while packages are exchanged; then it stays away."""

from __future__ import annotations

import time

import pytest
from conftest import INSTALLING, REPORT, lab, release, report, upgrade

from experiment import observe
from experiment.phases import Played

pytestmark = pytest.mark.timeout(1200)
REBOOT = "debian_upgraded | The device reboots"
ALLOWED = {"debian_upgrade_third_party": "disable"}


def cut_the_power() -> None:
    """In the middle of it, and for a moment."""
    time.sleep(12)
    lab("power-cut", "edge02")
    lab("boot", "edge02")


@pytest.fixture(scope="module")
def cut() -> Played:
    observe.run("edge02", "sudo apt-mark unhold dash")
    return upgrade(f"--limit=@{REPORT}", at=INSTALLING, event=cut_the_power, **ALLOWED)


def test_a_power_cut_breaks_nothing_off(cut: Played) -> None:
    assert cut.code == 0, cut.text
    assert release("edge02") == "trixie"
    assert report()["edge02"]["verdict"] in ("same", "better")
    assert not REPORT.exists(), "nobody is left"


def test_it_was_in_the_middle_of_it(cut: Played) -> None:
    """Guard: two runs of the phase are in the log."""
    log = observe.run("edge02", "sudo cat /var/log/edge-debian-upgrade.log")
    assert log.count("Calculating upgrade") >= 4


def test_the_other_source_is_off(cut: Played) -> None:
    listed = observe.run("edge02", "cat /etc/apt/sources.list.d/x.sources")
    assert "Enabled: no" in listed
    assert "Suites: bookworm" in listed


def test_one_that_does_not_come_back_is_named_and_ended_by_the_next_run(cut: Played) -> None:
    """As if its upgrade had not ended yet."""
    observe.run("edge02", "sudo install --directory --mode=0700 /var/lib/edge-debian-upgrade")
    observe.run("edge02", "sudo touch /var/lib/edge-debian-upgrade/begun")
    gone = upgrade(
        *("--limit=edge02",),
        at=REBOOT,
        event=lambda: lab("cut", "edge02"),
        debian_upgrade_silence=20,
    )
    assert gone.code != 0
    assert "edge02 rest failed" in gone.text
    assert "it did not come back after its reboot: docs/operations.md" in gone.text
    assert REPORT.read_text().split() == ["edge02"]
    lab("heal", "edge02")
    ended = upgrade(f"--limit=@{REPORT}")
    assert ended.code == 0, ended.text
    assert not REPORT.exists()
    assert observe.run("edge02", "ls /var/lib | grep edge-debian", check=False) == ""
