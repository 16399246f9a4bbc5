"""Have files built by a host that is trusted; see the module's documentation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.building import (
    BuildError,
    BuildingAction,
    check_platform,
)
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import KeptError, kept


class ActionModule(BuildingAction):
    """Sources and result are the control node's, the build is the connection's."""

    _VALID_ARGS = frozenset(
        {"release", "machine", "packages", "script", "sources", "output", "mirrors", "timeout"}
    )

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Build unless the result is there; fails with one sentence and its fix."""
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        try:
            check_platform(options)
            sources, output = Path(options.pop("sources")), Path(options.pop("output"))
            files = kept(output)
            changed = not files
            if changed and not self._task.check_mode:

                def fill(folder: Path) -> None:
                    shutil.copytree(sources, folder, dirs_exist_ok=True)

                files = self.build(options, fill, output, task_vars)
            return {"changed": changed, "files": [str(path) for path in files]}
        except (BuildError, KeptError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
