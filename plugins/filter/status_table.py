# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter that makes one line per device of what rotators say."""

from __future__ import annotations

DOCUMENTATION = r"""
name: status_table
short_description: A table of the fleet, one line per device
version_added: 2.0.0
description:
  - Takes what C(edge-rotator status --json) answered on each device. A device that is unreachable or gives
    no answer is a line, too. The last line counts the devices by their status.
  - The columns are device, status, mode, credentials, last rotation, replica, problems.
  - Answers come from devices, so nothing in them is trusted. Control characters become question marks.
positional: _input
options:
  _input:
    description: For each device the registered result of the command; an empty mapping where there is none.
    type: dict
    required: true
author:
  - Edge Litestream appliance
"""

EXAMPLES = r"""
msg: "{{ {'edge-0001': answer} | edge_litestream.appliance.status_table }}"
"""

RETURN = r"""
_value:
  description: Lines of the table.
  type: list
  elements: str
"""

import json
from typing import Any

_LINE = "{:16} {:11} {:11} {:11} {:20} {:8} {}"
_HEAD = ["device", "status", "mode", "credentials", "last rotation", "replica", "problems"]


def _told(answer: Any) -> dict[str, Any]:
    """Return what a rotator said, empty when it is not to be understood."""
    try:
        told = json.loads(answer.get("stdout") or "")
    except (AttributeError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _seconds(value: Any) -> str:
    return f"{value:.0f} s" if isinstance(value, (int, float)) else "-"


def _replica(told: dict[str, Any]) -> str:
    """Return the age of the database that was replicated longest ago."""
    try:
        ages = [database["age_s"] for database in told["replication"]["databases"].values()]
        return "never" if None in ages else _seconds(max(ages, default=None))
    except (AttributeError, KeyError, TypeError):
        return "-"


def _plain(text: Any) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


def _row(device: str, answer: Any) -> list[str]:
    told = _told(answer)
    unreachable = isinstance(answer, dict) and answer.get("unreachable")
    credentials, problems = told.get("credentials"), told.get("problems")
    return [
        _plain(text)
        for text in (
            device,
            "unreachable" if unreachable else told.get("level", "no answer"),
            told.get("mode", "-"),
            _seconds(credentials.get("remaining_s")) if isinstance(credentials, dict) else "-",
            told.get("last_rotation") or "-",
            _replica(told),
            "; ".join(map(str, problems)) if isinstance(problems, list) else "",
        )
    ]


def status_table(answers: dict[str, Any]) -> list[str]:
    """Lines of the table, the first one its head, the last one the number of devices by status."""
    rows = [_row(device, answer) for device, answer in answers.items()]
    levels = [row[1] for row in rows]
    counts = ", ".join(f"{levels.count(level)} {level}" for level in sorted(set(levels)))
    return [_LINE.format(*row).rstrip() for row in [_HEAD, *rows]] + [counts]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"status_table": status_table}
