"""Make the rotator's configuration from variables; the module's documentation says more."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

COLLECTION = Path(__file__).resolve().parents[2]


def toml(sections: dict[str, dict[str, Any]]) -> str:
    """Write sections of texts, numbers, lists of texts, and tables of texts; JSON's are TOML's."""
    lines: list[str] = []
    for section, values in sections.items():
        tables = {key: value for key, value in values.items() if isinstance(value, dict)}
        lines += [f"[{section}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables]
        for key, table in tables.items():
            lines += ["", f"[{section}.{key}]"]
            lines += [f"{name} = {json.dumps(str(value))}" for name, value in sorted(table.items())]
        lines += [""]
    return "\n".join(lines)


def refusal(text: str) -> str:
    """Why the rotator would refuse this configuration; empty where it would not."""
    sys.path.insert(0, str(COLLECTION))
    try:
        from edge_rotator import config, errors  # noqa: PLC0415 - lies beside the plugins, not on the path
    finally:
        sys.path.pop(0)
    try:
        config.check("config.toml", tomllib.loads(text))
    except errors.RotatorError as error:
        return (getattr(error, "detail", "") or str(error)).removeprefix("config.toml: ")
    return ""


class ActionModule(ActionBase):
    """Runs on the control node alone, in Ansible's own process."""

    _VALID_ARGS = frozenset({"variables", "integers"})
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give the file's text; fails naming the variable that has to be corrected."""
        super().run(tmp, task_vars)
        names: dict[str, dict[str, str]] = self._task.args["variables"]
        known = task_vars or {}
        integers = self._task.args.get("integers") or []

        def value(name: str) -> Any:
            found = self._templar.template(known[name])
            return int(found) if name in integers and str(found).isdigit() else found

        values = {
            section: {key: value(name) for key, name in keys.items()} for section, keys in names.items()
        }
        text = toml(values)
        if problem := refusal(text):
            keys = {f"{section}.{key}": name for section in names for key, name in names[section].items()}
            told = re.sub(r"[a-z]+\.[a-z_]+", lambda found: keys.get(found[0], found[0]), problem)
            told = told.replace(" = ", " is ", 1)
            raise AnsibleActionFail(f"{told}. Correct it for {known['inventory_hostname']}.")
        return {"changed": False, "toml": text}
