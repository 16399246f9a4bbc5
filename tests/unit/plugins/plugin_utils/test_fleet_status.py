"""What a device says is read by a schema: whatever it is, the fleet has its row and its page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import fleet_page, fleet_status

NOBODY = {"problems", "level", "device", "drift", "databases", "never_replicated"}


def said(**told: Any) -> dict[str, Any]:
    return {"stdout": json.dumps({"level": "ok", "problems": [], **told})}


def told(answer: Any) -> dict[str, Any]:
    device: dict[str, Any]
    (device,) = fleet_status.fleet({"edge01": answer})
    assert len(json.dumps(device, allow_nan=False)) < 20_000
    return device


@pytest.mark.parametrize(
    "answer",
    [
        {"stdout": "[" * 200_000 + "]" * 200_000},
        {"stdout": '{"level": "ok", "problems": ' + "[" * 200_000 + "]" * 200_000 + "}"},
        {"stdout": '{"level": "ok", "x": ' + '{"x": ' * 100_000 + "1" + "}" * 100_001},
        {"stdout": '{"level": "ok", "certificate": {"remaining_s": NaN}}'},
        {"stdout": '{"level": "ok", "credentials": {"remaining_s": Infinity}}'},
        {"stdout": '{"level": "ok", "credentials": {"remaining_s": ' + "9" * 5000 + "}}"},
        {"stdout": '{"level": "ok", "thing": "' + "x" * 4_194_304 + '"}'},
        {"stdout": '{"level": "ok", "thing": 7}'},
        {"stdout": '{"level": "<b>"}'},
        {"stdout": '{"level": ["ok"]}'},
        {"stdout": "[]"},
        {"stdout": b"{}"},
        {"stdout": None},
        None,
        [],
        "",
    ],
)
def test_what_is_no_answer_is_a_device_without_one(answer: Any) -> None:
    device = told(answer)
    assert device["level"] == "no answer"
    assert len(device["problems"]) == 1
    assert {name for name, value in device.items() if value not in (None, False, 0, [])} <= NOBODY


def test_a_database_that_was_never_replicated_is_told() -> None:
    databases = {"/a": {"age_s": 3}, "/b": {"age_s": 7}}
    names = ("never_replicated", "replica_age_s", "replica_limit_s")
    device = told(said(replication={"databases": databases, "limit_s": 17}))
    assert [device[name] for name in names] == [False, 7, 17]
    device = told(said(replication={"databases": {**databases, "/c": {"age_s": None}}}))
    assert [device[name] for name in names] == [True, None, None]


def test_texts_are_cut_and_cannot_act_on_a_terminal() -> None:
    evil = "\x1b[2J\u2028\u202e\ud800" + "x" * 1_000
    device = told(said(problems=[evil] * 500, thing=evil))
    assert device["problems"] == ["?[2J???" + "x" * 493] * fleet_status.MAX_PROBLEMS
    assert device["thing"] == device["problems"][0]


def test_why_there_is_no_answer_is_told() -> None:
    assert told({"unreachable": True, "msg": "ssh: no\nroute\x07"})["problems"] == ["ssh: no route?"]
    assert told({"rc": 127, "stdout": "", "stderr": "not found"})["problems"] == ["not found"]
    # It may have answered before it was gone; what counts is that nobody reaches it.
    assert told({**said(), "unreachable": True})["level"] == "unreachable"


def test_drift_is_from_the_inventory_or_else_from_most_devices() -> None:
    answers = {
        "edge01": said(version="2.0.0", mode="process"),
        "edge02": said(version="2.0.0", mode="process"),
        "edge03": said(version="1.9.0", mode="environment"),
        "edge04": said(mode="environment"),
        "edge05": {"unreachable": True},
    }
    wanted = {"edge04": {"mode": "environment"}, "edge01": {"rotator": "2.1.0"}}
    devices = fleet_status.fleet(answers, wanted)
    assert [[(each["what"], each["is"], each["wanted"]) for each in one["drift"]] for one in devices] == [
        [("rotator", "2.0.0", "2.1.0")],
        [],
        [("rotator", "1.9.0", "2.0.0"), ("mode", "environment", "process")],
        [("rotator", "older", "2.0.0")],
        [],
    ]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(None, ""), (0, "none"), (-7200, "over for 2 h"), (119, "119 s"), (7199, "119 min"), (172800, "2 d")],
)
def test_life(seconds: float | None, says: str) -> None:
    assert fleet_page.life(seconds) == says
