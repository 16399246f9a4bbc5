"""The steps of a roll-out, from the plan to the end, as the action plugin takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.action.rollout import (
    begun,
    ended,
    judged,
    planned,
)
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.rollout import Report, RingError

OFF: dict[str, Any] = {"unreachable": True}
NOTHING: dict[str, Any] = {"age": None, "failures": {}, "fleet": [], "mends": False, "refused": {}}


def answer(level: str = "ok", *problems: str) -> dict[str, Any]:
    return {"stdout": f"0.5.17\n2.0.0\n{json.dumps({'level': level, 'problems': problems})}"}


class Fleet:
    """Three devices in a ring, and one in the next; each step reads the report anew."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "upgrade.report")
        self.answers: dict[str, Any] = {f"edge{number}": answer() for number in (1, 2, 3, 4)}
        self.rings: list[dict[str, Any]] = []
        self.before: dict[str, Any] = {}

    def step(self, step: Any, **args: Any) -> dict[str, Any]:
        report = Report(self.path)
        result: dict[str, Any] = step(
            {**NOTHING, "answers": self.answers, **args},
            report,
        )
        report.write()
        return result

    def plan(self, tolerate: Any = 0) -> None:
        named = {device: "late" if device == "edge4" else "early" for device in self.answers}
        rings = [{"name": "early", "tolerate": tolerate}, {"name": "late"}]
        self.rings = self.step(planned, rings=rings, soak=0, named=named)["rings"]

    def begin(self, ring: int = 0) -> dict[str, Any]:
        result = self.step(begun, ring=self.rings[ring])
        self.before = result.get("before", {})
        return result

    def judge(self, answers: dict[str, Any], failures: dict[str, str] | None = None) -> dict[str, Any]:
        return self.step(
            judged, ring=self.rings[0], before=self.before, answers=answers, failures=failures or {}
        )

    @property
    def verdicts(self) -> list[str]:
        return [known["verdict"] for known in Report(self.path).devices.values()]

    @property
    def left(self) -> list[str]:
        list_of_left = Path(self.path)
        return list_of_left.read_text().split() if list_of_left.exists() else []


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_all_is_well(fleet: Fleet) -> None:
    fleet.plan()
    assert fleet.verdicts == ["waiting"] * 4
    fleet.begin()
    assert fleet.verdicts == ["begun"] * 3 + ["waiting"], "so a run that is killed here can be gone on with"
    assert fleet.left == ["edge1", "edge2", "edge3", "edge4"]
    assert "failed" not in fleet.judge(fleet.answers)
    assert fleet.left == ["edge4"]


@pytest.mark.parametrize(
    ("answers", "failures", "judged_as", "why"),
    [
        ({"edge1": answer("critical", "no valid credentials")}, {}, "worse", "no valid credentials"),
        ({"edge1": OFF}, {}, "vanished", "does not any more"),
        # Ansible has dropped it, and has no second answer of it.
        ({"edge1": {}}, {}, "vanished", "the host that builds for it, was lost"),
        (
            {"edge1": {"skipped": True}},
            {},
            "vanished",
            "the host that builds for it, was lost",
        ),
        (
            {"edge1": {}},
            {"edge1": "Restart: it\n\x1b[2Jdoes not start"},
            "failed",
            "Restart: it ?[2Jdoes not",
        ),
    ],
)
def test_one_that_is_bad_stops_the_ring(
    fleet: Fleet, answers: dict[str, Any], failures: dict[str, str], judged_as: str, why: str
) -> None:
    fleet.plan()
    fleet.begin()
    result = fleet.judge({**fleet.answers, **answers}, failures)
    assert result["failed"]
    assert result["bad"] == ["edge1"]
    assert (
        "of 3 devices 1 failed, vanished or are worse than before their change, and 0 may" in result["msg"][0]
    )
    assert any(line.split()[:3] == ["edge1", "early", judged_as] and why in line for line in result["msg"])
    assert f"--limit @{fleet.path}" in result["msg"][-1]
    assert fleet.left == ["edge1", "edge4"]
    assert Report(fleet.path).content["stopped"] == result["msg"][0]


def test_as_many_as_are_tolerated_do_not_stop_it_and_make_the_end_fail(fleet: Fleet) -> None:
    fleet.plan("34%")
    fleet.begin()
    assert "failed" not in fleet.judge({**fleet.answers, "edge1": OFF})
    assert fleet.judge({**fleet.answers, "edge1": OFF, "edge2": OFF})["failed"]
    end = fleet.step(ended, rings=fleet.rings)
    assert end["failed"]
    assert end["msg"][0] == "the roll-out has ended: 1 same, 2 vanished, 1 waiting"


def test_one_that_is_off_is_left_alone_and_fails_nothing(fleet: Fleet) -> None:
    fleet.answers["edge2"] = OFF
    fleet.plan()
    assert "did not answer before its change" in fleet.begin()["lines"][0]
    assert list(fleet.before) == ["edge1", "edge3"]
    assert "failed" not in fleet.judge(fleet.answers)
    fleet.begin(1)
    fleet.step(judged, ring=fleet.rings[1], before=fleet.before)
    end = fleet.step(ended, rings=fleet.rings)
    assert "failed" not in end
    assert end["lines"][0] == "the roll-out has ended: 1 off, 3 same"
    assert fleet.left == ["edge2"]


