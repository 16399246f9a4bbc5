"""Have ansible-core for devices that pull; see the module's documentation."""

from __future__ import annotations

import subprocess
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import artifacts, bundle
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import KeptError


class ActionModule(ActionBase):
    """Runs on the control node alone, which is the device where it pulls."""

    _VALID_ARGS = frozenset({"cache", "artifacts"})
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make or fetch what is missing; fails with one sentence and its fix."""
        super().run(tmp, task_vars)
        try:
            core = bundle.Core(self._task.args["cache"])
            if source := self._task.args.get("artifacts"):
                return {"changed": False, **artifacts.bundle(core, source, self._task.check_mode)}
            if not self._task.check_mode:
                core.make()
            return {"changed": False, **core.report()}
        except (
            *(bundle.BundleError, KeptError, artifacts.ArtifactError),
            *(OSError, subprocess.SubprocessError),
        ) as error:
            raise AnsibleActionFail(str(error)) from error
