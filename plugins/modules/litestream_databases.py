#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Share databases and their directories with a group, while their application runs and cannot be trusted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_databases
short_description: Share SQLite databases and their directories with their applications' groups
version_added: 2.0.0
description:
  - Litestream and the applications both write the databases. Directories get the group and mode 2770,
    databases and what SQLite keeps beside them the group and mode 0660. Owners stay as they are.
  - The application may exchange a file for a link at any moment, and this runs as root. So everything is
    opened first, without following links, looked at, and changed by its descriptor.
  - A link, a file with a second name and what is no regular file are left alone, with a warning.
  - A link on the way to a directory is followed only where nobody but root could have made it. A directory
    above that others than root can change is refused, since they could put another one in the shared one's
    place at any time. In check mode that is refused, too.
options:
  directories:
    description: Directories to share, each with the group of its application. One that is missing is made.
    type: dict
    required: true
  searches:
    description: Where databases are, as M(edge_litestream.appliance.litestream_config) returns it.
    type: list
    elements: dict
    default: []
    suboptions:
      paths:
        description: Directory to look into, one of O(directories).
        type: path
        required: true
      patterns:
        description: Patterns of the files' names.
        type: list
        elements: str
        required: true
      recurse:
        description: Look into the directories below, too. Those that hold databases are shared.
        type: bool
        default: false
attributes:
  check_mode:
    description: Says what would change and changes nothing. The groups need not exist yet.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: Litestream and the application share the database
  edge_litestream.appliance.litestream_databases:
    directories: {/var/lib/app: edge-data}
    searches:
      - paths: /var/lib/app
        patterns: [app.db, app.db-wal, app.db-shm, app.db-journal]
"""

RETURN = r"""
shared:
  description: Directories and files whose group or mode was changed.
  returned: success
  type: list
  elements: str
refused:
  description: Files that were left alone, each with the reason.
  returned: success
  type: list
  elements: str
"""

import fnmatch
import grp
import os
import stat
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors


class Sharing:
    """One run of the module."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.shared: list[str] = []
        self.refused: list[str] = []

    def share(self, descriptor: int, path: str, group: int, mode: int) -> None:
        """Give what is open to the group, where it does not belong to it yet."""
        info = os.fstat(descriptor)
        if (info.st_gid, stat.S_IMODE(info.st_mode)) == (group, mode):
            return
        self.shared.append(path)
        if not self.check:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)

    def directory(self, path: str, group: int) -> None:
        """Share one directory, made if need be."""
        try:
            descriptor = descriptors.open_directory(path, create=not self.check, roots=True)
        except FileNotFoundError:
            self.shared.append(path)
            return
        try:
            self.share(descriptor, path, group, 0o2770)
        finally:
            os.close(descriptor)

    def files(self, path: str, group: int, patterns: list[str], recurse: bool) -> None:
        """Share the databases of a directory, and directories below that hold some."""
        try:
            top = descriptors.open_directory(path, roots=True)
        except FileNotFoundError:
            return
        try:
            for directory, where, names in descriptors.below(top, path.rstrip("/"), recurse):
                found = [name for name in names if any(fnmatch.fnmatchcase(name, one) for one in patterns)]
                if found and directory != top:
                    self.share(directory, where, group, 0o2770)
                for name in found:
                    self.file(directory, where, name, group)
        finally:
            os.close(top)

    def file(self, directory: int, where: str, name: str, group: int) -> None:
        """Share one file, if it is one and is still there: a -wal goes with the last connection."""
        try:
            descriptor = descriptors.open_file(name, directory)
        except FileNotFoundError:
            return
        except descriptors.UnsafeError as error:
            self.refused.append(f"{where}/{name} is left alone: {error}")
            return
        try:
            self.share(descriptor, f"{where}/{name}", group, 0o660)
        finally:
            os.close(descriptor)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "dict", "required": True},
            "searches": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "paths": {"type": "path", "required": True},
                    "patterns": {"type": "list", "elements": "str", "required": True},
                    "recurse": {"type": "bool", "default": False},
                },
            },
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    sharing = Sharing(module.check_mode)
    groups: dict[str, int] = {}
    for path, name in params["directories"].items():
        try:
            groups[path] = grp.getgrnam(name).gr_gid
        except KeyError:
            if not module.check_mode:
                module.fail_json(msg=f"{path} is for group '{name}', which does not exist: make it first")
            groups[path] = -1  # nothing belongs to it yet
    try:
        for path, group in groups.items():
            sharing.directory(path, group)
        for search in params["searches"]:
            sharing.files(search["paths"], groups[search["paths"]], search["patterns"], search["recurse"])
    except (descriptors.UnsafeError, OSError) as error:
        module.fail_json(msg=str(error))
    for sentence in sharing.refused:
        module.warn(sentence)
    module.exit_json(changed=bool(sharing.shared), shared=sharing.shared, refused=sharing.refused)


if __name__ == "__main__":
    main()
