# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Write the page of the fleet, and its data, on the control node; the module's documentation says more."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import fleet_page, fleet_status

COLLECTION = Path(__file__).resolve().parents[2]


def release() -> str:
    """Version of the rotator that this collection installs."""
    sys.path.insert(0, str(COLLECTION))
    try:
        from edge_rotator import __version__  # noqa: PLC0415 - lies beside the plugins, not on the path
    finally:
        sys.path.pop(0)
    return __version__


class ActionModule(ActionBase):
    """Runs on the control node alone, in Ansible's own process."""

    _VALID_ARGS = frozenset({"answers", "path"})
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write both files; fails naming the path that cannot be written."""
        super().run(tmp, task_vars)
        answers: dict[str, Any] = self._task.args["answers"]
        path = Path(self._task.args["path"]).expanduser().absolute()
        data = path.with_suffix(".json")
        if path.suffix != ".html":
            raise AnsibleActionFail(f"status_page is '{path}': give a file's name that ends in .html")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        devices = fleet_status.fleet(answers, self._wanted(answers, (task_vars or {}).get("hostvars", {})))
        document = {"gathered": now, "counts": fleet_status.counts(devices), "devices": devices}
        if not self._task.check_mode:
            try:
                replace(str(path), fleet_page.render(devices, now), 0o600)
                replace(str(data), json.dumps(document, indent=1, allow_nan=False) + "\n", 0o600)
            except OSError as error:
                raise AnsibleActionFail(
                    f"status_page is '{path}', which cannot be written: {error.strerror}"
                ) from None
        return {"changed": False, "page": str(path), "data": str(data)}

    def _wanted(self, devices: dict[str, Any], known: Any) -> dict[str, dict[str, str]]:
        """Say what the inventory, and this release, want of each device; no word of a device is in it."""
        version = release()
        wanted = {}
        for device in devices:
            wanted[device] = {"rotator": version}
            for name, variable in fleet_status.SAME.items():
                # One that needs facts of the device is not known here.
                with contextlib.suppress(AnsibleError):
                    if variable and (value := known.get(device, {}).get(variable)):
                        wanted[device][name] = str(value)
        return wanted
