#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Hash what is in a device's databases, each as of one of Litestream's transactions."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_checksum
short_description: Hash databases that are in use, each as of one of Litestream's transactions
version_added: 2.0.0
description:
  - Waits for the moment at which Litestream has read all that is committed, which comes about once a second,
    and reads the database as it is then. Nobody who writes waits for it. While it reads, the log cannot be
    begun anew, and grows by what is written.
  - Where C(monitor-interval) is more than 5 s, Litestream is asked to sync the database meanwhile, so that it
    has all of it at once, and not an hour later. What was written until then goes to S3.
  - Runs as Litestream's user, without a network, in a sandbox, for root parses no database that others made.
  - M(edge_litestream.appliance.litestream_drill) finds the same checksum in what it restores as of that
    transaction.
  - Needs Litestream 0.5. Whatever keeps a database from being read is told, and fails nothing.
options:
  config:
    description: Litestream's configuration, as M(edge_litestream.appliance.litestream_config) returns it.
    type: dict
    required: true
  wait:
    description: Seconds to wait for a moment at which Litestream has all of a database.
    type: int
    default: 30
  timeout:
    description: Seconds that a database may be read, the wait included.
    type: int
    default: 120
  databases:
    description:
      - Paths of the databases to read, as M(edge_litestream.appliance.litestream_drill) has drawn them.
      - Without it those that a C(path) of the configuration names, then those of its directories.
    type: list
    elements: str
  socket:
    description: Socket that passes questions on to Litestream.
    type: path
    default: /run/litestream-query.sock
  most:
    description: Databases to read at most.
    type: int
    default: 20
  unit:
    description: Unit of Litestream.
    type: str
    default: litestream.service
attributes:
  check_mode:
    description: Changes nothing in any mode, and has nothing synced.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The device tells what is in its databases
  edge_litestream.appliance.litestream_checksum:
    config: "{{ plan.config }}"
"""

RETURN = r"""
databases:
  description:
    - By path, with C(txid), C(checksum) and C(waited_s).
    - Where it could not be read, why, in C(failed); C(behind) is true there if the database has more than
      Litestream has read.
  returned: success
  type: dict
"""

import inspect
import json
import os
import subprocess
import threading
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import (
    database_content,
    litestream_query,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils import (
    litestream_config as ls,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_unit import (
    UnitError,
    transient,
    unit_properties,
)

LIMIT = "--property=RuntimeMaxSec={}"
# Behind the application, whose device it is.
MODEST = ["--property=Nice=19", "--property=IOSchedulingClass=idle", "--property=MemoryMax=512M"]
MARGIN_S = 30  # what starting the program may take on a slow device
PAUSE_S = 2  # between two syncs, each of which is an upload where something was written


class Syncs(threading.Thread):
    """Has a database synced, again and again: what is written meanwhile is to be read by Litestream, too."""

    def __init__(self, path: str, database: str, seconds: int) -> None:
        super().__init__(daemon=True)  # an answer that is not needed any more is not waited for
        self.path, self.database, self.seconds = path, database, seconds
        self.ended, self.error = threading.Event(), ""

    def run(self) -> None:
        """Ask until somebody ends it, or the time is over."""
        end, self.error = time.monotonic() + self.seconds, "it does not answer"
        while not self.ended.is_set() and time.monotonic() < end:
            self.error = litestream_query.ask(self.path, f"sync {self.database}").get("error", "")
            self.ended.wait(PAUSE_S)


def ask(unit: dict[str, list[str]], directory: str, request: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Have the program answer a question in its sandbox."""
    command = ["/usr/bin/python3", "-I", "-c", inspect.getsource(database_content)]
    # The program cannot be stopped from here, but systemd ends it.
    prefix = [*transient(unit, directory, network=False), *MODEST, LIMIT.format(seconds + MARGIN_S)]
    done = subprocess.run(
        [*prefix, *command], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return {"failed": database_content.plain(said)}


def paths(unit: dict[str, list[str]], config: dict[str, Any], most: int) -> list[str]:
    """Paths of the databases: those that are named, then what is in the directories."""
    found: list[str] = ls.databases(config)
    for pattern in ls.patterns(config):
        question = {"act": "names", "pattern": pattern, "most": most}
        found += ask(unit, os.path.dirname(pattern.split("*")[0]), question, MARGIN_S).get("paths", [])
    return found[:most]


def read(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    unit = unit_properties(params["unit"])
    databases: dict[str, Any] = {}
    drawn = params["databases"]
    for path in paths(unit, params["config"], params["most"]) if drawn is None else drawn[: params["most"]]:
        try:
            _path, entry = ls.choose(params["config"], path)
        except ValueError:
            databases[path] = {"failed": "it is none of the device's databases"}
            continue
        where, own = ls.meta(entry, path)
        question = {"act": "compare", "path": path, "meta": os.path.join(where, own)}
        question |= {"wait": params["wait"], "seconds": params["timeout"]}
        rarely = ls.monitor_interval({"dbs": [entry]})
        syncs = Syncs(params["socket"], path, params["wait"] + MARGIN_S)
        if rarely > ls.RARELY_S and not module.check_mode:
            syncs.start()
        told = databases[path] = ask(unit, os.path.dirname(path), question, params["timeout"])
        syncs.ended.set()
        if told.get("behind") and syncs.error:
            why = database_content.plain(syncs.error)
            told["failed"] = (
                f"Litestream looks at it every {rarely:g} s, and did not sync it when asked: {why}"
            )
    return {"databases": databases}


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "config": {"type": "dict", "required": True},
            "wait": {"type": "int", "default": 30},
            "timeout": {"type": "int", "default": 120},
            "databases": {"type": "list", "elements": "str"},
            "socket": {"type": "path", "default": litestream_query.SOCKET},
            "most": {"type": "int", "default": 20},
            "unit": {"type": "str", "default": "litestream.service"},
        },
        supports_check_mode=True,
    )
    try:
        done = read(module)
    except (UnitError, ValueError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **done)


if __name__ == "__main__":
    main()
