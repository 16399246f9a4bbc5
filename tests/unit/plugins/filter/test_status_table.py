"""status_table: a line per device whatever it answered, and the counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.filter.status_table import status_table


def answer(**told: Any) -> dict[str, Any]:
    report = {
        "level": "ok",
        "mode": "process",
        "credentials": {"file": "/run/x", "remaining_s": 41.6},
        "last_rotation": "2026-11-22T10:00:00Z",
        "replication": {"databases": {"/a.db": {"age_s": 1.2}, "/b.db": {"age_s": 7.9}}},
        "problems": [],
    }
    return {"stdout": json.dumps({**report, **told})}


def cells(line: str) -> list[str]:
    widths = [17, 12, 12, 12, 21, 9]
    found = []
    for width in widths:
        found.append(line[:width].strip())
        line = line[width:]
    return [*found, line]


def test_every_device_is_a_line() -> None:
    lines = status_table(
        {
            "edge01": answer(),
            "edge02": answer(level="critical", problems=["no credentials", "clock"], last_rotation=None),
            "edge03": {"unreachable": True, "msg": "no route"},
            "edge04": {"stdout": "", "rc": 127},
            "edge05": {},
        }
    )
    head = ["device", "status", "mode", "credentials", "last rotation", "replica", "problems"]
    assert cells(lines[0]) == head
    assert cells(lines[1]) == ["edge01", "ok", "process", "42 s", "2026-11-22T10:00:00Z", "8 s", ""]
    assert cells(lines[2]) == ["edge02", "critical", "process", "42 s", "-", "8 s", "no credentials; clock"]
    assert cells(lines[3]) == ["edge03", "unreachable", "-", "-", "-", "-", "no route"]
    assert cells(lines[4])[1] == cells(lines[5])[1] == "no answer"
    assert lines[-1] == "1 critical, 1 unreachable, 2 no answer, 1 ok"


@pytest.mark.parametrize(
    ("replication", "cell"),
    [
        ({"databases": {}}, "-"),
        ({"databases": {"/a.db": {"age_s": None}, "/b.db": {"age_s": 3}}}, "never"),
        (None, "-"),
        ([], "-"),
    ],
)
def test_the_replica_is_that_of_the_database_longest_ago(replication: Any, cell: str) -> None:
    assert cells(status_table({"edge01": answer(replication=replication)})[1])[5] == cell


@pytest.mark.parametrize("stdout", ["[]", "{", '"x"', '{"credentials": 1, "problems": "x", "level": {}}'])
def test_an_answer_that_nobody_understands_is_a_line(stdout: str) -> None:
    assert status_table({"edge01": {"stdout": stdout}})[1].startswith("edge01 ")


def test_a_device_cannot_write_on_the_operators_terminal() -> None:
    text = "\n".join(status_table({"edge01": answer(problems=["\x1b[2Jgone\r\nedge02  ok"])}))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3
