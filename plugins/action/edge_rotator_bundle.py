"""Have the bundle of a device's platform on the control node; see the module's documentation."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import bundle
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.building import (
    BuildError,
    BuildingAction,
)
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import KeptError


class ActionModule(BuildingAction):
    """The bundle is the control node's; what is compiled is the connection's, which is a build host's."""

    _VALID_ARGS = frozenset({"cache", "platform", "mirrors"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make what is missing; fails with one sentence and its fix."""
        super().run(tmp, task_vars)
        args = self._task.args
        try:
            plan = bundle.Plan(args["cache"], **args["platform"])
            # Check mode makes nothing, not even on the control node.
            if not plan.assembled() and not self._task.check_mode:
                built = self._built(plan, args.get("mirrors", []), task_vars) if plan.compiled else []
                bundle.assemble(plan, built)
            return {"changed": False, **plan.report()}
        except (bundle.BundleError, BuildError, KeptError, OSError, subprocess.SubprocessError) as error:
            raise AnsibleActionFail(str(error)) from error

    def _built(self, plan: bundle.Plan, mirrors: list[str], task_vars: Any) -> list[Path]:
        """Wheels that are compiled for the platform."""
        options = {
            "release": plan.release,
            "machine": plan.machine,
            "packages": bundle.BUILD_PACKAGES,
            "script": plan.script,
            "mirrors": mirrors,
        }
        sources = partial(bundle.fetch_sources, plan)
        wheels: list[Path] = self.build(options, sources, plan.built, task_vars)
        return wheels
