"""Ansible callback: from task number $EDGE_DROP_AT of a run on, no device can be reached by ssh any more."""

from __future__ import annotations

import atexit
import os
import subprocess
from typing import Any

from ansible.plugins.callback import CallbackBase

from lab.settings import inventory

DOCUMENTATION = """
name: drop_at
type: aggregate
short_description: Drop the connection to the devices at a task
description: The task is the one whose number is in the environment as EDGE_DROP_AT.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Count tasks, and close the way to the devices when the number is reached."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "drop_at"
    CALLBACK_NEEDS_ENABLED = True
    tasks = 0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Act on the task that is about to begin."""
        self.tasks += 1
        if self.tasks == int(os.environ["EDGE_DROP_AT"]):
            self._display.display(f"drop_at: the connection is gone from task {self.tasks} on, {task.name}")
            for machine in inventory().values():
                if machine.name.startswith("edge"):
                    rule = ("OUTPUT", "-d", machine.address, "-p", "tcp", "--dport", "22", "-j", "REJECT")
                    # A reset, so that nobody waits; it also ends what ssh shares.
                    rule += ("--reject-with", "tcp-reset")
                    subprocess.run(["iptables", "-w", "-I", *rule], check=True)
                    atexit.register(subprocess.run, ["iptables", "-w", "-D", *rule], check=True)
