# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Keeps the report of a restore on the control node; module restore_report has the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import restores
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.rollout import Report, RingError


class ActionModule(ActionBase):
    """What Ansible loads."""

    _requires_connection = False

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module's documentation lists."""
        super().run(tmp, task_vars)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "required": True, "choices": ["planned", "noted", "ended"]},
                "report": {"type": "str", "required": True},
                "devices": {"type": "list", "elements": "str"},
                "device": {"type": "str"},
                "results": {"type": "raw"},
                "failure": {"type": "str", "default": ""},
                "warning": {"type": "str", "default": ""},
                "confirm": {"type": "str", "default": "restore_confirm"},
            },
            required_if=[("state", "noted", ["device"])],
            required_one_of=[("devices", "device")],
        )
        path = str(Path(args["report"]).expanduser().absolute())
        try:
            with restores.opened(path) as report:
                result = self.act(args, report)
                if not self._task.check_mode:
                    report.write()
        except (RingError, OSError) as error:
            return {"failed": True, "changed": False, "msg": f"{path}: {error}"}
        return {"changed": False, "report": path, **result}

    @staticmethod
    def act(args: dict[str, Any], report: Report) -> dict[str, Any]:
        """Do one of the three; return what it has beside the path."""
        if args["state"] == "planned":
            restores.planned(report, args["devices"])
            return {"lines": [restores.line(report, device) for device in args["devices"]]}
        if args["state"] == "noted":
            device = args["device"]
            report.note(device, *restores.verdict(args["results"], args["failure"], args["warning"]))
            word = report.devices[device]["verdict"]
            return {"verdict": word, "lines": [restores.line(report, device)]}
        lines = restores.summary(report, args["devices"], args["confirm"])
        left = [device for device in args["devices"] if device in report.left]
        failed = {"failed": True, "msg": lines} if restores.unfinished(report, args["devices"]) else {}
        return {"lines": lines, "left": left, **failed}
