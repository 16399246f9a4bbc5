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
  - Answers come from devices, so nothing in them is trusted. They are read by a schema, texts are cut short,
    and control characters become question marks.
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

from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import fleet_status

_LINE = "{:16} {:11} {:11} {:11} {:20} {:8} {}"
_HEAD = ["device", "status", "mode", "credentials", "last rotation", "replica", "problems"]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _row(told: dict[str, Any]) -> list[str]:
    return [
        told["device"],
        told["level"],
        told["mode"] or "-",
        _seconds(told["credentials_s"]),
        told["last_rotation"] or "-",
        "never" if told["never_replicated"] else _seconds(told["replica_age_s"]),
        "; ".join(told["problems"]),
    ]


def status_table(answers: dict[str, Any]) -> list[str]:
    """Lines of the table, the first one its head, the last one the number of devices by status."""
    devices = fleet_status.fleet(answers)
    counts = ", ".join(f"{count} {level}" for level, count in fleet_status.counts(devices).items())
    return [_LINE.format(*row).rstrip() for row in [_HEAD, *map(_row, devices)]] + [counts]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"status_table": status_table}
