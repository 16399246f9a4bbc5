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
        description: Text of a file. Without it only owner, group and mode of an existing file are set.
        type: str
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
        content: "{{ lookup('ansible.builtin.template', 'sudoers.j2') }}"
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

import grp
import os
import pwd
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


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


def attributes(module: AnsibleModule, entry: dict[str, Any], path: str) -> bool:
    """Set owner, group and mode where they differ; tell whether they did."""
    if module.check_mode and not known(entry):
        return True
    wanted = {name: entry[name] or None for name in ("owner", "group", "mode")}
    arguments = module.load_file_common_arguments({**wanted, "path": path})
    return bool(module.set_fs_attributes_if_different(arguments, False))


def differs(entry: dict[str, Any]) -> bool:
    """Whether a file's content has to be written."""
    if entry["state"] != "file" or entry["content"] is None:
        return False
    path = Path(entry["path"])
    return path.is_symlink() or not path.is_file() or path.read_bytes() != entry["content"].encode()


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


def write(module: AnsibleModule, entry: dict[str, Any]) -> None:
    """Put the content into its place, whole or not at all, with owner and mode from the first moment."""
    handle, name = tempfile.mkstemp(dir=Path(entry["path"]).parent, prefix=".ansible-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(entry["content"].encode())
            file.flush()
            os.fsync(file.fileno())
        attributes(module, entry, name)
        Path(name).replace(entry["path"])
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove(module: AnsibleModule, path: Path) -> bool:
    """Remove whatever is there; a link itself, never what it points to."""
    if not path.is_symlink() and not path.exists():
        return False
    if not module.check_mode:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return True


def text(path: str) -> str:
    """Read what a file holds, for the diff."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def apply(module: AnsibleModule, entry: dict[str, Any], fresh: bool, diff: list[dict[str, str]]) -> bool:
    """Bring one path into its state; tell whether it was not."""
    path = Path(entry["path"])
    if entry["state"] == "absent":
        return remove(module, path)
    missing = not path.exists()
    if entry["state"] == "directory":
        if missing:
            if module.check_mode:
                return True
            path.mkdir(parents=True)
        elif not path.is_dir():
            module.fail_json(msg=f"{path} is there and is no directory: move it away")
        return attributes(module, entry, str(path)) or missing
    if fresh:
        diff.append({"before_header": str(path), "after_header": str(path),
                     "before": text(str(path)), "after": entry["content"]})  # fmt: skip
        if not module.check_mode:
            write(module, entry)
        return True
    if missing:
        if module.check_mode:
            return True
        module.fail_json(msg=f"{path} is not there")
    return attributes(module, entry, str(path))


def main() -> None:
    """Validate all, then write all."""
    options = {
        "path": {"type": "path", "required": True},
        "state": {"choices": ["file", "directory", "absent"], "default": "file"},
        "content": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str"},
        "validate": {"type": "str"},
    }
    module = AnsibleModule(
        {
            "files": {"type": "list", "elements": "dict", "default": [], "options": options},
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    entries = module.params["files"] + [
        {"path": path, "state": "absent", "mode": None} for path in module.params["absent"]
    ]
    for entry in entries:
        entry["mode"] = entry["mode"] or ("0755" if entry["state"] == "directory" else "0644")
    fresh = [validated(module, entry) for entry in entries]
    diff: list[dict[str, str]] = []
    paths = [
        entry["path"] for entry, new in zip(entries, fresh, strict=True) if apply(module, entry, new, diff)
    ]
    module.exit_json(changed=bool(paths), paths=paths, diff=diff)


if __name__ == "__main__":
    main()
