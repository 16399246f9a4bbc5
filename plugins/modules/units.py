#!/usr/bin/python
"""Start, stop or remove several systemd units in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Start, stop or remove several systemd units in one step
description:
  - Does for a list of units what M(ansible.builtin.systemd_service) does for one, in one step and in
    the right order.
  - Timers and paths start other units, so they are stopped before services.
options:
  names:
    description: Names of the units.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(started) reads changed unit files again, enables what can be enabled, and starts what does not run.
      - V(stopped) stops what runs, and what is just starting.
      - V(absent) also disables the units and deletes their files in C(/etc/systemd/system).
    type: str
    choices: [started, stopped, absent]
    default: started
  restart:
    description: With O(state=started), restart those of O(names) that run already.
    type: bool
    default: false
  enabled:
    description: With O(state=started), units that are enabled and not started, because something else
      starts them.
    type: list
    elements: str
    default: []
  absent:
    description: Units that are removed before that, short for O(state=absent).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The timer and the path run
  edge_litestream.appliance.units:
    names: [edge-rotator.timer, edge-rotator-due.path]
    absent: [edge-rotator-metrics.timer, edge-rotator-metrics.service]
"""

RETURN = r"""
commands:
  description: What was done, or in check mode would have been.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DIRECTORY = Path("/etc/systemd/system")
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload"


class Units:
    """The units of one task, and what was done with them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.later: list[str] = module.params["enabled"]
        self.names: list[str] = module.params["names"] + self.later
        self.commands: list[str] = []

    def systemctl(self, verb: str, *names: str) -> None:
        """Run systemctl, or only note it in check mode; fails the task where systemctl fails."""
        command = ["systemctl", verb, *names]
        self.commands.append(" ".join(command))
        if not self.module.check_mode:
            code, _unused, errors = self.module.run_command(command)
            if code:
                self.module.fail_json(msg=f"{' '.join(command)}: {errors.strip()}", commands=self.commands)

    def show(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Ask systemd about several units at once: name -> property -> value."""
        code, output, errors = self.module.run_command(
            ["systemctl", "show", f"--property={PROPERTIES}", *names]
        )
        if code:
            self.module.fail_json(msg=f"systemctl show: {errors.strip()}")
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.split("\n\n")]
        return dict(zip(names, blocks, strict=True))

    def stop(self, names: list[str]) -> None:
        """Stop what runs: first what starts other units, then the services."""
        running = [
            name
            for name, unit in self.show(names).items()
            if unit["ActiveState"] not in ("inactive", "failed")
        ]
        for services in (False, True):
            group = [name for name in running if name.endswith(".service") == services]
            if group:
                self.systemctl("stop", *group)

    def remove(self, names: list[str]) -> None:
        """Stop, disable and delete."""
        self.stop(names)
        files = [name for name in names if (DIRECTORY / name).exists()]
        if not files:
            return
        enabled = [name for name, unit in self.show(names).items() if unit["UnitFileState"] == "enabled"]
        if enabled:
            self.systemctl("disable", *enabled)
        failed = [name for name, unit in self.show(names).items() if unit["ActiveState"] == "failed"]
        if failed:
            self.systemctl("reset-failed", *failed)
        for name in files:
            self.commands.append(f"rm {DIRECTORY / name}")
            if not self.module.check_mode:
                (DIRECTORY / name).unlink()
        self.systemctl("daemon-reload")

    def start(self, restart: bool) -> None:
        """Enable and start; a unit whose file check mode has not written yet is taken as one to start."""
        units = self.show(self.names)
        # A new file that replaces a package's unit is not seen by systemd itself.
        if restart or any(
            unit["NeedDaemonReload"] == "yes" or unit["LoadState"] == "not-found" for unit in units.values()
        ):
            self.systemctl("daemon-reload")
            units = self.show(self.names)
        disabled = [name for name, unit in units.items() if unit["UnitFileState"] in ("disabled", "")]
        if disabled:
            self.systemctl("enable", *disabled)
        running = [name for name, unit in units.items() if unit["ActiveState"] in ("active", "reloading")]
        if restart and (again := [name for name in running if name not in self.later]):
            self.systemctl("restart", *again)
        if idle := [name for name in self.names if name not in running + self.later]:
            self.systemctl("start", *idle)


def main() -> None:
    """Bring the units into the state that was asked for."""
    module = AnsibleModule(
        {
            "names": {"type": "list", "elements": "str", "default": []},
            "state": {"choices": ["started", "stopped", "absent"], "default": "started"},
            "restart": {"type": "bool", "default": False},
            "enabled": {"type": "list", "elements": "str", "default": []},
            "absent": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    units = Units(module)
    state, absent = module.params["state"], module.params["absent"]
    if absent:
        units.remove(absent)
    if units.names:
        if state == "started":
            units.start(module.params["restart"])
        elif state == "stopped":
            units.stop(units.names)
        else:
            units.remove(units.names)
    module.exit_json(changed=bool(units.commands), commands=units.commands)


if __name__ == "__main__":
    main()
