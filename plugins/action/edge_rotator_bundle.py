"""Have the bundle of a device's platform on the control node; see the module's documentation."""

from __future__ import annotations

import subprocess
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import bundle


class ActionModule(ActionBase):
    """Runs on the control node alone, in Ansible's own process."""

    _VALID_ARGS = frozenset({"cache", "platform", "state"})
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do one step; fails with one sentence and its fix."""
        super().run(tmp, task_vars)
        args = self._task.args
        try:
            plan = bundle.Plan(args["cache"], **args["platform"])
            # Check mode makes nothing, not even on the control node.
            bundle.provide(plan, "planned" if self._task.check_mode else args.get("state", "assembled"))
            return {"changed": False, **plan.report()}
        except (bundle.BundleError, OSError, subprocess.SubprocessError) as error:
            raise AnsibleActionFail(str(error)) from error
