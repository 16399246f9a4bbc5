# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Waits for a phase of an upgrade, also over lost connections; the module has the documentation."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.edge_litestream.appliance.plugins.module_utils.device_status import plain

POLL_S = 5
# How often it is told how far a device is, at most.
TELL_S = 30
display = Display()


class ActionModule(ActionBase):
    """What Ansible loads."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module returned last; fails where the phase did, or takes too long."""
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("state") != "finished":
            return self._ask(args, task_vars)
        device, limit = str((task_vars or {}).get("inventory_hostname")), int(args.get("timeout") or 7200)
        silence = int(args.get("silence") or 900)
        began = told = heard = time.monotonic()
        while True:
            try:
                answer = self._ask(args, task_vars)
                # While its Python is exchanged no module runs there.
                if "finished" in answer or time.monotonic() - heard > silence:
                    heard = time.monotonic()
                else:
                    answer = {"finished": False, "line": f"no answer: {answer.get('msg', '')}"}
            except AnsibleConnectionFailure as error:
                # What was begun goes on there; after a power cut it is begun again.
                if time.monotonic() - heard > silence:
                    raise
                answer = {"finished": False, "line": f"no connection: {error}"}
                with contextlib.suppress(Exception):
                    self._connection.reset()
            if answer.get("failed") or answer.get("finished"):
                return answer
            args["token"] = answer.get("token", args.get("token", ""))
            now = time.monotonic()
            line = plain(str(answer.get("line", "")))
            if now - began > limit:
                return {
                    "failed": True,
                    "changed": True,
                    "msg": f"{args.get('phase')} still runs after {limit} s (debian_upgrade_timeout), and "
                    f"goes on; run this again to wait for it: {line}",
                }
            if now - told >= TELL_S:
                told = now
                display.display(f"{device}: {args.get('phase')}, {now - began:.0f} s: {line}")
            time.sleep(POLL_S)

    def _ask(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_args=args, task_vars=task_vars)
        return answer
