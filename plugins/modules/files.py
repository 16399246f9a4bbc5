#!/usr/bin/python
"""Write, make and remove several small files and directories in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write, make and remove several small files and directories in one step
description:
  - One step on the device for all that M(ansible.builtin.template), M(ansible.builtin.copy) and
    M(ansible.builtin.file)
    would do in two steps for each file.
  - Every new content is validated before the first file is written.
  - No link is followed where a path ends, and on the way there only one that nobody but root could have made.
options:
  files:
    description: The files, in the order in which they are written.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      state:
        description: What is to be there; V(absent) removes a directory with all that is in it.
        type: str
        choices: [file, directory, absent]
        default: file
      content:
        description:
          - Text of a file. Without it and O(files[].template) only owner, group and mode of an existing file
            are set.
        type: str
      template:
        description:
          - Template of the text, in the place of O(files[].content). It is found where
            M(ansible.builtin.template) finds one, and rendered on the control node by the action plugin of
            this name.
        type: str
      template_vars:
        description: Variables for this template alone, beside all that the task has.
        type: dict
      owner:
        description: Owner; empty leaves the one it has.
        type: str
        default: root
      group:
        description: Group; empty leaves the one it has.
        type: str
        default: root
      mode:
        description: Mode as octal digits; by default 0644 for a file and 0755 for a directory.
        type: str
      contents:
        description: Whether the regular files in a directory get its owner and group too; links, and files
          with another name, are left alone.
        type: bool
        default: false
      validate:
        description: Command that has to accept the new content before anything is written; C(%s) is
          its temporary file.
        type: str
  absent:
    description: Paths to remove after that, short for O(files[].state=absent).
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
  diff_mode:
    description: Whether the changed text is shown.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: Directory and configuration are there
  edge_litestream.appliance.files:
    files:
      - path: /etc/edge-rotator
        state: directory
        group: edge-rotator
        mode: "0750"
      - path: /etc/sudoers.d/edge-rotator
        template: sudoers.j2
        mode: "0440"
        validate: visudo -cf %s
"""

RETURN = r"""
paths:
  description: Paths that were changed, or in check mode would have been.
  type: list
  elements: str
  returned: always
"""

import contextlib
import grp
import os
import pwd
import secrets
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors


def known(entry: dict[str, Any]) -> bool:
    """Whether owner and group exist; in check mode they may be about to be made."""
    try:
        if entry["owner"]:
            pwd.getpwnam(entry["owner"])
        if entry["group"]:
            grp.getgrnam(entry["group"])
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def parent(path: str, create: bool = False) -> Iterator[tuple[int, str]]:
    """Directory of a path, open, and the name in it. Raises FileNotFoundError, UnsafeError."""
    above, name = os.path.split(path.rstrip("/"))
    directory = descriptors.open_directory(above, create)
    try:
        yield directory, name
    finally:
        os.close(directory)


