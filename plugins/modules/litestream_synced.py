#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Have every row of every database in S3."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_synced
short_description: Have every row of every database in S3
version_added: 2.0.0
description:
  - Asks Litestream which databases it replicates, and has each of them synced. Succeeds when all that was
    written until then is in S3.
  - Tries again for O(timeout) seconds, since Litestream may have only just started.
  - Litestream 0.3 has no socket and cannot be asked. RV(asked) is false there, and nothing is proven.
options:
  socket:
    description: Socket that passes questions on to Litestream.
    type: path
    default: /run/litestream-query.sock
  timeout:
    description: Seconds after which what is not in S3 fails the task.
    type: int
    default: 90
attributes:
  check_mode:
    description: Asks for the databases, and syncs none.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The last rows are in S3
  edge_litestream.appliance.litestream_synced:
"""

RETURN = r"""
databases:
  description: Paths of the databases.
  returned: success
  type: list
  elements: str
asked:
  description: Whether there is a Litestream that can be asked.
  returned: success
  type: bool
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_query import (
    SOCKET,
    ask,
)

PAUSE_S = 3


def attempt(path: str, sync: bool) -> tuple[list[str], list[str]]:
    """Return the databases, and what kept them from S3."""
    listed = ask(path, "list")
    if listed.get("error"):
        return [], [f"Litestream: {listed['error']}"]
    databases = [one["path"] for one in listed["databases"]]
    answers = {database: ask(path, f"sync {database}") for database in databases if sync}
    return databases, [f"{name}: {said['error']}" for name, said in answers.items() if said.get("error")]


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "socket": {"type": "path", "default": SOCKET},
            "timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    path = module.params["socket"]
    if not os.path.exists(path):
        module.exit_json(changed=False, databases=[], asked=False)
    end = time.monotonic() + module.params["timeout"]
    while True:
        databases, problems = attempt(path, not module.check_mode)
        if not problems:
            module.exit_json(changed=False, databases=databases, asked=True)
        if time.monotonic() >= end:
            module.fail_json(msg="; ".join(problems))
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
