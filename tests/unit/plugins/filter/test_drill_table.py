"""drill_table: what drills found, as lines for people."""

from __future__ import annotations

from ansible_collections.edge_litestream.appliance.plugins.filter.drill_table import drill_table

RECORD = {
    "thing": "edge-0001",
    "database": "/var/lib/app.db",
    "ok": True,
    "restored": True,
    "rows": 12,
    "point_age_s": 3,
    "recovery_s": 1.25,
    "compared": "equal",
    "reason": "",
    "uncompared": "",
}


def test_a_line_for_each_database_and_one_that_counts() -> None:
    head, one, other, count = drill_table(
        {
            "edge01": {
                "databases": [
                    RECORD,
                    {**RECORD, "rows": None, "compared": "no", "uncompared": "the device cannot be reached"},
                ]
            }
        }
    )
    assert " ".join(head.split()) == "thing database restored rows point age recovery compared problem"
    assert " ".join(one.split()) == "edge-0001 /var/lib/app.db yes 12 3 s 1.25 s equal"
    assert other.endswith("no       (not compared: the device cannot be reached)")
    assert count == "2 of 2 restored, 1 compared and equal"


def test_what_was_not_restored_has_its_reason() -> None:
    failed = {
        **RECORD,
        "ok": False,
        "rows": None,
        "compared": "no",
        "reason": "it is damaged:\x1b[2J\nall is well",
    }
    _head, one, two, three, count = drill_table(
        {"edge01": {"databases": [failed]}, "edge02": {"msg": "no boto3"}, "edge03": {}}
    )
    assert one.endswith("it is damaged:?[2J?all is well")
    assert two.endswith("no boto3")
    assert three.endswith("it was not drilled")
    assert count == "0 of 3 restored, 0 compared and equal"
