#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Put one of several installed versions of a program to use, or go back to the one before."""

from __future__ import annotations

DOCUMENTATION = r"""
module: versioned_release
short_description: Put one of several installed versions of a program to use
version_added: 2.0.0
description:
  - Every version of a program has a directory of its own below O(base), named after the version.
    The link C(current) beside them names the one in use, so that a rollback is the change of one link.
  - A link is changed by renaming a new one over it, so that the program can be started at any moment.
  - Versions that are too many are removed, but never the one in use and never the one in use until now,
    unless O(keep) is 1.
  - A file or a directory that stands where a link belongs is left alone. The module then says what to do.
options:
  base:
    description: Directory of the versions, an absolute path.
    type: path
    required: true
  version:
    description:
      - Version to use, the name of a directory below O(base). Needed for O(state=present).
      - In check mode the directory need not be there yet.
    type: str
  state:
    description:
      - V(present) puts O(version) to use and removes the versions that are too many.
      - V(previous) goes back to the version that was installed before the one in use, and removes nothing.
        Where there is none nothing changes. A second run does not go forward again.
    type: str
    choices: [present, previous]
    default: present
  keep:
    description: Number of versions that stay installed, the one in use included. Only for O(state=present).
    type: int
    default: 2
  links:
    description: Links elsewhere that lead to the version in use. Their directories must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the link is, an absolute path.
        type: path
        required: true
      target:
        description: What it leads to, an absolute path or one below O(base) like V(current/bin/program).
        type: str
        required: true
  program:
    description:
      - Name of a file in the directory of O(version), whose owner, mode and checksum as they are before
        anything changes are returned. Only for O(state=present).
    type: str
attributes:
  check_mode:
    description: Says what would change, refuses what would be refused, and changes nothing.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The version is put to use
  edge_litestream.appliance.versioned_release:
    base: /opt/litestream
    version: 0.5.17
    keep: 2
    links:
      - path: /usr/local/bin/litestream
        target: current/litestream

- name: The version before is in use again
  edge_litestream.appliance.versioned_release:
    base: /opt/litestream
    state: previous
"""

RETURN = r"""
current:
  description: Version in use afterwards, in check mode the one that would be. Empty when there is none.
  returned: always
  type: str
  sample: 0.5.17
previous:
  description: Version that was in use until now. Empty when there was none.
  returned: always
  type: str
  sample: 0.5.16
links:
  description: Links that were made or changed, or in check mode would have been.
  returned: always
  type: list
  elements: str
  sample: [/opt/litestream/current]
removed:
  description: Versions that were removed, or in check mode would have been.
  returned: always
  type: list
  elements: str
  sample: [0.5.15]
program:
  description: O(program), empty where no regular file is there.
  returned: always
  type: dict
  sample: {uid: 0, gid: 0, mode: "0755", sha256: 3a7bd3e2360a}
"""

import hashlib
import os
import shutil
import stat
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors


class RefusedError(Exception):
    """What stands in the way, with what to do about it."""


def linked_to(path: str) -> str:
    """Return what the link at `path` names, empty when nothing is there.

    Raises RefusedError when something else than a link is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return ""
    if not stat.S_ISLNK(mode):
        raise RefusedError(
            f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'a file'} that somebody put there, "
            "and a link belongs there: move it away, then run this again"
        )
    return os.readlink(path)


def link(path: str, target: str) -> None:
    """Make or change a link in one step."""
    fresh = f"{path}.new-{os.getpid()}"
    os.symlink(target, fresh)
    try:
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise


def installed(base: str) -> list[str]:
    """Return names of the versions, the newest directory first."""
    try:
        with os.scandir(base) as entries:
            found = [
                (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    return [name for _unused, name in sorted(found, reverse=True)]


def older(versions: list[str], used: str) -> str:
    """Return the version that was installed before the one in use, empty when there is none."""
    return "".join(versions[versions.index(used) + 1 :][:1]) if used in versions else ""


def too_many(versions: list[str], used: str, before: str, keep: int) -> list[str]:
    """Return the versions to remove; the one in use and the one before it stay, whatever their age."""
    kept = {used, before} if keep > 1 and before else {used}
    return [name for name in versions if name not in kept][max(keep - len(kept), 0) :]


def described(path: str) -> dict[str, Any]:
    """Return owner, mode and checksum of a regular file; empty for anything else. Raises OSError."""
    above, name = os.path.split(path)
    try:
        directory = descriptors.open_directory(above)
        try:
            descriptor = descriptors.open_file(name, directory)
        finally:
            os.close(directory)
    except (FileNotFoundError, descriptors.UnsafeError):
        return {}
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "uid": info.st_uid,
        "gid": info.st_gid,
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "sha256": sha256,
    }


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the module is for; return its result. Raises RefusedError and OSError."""
    base, version = params["base"], params["version"]
    current = os.path.join(base, "current")
    before = linked_to(current)
    versions = installed(base)
    program: dict[str, Any] = {}
    removed: list[str] = []
    if params["state"] == "previous":
        version = older(versions, before) or before
    elif version in ("", ".", "..", "current") or "/" in version:
        raise RefusedError(f"version is '{version}': give the name of a directory below {base}")
    elif version not in versions and not check:
        raise RefusedError(f"{base}/{version} is not there: install the version before putting it to use")
    else:
        removed = too_many(versions, version, before, params["keep"])
        if params["program"]:
            program = described(os.path.join(base, version, params["program"]))
    links = [(item["path"], os.path.join(base, item["target"])) for item in params["links"]]
    wanted = [(current, version)] * bool(version) + links
    # All of them are looked at before the first one is changed.
    outdated = [(path, target) for path, target in wanted if linked_to(path) != target]
    if not check:
        for path, target in outdated:
            link(path, target)
        for name in removed:
            shutil.rmtree(os.path.join(base, name))
    return {
        "changed": bool(outdated or removed),
        "current": version,
        "previous": before,
        "links": [path for path, _unused in outdated],
        "removed": removed,
        "program": program,
    }


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "base": {"type": "path", "required": True},
            "version": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "previous"], "default": "present"},
            "keep": {"type": "int", "default": 2},
            "links": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "target": {"type": "str", "required": True},
                },
            },
            "program": {"type": "str"},
        },
        required_if=[("state", "present", ["version"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except (RefusedError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