def attributes(module: AnsibleModule, entry: dict[str, Any], descriptor: int) -> bool:
    """Set owner, group and mode of what is open where they differ; tell whether they did."""
    if module.check_mode and not known(entry):
        return True
    info = os.fstat(descriptor)
    user = pwd.getpwnam(entry["owner"]).pw_uid if entry["owner"] else info.st_uid
    group = grp.getgrnam(entry["group"]).gr_gid if entry["group"] else info.st_gid
    mode = int(entry["mode"], 8)
    if (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (user, group, mode):
        return False
    if not module.check_mode:
        os.fchown(descriptor, user, group)
        os.fchmod(descriptor, mode)
    return True


def read(path: str) -> bytes | None:
    """Read a regular file; None for anything else, or where there is nothing."""
    try:
        with parent(path) as (directory, name):
            descriptor = descriptors.open_file(name, directory)
        with open(descriptor, "rb") as file:
            content: bytes = file.read()
            return content
    except (FileNotFoundError, descriptors.UnsafeError):
        return None


def differs(entry: dict[str, Any]) -> bool:
    """Whether a file's content has to be written."""
    if entry["state"] != "file" or entry["content"] is None:
        return False
    return bool(read(entry["path"]) != entry["content"].encode())


def validated(module: AnsibleModule, entry: dict[str, Any]) -> bool:
    """Tell whether a file has to be written, and have its content validated; fails where it is refused."""
    if not differs(entry):
        return False
    # In check mode the programs and files that the content names may not be there yet.
    if entry["validate"] and not module.check_mode:
        with tempfile.NamedTemporaryFile(dir=module.tmpdir) as file:
            file.write(entry["content"].encode())
            file.flush()
            code, output, errors = module.run_command(shlex.split(entry["validate"].replace("%s", file.name)))
        if code:
            module.fail_json(msg=f"{entry['path']} would be refused: {(errors or output).strip()}", paths=[])
    return True


def write(module: AnsibleModule, entry: dict[str, Any], directory: int, name: str) -> None:
    """Put the content into its place, whole or not at all, with owner and mode from the first moment."""
    temporary = f".ansible-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
        try:
            attributes(module, entry, file.fileno())
            file.write(entry["content"].encode())
            file.flush()
            os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise


def remove(module: AnsibleModule, path: str) -> bool:
    """Remove whatever is there; a link itself, never what it points to."""
    try:
        with parent(path) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if module.check_mode:
                return True
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def contents(module: AnsibleModule, entry: dict[str, Any], directory: int) -> bool:
    """Give the files of a directory its owner and group; tell whether one had others."""
    wanted = pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    changed = False
    for name in os.listdir(directory):
        try:
            descriptor = descriptors.open_file(name, directory)
        except (FileNotFoundError, descriptors.UnsafeError):
            continue  # replaced this moment by who works there, or none of theirs
        try:
            info = os.fstat(descriptor)
            if (info.st_uid, info.st_gid) != wanted:
                changed = True
                if not module.check_mode:
                    os.fchown(descriptor, *wanted)
        finally:
            os.close(descriptor)
    return changed


def exists(module: AnsibleModule, entry: dict[str, Any]) -> bool:
    """Bring a directory, or the attributes of a file, into their state; tell whether they were not."""
    make = entry["state"] == "directory"
    try:
        with parent(entry["path"], create=make and not module.check_mode) as (directory, name):
            missing = make and name not in os.listdir(directory)
            if missing and not module.check_mode:
                os.mkdir(name, 0o700, dir_fd=directory)
            opener = descriptors.open_inner if make else descriptors.open_file
            descriptor = opener(name, directory)
            try:
                inside = entry["contents"] and known(entry) and contents(module, entry, descriptor)
                return attributes(module, entry, descriptor) or missing or inside
            finally:
                os.close(descriptor)
    except FileNotFoundError:
        if not module.check_mode:
            module.fail_json(msg=f"{entry['path']} is not there")
    except descriptors.UnsafeError as error:
        module.fail_json(msg=f"{entry['path']}: {error}")
    return True


def apply(module: AnsibleModule, entry: dict[str, Any], fresh: bool, diff: list[dict[str, str]]) -> bool:
    """Bring one path into its state; tell whether it was not."""
    path = entry["path"]
    if entry["state"] == "absent":
        return remove(module, path)
    if not fresh:
        return exists(module, entry)
    before = (read(path) or b"").decode(errors="replace")
    header = {"before_header": path, "after_header": path}
    diff.append({**header, "before": before, "after": entry["content"]})
    if not module.check_mode:
        with parent(path) as (directory, name):
            write(module, entry, directory, name)
    return True


def main() -> None:
    """Validate all, then write all."""
    options = {
        "path": {"type": "path", "required": True},
        "state": {"choices": ["file", "directory", "absent"], "default": "file"},
        "content": {"type": "str"},
        # The action plugin has put the text of a template into content by now.
        "template": {"type": "str"},
        "template_vars": {"type": "dict"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str"},
        "contents": {"type": "bool", "default": False},
        "validate": {"type": "str"},
    }
    module = AnsibleModule(
        {
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": options,
                "required_by": {"template_vars": ["template"]},
            },
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    entries = module.params["files"] + [
        {"path": path, "state": "absent", "mode": None} for path in module.params["absent"]
    ]
    for entry in entries:
        entry["mode"] = entry["mode"] or ("0755" if entry["state"] == "directory" else "0644")
    diff: list[dict[str, str]] = []
    try:
        fresh = [validated(module, entry) for entry in entries]
        paths = [
            entry["path"]
            for entry, new in zip(entries, fresh, strict=True)
            if apply(module, entry, new, diff)
        ]
    except (descriptors.UnsafeError, KeyError, OSError) as error:
        module.fail_json(msg=str(error), paths=[])
    module.exit_json(changed=bool(paths), paths=paths, diff=diff)


if __name__ == "__main__":
    main()
