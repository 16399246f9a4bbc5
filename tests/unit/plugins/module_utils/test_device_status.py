"""A device's status is data: bounded, of the types we know, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils.device_status import (
    LARGEST,
    LONGEST,
    MOST,
    SCHEMA,
    parse,
)

from edge_rotator import status as rotator


def told(**more: Any) -> str:
    return json.dumps({"level": "ok", **more})


def test_what_a_rotator_says_is_read() -> None:
    database = {"age_s": 3, "known": True, "problem": None}  # the last two are read by nobody
    status = parse(
        told(
            thing="edge01",
            problems=["the certificate has expired or soon will"],
            credentials={"remaining_s": 12.5, "file": "/run/edge-rotator/credentials.json"},
            replication={"error": None, "socket": "/run/s", "databases": {"/var/lib/a.db": database}},
        )
    )
    assert status["thing"] == "edge01"
    assert status["problems"] == ["the certificate has expired or soon will"]
    assert status["credentials"] == {"remaining_s": 12.5}, "what nobody reads is dropped"
    assert status["replication"]["databases"] == {"/var/lib/a.db": {"age_s": 3.0}}


def test_every_key_is_there_where_a_rotator_knows_nothing_of_itself() -> None:
    """As one whose configuration cannot be read."""
    status = parse(json.dumps({"level": "unknown", "exit_code": 3, "problems": ["no configuration"]}))
    assert status.keys() == SCHEMA.keys()
    assert status["credentials"] == {"remaining_s": None}
    assert status["replication"] == {"version": None, "limit_s": None, "databases": {}}


def test_levels_are_the_rotators() -> None:
    assert [parse(json.dumps({"level": level}))["level"] for level in rotator.LEVELS] == list(rotator.LEVELS)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "edge-rotator: not found",
        "[]",
        "null",
        "{}",
        '{"level": "fine"}',
        '{"level": ["ok"]}',
        "[" * 100000,
        '{"level": "ok", "credentials": {"remaining_s": NaN}}',
        '{"level": "ok", "credentials": {"remaining_s": 1e300}}',
        '{"level": "ok", "credentials": {"remaining_s": 1e999}}',
        '{"level": "ok", "credentials": {"remaining_s": ' + "9" * 5000 + "}}",
        told(credentials={"remaining_s": "0"}),
        told(credentials={"remaining_s": True}),
        told(last_error={"current": 1}),
        told(problems="none"),
        told(problems=[{"a": 1}]),
        told(credentials=[]),
        told(replication={"databases": {"/a.db": None, "/b.db": 3}}),
        told(thing=["{{ 1 }}"]),
        told(thing="a" * LARGEST),
    ],
    ids=lambda answer: answer[:40],
)
def test_what_no_rotator_says_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="its "):
        parse(answer)


def test_texts_and_lists_are_bounded_and_plain() -> None:
    status = parse(told(thing="a\x1b[2J\u202e\ud800\n", problems=["x" * 9999] * 200))
    assert status["thing"] == "a?[2J???"
    assert [len(text) for text in status["problems"]] == [LONGEST] * MOST
