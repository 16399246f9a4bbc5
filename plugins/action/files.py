"""Render templates of files on the control node; module files has the documentation, and does the rest.

ansible.builtin.template as a lookup copies every variable deeply for each template.
"""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):
    """What Ansible loads."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module returns; fails naming path and template where one cannot be rendered."""
        super().run(tmp, task_vars)
        known = task_vars or {}
        args = dict(self._task.args)
        # What is no list of dictionaries is refused by the module.
        if isinstance(args.get("files"), list):
            args["files"] = [self._entry(entry, known) for entry in args["files"]]
        answer: dict[str, Any] = self._execute_module(
            module_name="edge_litestream.appliance.files", module_args=args, task_vars=task_vars
        )
        return answer

    def _entry(self, entry: Any, known: dict[str, Any]) -> Any:
        """Give an entry with its content in the place of its template."""
        if not isinstance(entry, dict) or entry.get("template") is None:
            return entry
        path, name = entry.get("path"), entry["template"]
        if entry.get("content") is not None:
            raise AnsibleActionFail(f"{path} has both content and template {name}: give one of them.")
        extra = entry.get("template_vars") or {}
        if not isinstance(extra, dict):
            raise AnsibleActionFail(f"{path}: template_vars of template {name} is no dictionary.")
        try:
            content = self._rendered(name, extra, known)
        except AnsibleError as error:
            raise AnsibleActionFail(f"{path} cannot be made from template {name}") from error
        kept = {key: value for key, value in entry.items() if key not in {"template", "template_vars"}}
        return {**kept, "content": content}

    def _rendered(self, name: str, extra: dict[str, Any], known: dict[str, Any]) -> Any:
        """Give what ansible.builtin.template as a lookup gives. Raises AnsibleError."""
        file = self._find_needle("templates", name)
        text = trust_as_template(self._loader.get_text_file_contents(file))
        # Where {% include %} and {% import %} look.
        places = [os.path.dirname(file)]
        for place in known.get("ansible_search_path", []):
            places += [os.path.join(place, "templates"), place]
        told = {"ansible_managed": "Ansible managed", **known, **extra}
        templar = self._templar.copy_with_new_env(searchpath=places, available_variables=told)
        rendered = templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
        return "" if rendered is None else rendered
