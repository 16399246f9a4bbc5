# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter that makes one line per database of what drills found."""

from __future__ import annotations

DOCUMENTATION = r"""
name: drill_table
short_description: A table of restore drills, one line per database
version_added: 2.0.0
description:
  - Takes what M(edge_litestream.appliance.litestream_drill) returned for each device. A device for which
    there is nothing is a line, too. The last line counts. What was only looked at has a hyphen.
  - The columns are thing, database, restored, rows, recovery point (seconds), recovery time (seconds),
    compared, problem.
  - Control characters become question marks.
positional: _input
options:
  _input:
    description: For each device the registered result; an empty mapping where there is none.
    type: dict
    required: true
author:
  - Edge Litestream appliance
"""

EXAMPLES = r"""
msg: "{{ {'edge-0001': drilled} | edge_litestream.appliance.drill_table }}"
"""

RETURN = r"""
_value:
  description: Lines of the table.
  type: list
  elements: str
"""

from typing import Any

_LINE = "{:16} {:32} {:8} {:>9} {:>10} {:>8} {:8} {}"
_HEAD = ["thing", "database", "restored", "rows", "point age", "recovery", "compared", "problem"]


def _plain(text: Any) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


def _rows(device: str, drilled: dict[str, Any]) -> list[list[str]]:
    records = drilled.get("databases") or []
    if not records:
        return [[device, "-", "no", "-", "-", "-", "no", drilled.get("msg") or "it was not drilled"]]
    return [
        [
            record["thing"],
            record["database"],
            ("yes" if record["restored"] else "-") if record["ok"] else "no",
            "-" if record["rows"] is None else record["rows"],
            "-" if record["point_age_s"] is None else f"{record['point_age_s']} s",
            "-" if record["recovery_s"] is None else f"{record['recovery_s']} s",
            record["compared"],
            record["reason"] or (record["uncompared"] and f"(not compared: {record['uncompared']})"),
        ]
        for record in records
    ]


def drill_table(drilled: dict[str, Any]) -> list[str]:
    """Lines of the table, the first one its head, the last one how many databases were restored."""
    rows = [row for device, result in drilled.items() for row in _rows(device, result)]
    good = sum(row[2] == "yes" for row in rows)
    equal = sum(row[6] == "equal" for row in rows)
    lines = [_LINE.format(*map(_plain, row)).rstrip() for row in [_HEAD, *rows]]
    return [*lines, f"{good} of {len(rows)} restored, {equal} compared and equal"]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"drill_table": drill_table}
