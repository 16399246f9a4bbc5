# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Runs module litestream_config on the control node: the device has no part in it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.module_utils import litestream_config as ls


class ActionModule(ActionBase):
    """What Ansible loads."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module's documentation lists."""
        super().run(tmp, task_vars)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "config": {"type": "raw", "required": True},
                "databases": {"type": "dict", "default": {}},
                "bucket": {"type": "str", "default": ""},
                "region": {"type": "str", "default": ""},
                "version": {"type": "str", "required": True},
                "restart_interval": {"type": "int", "default": 0},
                "prefix": {"type": "str", "default": ""},
                "managed": {"type": "bool", "default": True},
                "socket": {"type": "str", "default": ""},
                "groups": {"type": "dict", "default": {}},
                "group": {"type": "str", "default": "edge-data"},
                "own_group": {"type": "str", "default": "litestream"},
                "meta": {"type": "str", "default": ""},
                "profile": {"type": "str", "default": "default"},
            }
        )
        return plan(args)


def plan(args: dict[str, Any]) -> dict[str, Any]:
    """Return all that follows from a configuration, or its problems."""
    version, interval = args["version"], args["restart_interval"]
    profile = args.get("profile", "default")
    numbered: dict[int, str] = {}
    shared: dict[str, str] = {}
    try:
        config, groups, numbered = ls.merge(
            args["config"], args["databases"], args["groups"], args["group"], version, args
        )
        problems = ls.check(config, version, interval, args["prefix"], args["managed"], profile)
        if not problems:
            shared = ls.groups_of(config, groups, args["group"], args["own_group"])
    except ValueError as error:
        problems = str(error).splitlines()
    if problems:
        problems = [ls.named(problem, numbered) for problem in problems]
        return {"failed": True, "changed": False, "problems": problems, "msg": "\n".join(problems)}
    written = ls.render(config, version, interval, args["socket"], args["meta"], profile)
    return {
        "changed": False,
        "problems": [],
        "config": written,
        "databases": ls.databases(config),
        "patterns": ls.patterns(config),
        "replicas": ls.replica_places(config, args["region"]),
        "sync_interval": ls.sync_interval(config),
        "monitor_interval": ls.monitor_interval(written),
        "directories": list(shared),
        "groups": shared,
        "searches": ls.searches(config),
        "units": ls.units_of(config, args["databases"]),
        "stop_timeout": ls.stop_timeout(config),
    }