def test_one_that_is_refused_is_not_changed_stops_nothing_and_makes_the_end_fail(fleet: Fleet) -> None:
    fleet.plan()
    begin = fleet.step(begun, ring=fleet.rings[0], refused={"edge1": "packages are\nheld", "edge2": ""})
    assert list(begin["before"]) == ["edge2", "edge3"]
    assert begin["lines"][0].split(maxsplit=3) == ["edge1", "early", "refused", "packages are held"]
    fleet.before = begin["before"]
    assert "failed" not in fleet.judge(fleet.answers)
    fleet.begin(1)
    fleet.step(judged, ring=fleet.rings[1], before=fleet.before)
    end = fleet.step(ended, rings=fleet.rings)
    assert end["failed"]
    assert end["msg"][0] == "the roll-out has ended: 1 refused, 3 same"
    assert fleet.left == ["edge1"]


def test_a_ring_that_is_refused_stops_it_where_another_comes(fleet: Fleet) -> None:
    fleet.plan()
    refused = dict.fromkeys(("edge1", "edge2", "edge3"), "on battery")
    assert fleet.step(begun, ring=fleet.rings[0], refused=refused)["failed"]


def test_a_last_ring_that_is_refused_is_told_in_the_end(fleet: Fleet) -> None:
    fleet.plan()
    fleet.begin()
    fleet.judge(fleet.answers)
    assert "failed" not in fleet.step(begun, ring=fleet.rings[1], refused={"edge4": "on battery"})
    assert fleet.step(ended, rings=fleet.rings)["failed"]


def test_one_that_is_refused_after_its_change_began_keeps_what_it_was(fleet: Fleet) -> None:
    """Else the run after the next would take for normal what this one broke."""
    fleet.plan()
    fleet.begin()
    fleet.judge(fleet.answers, {"edge1": "the power was cut"})
    fleet.answers["edge1"] = answer("critical", "no credentials")
    fleet.plan()
    fleet.step(begun, ring=fleet.rings[0], refused={"edge1": "on battery"})
    assert fleet.verdicts[0] == "failed"
    fleet.plan()
    fleet.begin()
    assert fleet.before["edge1"]["level"] == "ok"


def test_a_ring_that_is_off_stops_it_where_another_comes(fleet: Fleet) -> None:
    """Nothing would be known of the change."""
    fleet.answers.update(edge1=OFF, edge2=OFF, edge3=OFF)
    fleet.plan()
    result = fleet.begin()
    assert result["failed"]
    assert "no device of ring early answers" in result["msg"][0]
    assert fleet.verdicts == ["off", "off", "off", "waiting"]


def test_the_next_run_does_not_take_for_normal_what_the_last_one_broke(fleet: Fleet) -> None:
    fleet.plan()
    fleet.begin()
    broken = {**fleet.answers, "edge1": answer("critical", "no valid credentials")}
    fleet.judge(broken)
    fleet.answers = broken
    fleet.plan()
    fleet.begin()
    assert fleet.judge(broken)["failed"]
    assert "failed" not in fleet.judge({**broken, "edge1": answer()})


def test_one_that_vanished_and_is_off_in_the_next_run_keeps_what_it_was(fleet: Fleet) -> None:
    fleet.plan()
    fleet.begin()
    fleet.judge({**fleet.answers, "edge1": OFF})
    was, fleet.answers["edge1"] = fleet.before["edge1"], OFF
    fleet.plan()
    assert "its change has begun in an earlier run" in fleet.begin()["lines"][0]
    assert "failed" not in fleet.judge(fleet.answers), "nothing was changed about it in this run"
    assert Report(fleet.path).devices["edge1"]["before"] == was


def test_a_run_for_one_device_keeps_who_else_is_left(fleet: Fleet) -> None:
    fleet.plan()
    fleet.answers = {"edge1": answer()}
    fleet.plan()
    fleet.begin()
    fleet.judge(fleet.answers)
    assert fleet.left == ["edge2", "edge3", "edge4"]


def test_where_nobody_answers_nothing_is_called_done(fleet: Fleet) -> None:
    fleet.answers = dict.fromkeys(fleet.answers, OFF)
    with pytest.raises(RingError, match="no device answers, so none was changed"):
        fleet.plan()


def test_a_last_ring_that_vanished_before_its_change_is_told(fleet: Fleet) -> None:
    fleet.plan()
    fleet.answers["edge4"] = OFF
    found = fleet.begin(1)
    assert found["failed"]
    assert "no device of ring late answers" in found["msg"][0]


def test_a_run_that_changed_nobody_fails(fleet: Fleet) -> None:
    fleet.plan()
    end = fleet.step(ended, rings=fleet.rings)
    assert end["failed"]
    assert end["msg"][0] == "no device was changed"


def test_a_rollback_that_makes_nobody_well_is_told(fleet: Fleet) -> None:
    fleet.answers["edge2"] = answer("critical", "no valid credentials")
    fleet.plan()
    fleet.before = fleet.step(begun, ring=fleet.rings[0], mends=True)["before"]
    assert fleet.judge(fleet.answers)["bad"] == ["edge2"]


def test_what_was_before_is_forgotten_when_a_device_is_well_again(fleet: Fleet) -> None:
    fleet.answers["edge1"] = answer("critical", "no valid credentials")
    fleet.plan()
    fleet.begin()
    assert fleet.judge({**fleet.answers, "edge1": OFF})["failed"]
    fleet.answers["edge1"] = answer()
    fleet.plan()
    fleet.begin()
    assert fleet.before["edge1"]["level"] == "ok", "three months later"


def test_a_device_that_left_the_inventory_is_left_no_more(fleet: Fleet) -> None:
    fleet.plan()
    fleet.begin()
    named = dict.fromkeys(["edge2", "edge3"], "")
    fleet.step(planned, rings=[{"name": "all"}], soak=0, named=named, fleet=["edge2", "edge3"])
    assert fleet.left == ["edge2", "edge3"]
