#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Tell whether a unit runs from what is installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit_stale
short_description: Tell whether a unit was started before what it runs from was changed
version_added: 2.0.0
description:
  - A run that broke off may have changed a program or a configuration, and its handlers never ran.
    The module reports a change when an active unit is older than one of its files, so that a handler follows.
  - Ages are counted by the monotonic clock. What was started before the clock was set is not taken for older.
  - The module itself restarts nothing and changes nothing.
options:
  name:
    description: Name of the unit.
    type: str
    required: true
  files:
    description: What the unit runs from. Of a link, its own time counts. What is missing does not count.
    type: list
    elements: path
    required: true
  groups:
    description:
      - Paths and the names of their groups. A group that was deleted and made again has another number
        than what was made before, like a socket. What is missing does not count.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: Litestream runs what is installed and configured
  edge_litestream.appliance.unit_stale:
    name: litestream.service
    files: [/opt/litestream/current, /etc/litestream.yml]
  notify: Restart litestream
"""

RETURN = r"""
stale:
  description: Files that were changed since the unit was started. Empty when it is not active.
  returned: success
  type: list
  elements: str
regrouped:
  description: Paths of O(groups) that belong to another group. They are no change.
  returned: success
  type: list
  elements: str
"""

import grp
import os
import time

from ansible.module_utils.basic import AnsibleModule


def younger(files: list[str], started: float, now: float) -> list[str]:
    """Return files changed after `started`, seconds of the wall clock; those of the future do not count."""
    found = []
    for path in files:
        try:
            changed = os.lstat(path).st_mtime
        except FileNotFoundError:
            continue
        if started < changed <= now:
            found.append(path)
    return found


def regrouped(groups: dict[str, str]) -> list[str]:
    """Return the paths that belong to another group, or whose group does not exist."""
    found = []
    for path, group in groups.items():
        try:
            number = os.lstat(path).st_gid
        except FileNotFoundError:
            continue
        try:
            if grp.getgrnam(group).gr_gid != number:
                found.append(path)
        except KeyError:
            found.append(path)
    return found


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
            "groups": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    wanted = "--property=ActiveState,ActiveEnterTimestampMonotonic"
    _unused, out, _unused = module.run_command(
        ["systemctl", "show", wanted, "--", module.params["name"]], check_rc=True
    )
    told = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    stale = []
    if told.get("ActiveState") == "active":
        now = time.time()
        age = time.clock_gettime(time.CLOCK_MONOTONIC) - int(told["ActiveEnterTimestampMonotonic"]) / 1e6
        stale = younger(module.params["files"], now - age, now)
    others = regrouped(module.params["groups"])
    module.exit_json(changed=bool(stale), stale=stale, regrouped=others)


if __name__ == "__main__":
    main()
