#!/usr/bin/python
"""Make or remove the groups and users of a service in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: accounts
short_description: Make or remove the groups and users of a service in one step
description:
  - One step on the device for what M(ansible.builtin.group) and M(ansible.builtin.user) would do in one step
    for each name.
options:
  groups:
    description: System groups.
    type: list
    elements: str
    default: []
  users:
    description: System users without a home and a shell, unless said otherwise. They keep the groups
      they have besides.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      group:
        description: Main group; a new user gets one of its own name where this is empty.
        type: str
      groups:
        description: Further groups.
        type: list
        elements: str
        default: []
  members_of:
    description: Group whose only members are O(members); others are taken out of it.
    type: str
  members:
    description: People. Who has no account gets one with a home directory, and without a password or a key.
    type: list
    elements: str
    default: []
  state:
    description: V(absent) removes O(users), then O(groups).
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The writer's user shares a group with Litestream
  edge_litestream.appliance.accounts:
    groups: [edge-data]
    users:
      - name: sample-app
        group: edge-data
"""

RETURN = r"""
commands:
  description: What was done, or in check mode would have been.
  type: list
  elements: str
  returned: always
"""

import grp
import pwd
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PERSON = ["--create-home", "--shell", "/bin/bash"]
SERVICE = ["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]


def group_exists(name: str) -> bool:
    """Whether there is a group of this name."""
    return any(entry.gr_name == name for entry in grp.getgrall())


def user_entry(name: str) -> pwd.struct_passwd | None:
    """Entry of a user, or None."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def user_command(user: dict[str, Any]) -> list[str] | None:
    """Command that makes a user or adds what it lacks; None where nothing is to be done."""
    name, group, groups = user["name"], user["group"], user["groups"]
    entry = user_entry(name)
    if entry is None:
        command = ["useradd"]
        command += PERSON if user.get("person") else SERVICE
        command += ["--gid", group] if group else ["--gid", name] if group_exists(name) else ["--user-group"]
        return command + (["--groups", ",".join(groups)] if groups else []) + [name]
    changes = []
    if group and (not group_exists(group) or grp.getgrnam(group).gr_gid != entry.pw_gid):
        changes += ["--gid", group]
    lacking = [one for one in groups if not group_exists(one) or name not in grp.getgrnam(one).gr_mem]
    if lacking:
        changes += ["--append", "--groups", ",".join(lacking)]
    return ["usermod", *changes, name] if changes else None


def main() -> None:
    """Make or remove what was asked for."""
    options = {
        "name": {"type": "str", "required": True},
        "group": {"type": "str"},
        "groups": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        {
            "groups": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "dict", "default": [], "options": options},
            "members_of": {"type": "str"},
            "members": {"type": "list", "elements": "str", "default": []},
            "state": {"choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    commands: list[str] = []

    def run(command: list[str]) -> None:
        commands.append(" ".join(command))
        if not module.check_mode:
            code, _unused, errors = module.run_command(command)
            if code:
                module.fail_json(msg=f"{' '.join(command)}: {errors.strip()}", commands=commands)

    groups, users = module.params["groups"], module.params["users"]
    members_of, members = module.params["members_of"], module.params["members"]
    if module.params["state"] == "absent":
        for user in users:
            if user_entry(user["name"]):
                run(["userdel", user["name"]])
        for group in groups:
            if group_exists(group):
                run(["groupdel", group])
    else:
        for group in groups:
            if not group_exists(group):
                run(["groupadd", "--system", group])
        people = [{"name": name, "group": None, "groups": [members_of], "person": True} for name in members]
        for user in users + people:
            if command := user_command(user):
                run(command)
        if members_of and group_exists(members_of):
            for member in sorted(set(grp.getgrnam(members_of).gr_mem) - set(members)):
                run(["gpasswd", "--delete", member, members_of])
    module.exit_json(changed=bool(commands), commands=commands)


if __name__ == "__main__":
    main()
