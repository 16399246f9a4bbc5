"""The power is back: `--limit @report` goes on with those that are left, until one fails."""

from __future__ import annotations

import pytest
from conftest import NEW, REPORT, VARIABLES, lab, report, roll_out, status, used

from experiment.phases import Played

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def resumed() -> Played:
    for device in ("edge02", "edge03"):
        lab("boot", device)
    return roll_out("upgrade", "--tags=litestream", f"--limit=@{REPORT}", variables=VARIABLES)


def test_the_one_that_vanished_and_the_one_that_was_off_are_well(resumed: Played) -> None:
    assert [used("edge02"), used("edge03")] == [NEW, NEW]
    assert {report()["devices"][device]["verdict"] for device in ("edge02", "edge03")} <= {"same", "better"}
    assert "edge01" not in resumed.text, "it was done"


def test_the_one_that_fails_is_named_with_the_task(resumed: Played) -> None:
    assert resumed.code != 0
    assert "ring rest stops the roll-out" in resumed.text
    known = report()["devices"]["edge04"]
    assert known["verdict"] == "failed"
    assert "litestream" in known["reason"]
    assert status("edge04")["level"] != "ok"


def test_it_alone_is_left(resumed: Played) -> None:
    assert REPORT.read_text().split() == ["edge04"]
