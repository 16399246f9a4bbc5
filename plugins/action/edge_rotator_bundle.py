"""Have the bundle of a device's platform on the control node; see the module's documentation."""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import artifacts, bundle
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.building import (
    BuildError,
    BuildingAction,
)
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import KeptError, NotMadeError

WITHOUT = (
    "After an upgrade to Debian {release} nothing will rotate until the device is converged again, because "
    "what runs there cannot be made: {error}\nWith edge_rotator_next_release: false this is not tried."
)


ERRORS = (bundle.BundleError, BuildError, KeptError, artifacts.ArtifactError)
# Of the other release; what was changed in the cache, another KeptError, still ends the play.
FAILURES = (bundle.BundleError, BuildError, NotMadeError, subprocess.SubprocessError)


class ActionModule(BuildingAction):
    """The bundle is the control node's; what is compiled is the connection's, which is a build host's."""

    _VALID_ARGS = frozenset({"cache", "platform", "mirrors", "artifacts"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make what is missing; fails with one sentence and its fix."""
        super().run(tmp, task_vars)
        args = self._task.args
        said: dict[str, Any] = {}
        try:
            plan = bundle.Plan(args["cache"], **args["platform"])
            if source := args.get("artifacts"):
                return {"changed": False, **artifacts.bundle(plan, source, self._task.check_mode)}
            # Check mode makes nothing, not even on the control node.
            if not plan.assembled() and not self._task.check_mode:
                with tempfile.TemporaryDirectory() as name:
                    wheels = self._wheels(plan.own, Path(name, "own"), task_vars)
                    if plan.upgrade:
                        try:
                            wheels += self._wheels(plan.upgrade, Path(name, "upgrade"), task_vars)
                        except FAILURES as error:
                            said["warnings"] = [WITHOUT.format(release=plan.upgrade.release, error=error)]
                            plan = bundle.Plan(args["cache"], **{**args["platform"], "upgrade": None})
                    bundle.assemble(plan, wheels)
            return {"changed": False, **said, **plan.report()}
        except (*ERRORS, OSError, subprocess.SubprocessError) as error:
            raise AnsibleActionFail(str(error)) from error

    def _wheels(self, build: bundle.Build, folder: Path, task_vars: Any) -> list[Path]:
        """Wheels of one release: those that are compiled, and PyPI's."""
        wheels: list[Path] = bundle.fetch_wheels(build, folder)
        if build.compiled:
            options = {
                "release": build.release,
                "machine": build.machine,
                "packages": bundle.BUILD_PACKAGES,
                "script": build.script,
                "mirrors": self._task.args.get("mirrors", []),
            }
            sources = partial(bundle.fetch_sources, build)
            wheels += self.build(options, sources, build.built, task_vars)
        return wheels
