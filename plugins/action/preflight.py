"""Stop before anything changes, and name all that has to be corrected."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars


class ActionModule(ActionBase):
    """Runs on the control node alone."""

    _VALID_ARGS = frozenset({"rules", "derived", "renamed", "renamed_values"})
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Collect every message; fail with all of them."""
        super().run(tmp, task_vars)
        known = task_vars or {}
        args = self._task.args
        problems = [rule["message"] for rule in args.get("rules") or [] if not self._holds(rule["that"])]
        if args.keys() - {"rules"}:
            problems += self._inventory_problems(args, known)
        if problems:
            raise AnsibleActionFail("\n".join(" ".join(str(problem).split()) for problem in problems))
        return {"changed": False}

    def _holds(self, conditions: Any) -> bool:
        for condition in conditions if isinstance(conditions, list) else [conditions]:
            if not self._templar.evaluate_conditional(condition):
                return False
        return True

    def _inventory_problems(self, args: dict[str, Any], known: dict[str, Any]) -> list[str]:
        host = known["inventory_hostname"]
        # What the inventory says; no role's defaults, and nothing that a playbook hands from role to role.
        inventory = known["hostvars"][host]
        # What is given by -e outranks all, so it is not ignored.
        given = load_extra_vars(self._loader)
        problems = [
            f"{name} is set for {host}, and would be ignored: it is made from {instead}; set that instead."
            for name, instead in (args.get("derived") or {}).items()
            if name in inventory and name not in given
        ]
        problems += [
            f"{name} is set for {host}, and is now called {successor}: rename it."
            for name, successor in (args.get("renamed") or {}).items()
            if name in inventory
        ]
        return problems + [
            f"{name} is '{old}' for {host}, which is now called '{new}': write that instead."
            for name, successors in (args.get("renamed_values") or {}).items()
            for old, new in successors.items()
            if name in inventory and inventory[name] == old
        ]
