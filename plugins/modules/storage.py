#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Tell where a device's files and memory end up."""

from __future__ import annotations

DOCUMENTATION = r"""
module: storage
short_description: Tell where a device's files and memory end up
description:
  - Finds a root file system whose changes are gone after a reboot, such as Raspberry Pi OS' overlay file
    system or a live system, and swap that is not encrypted.
  - An overlay is told of if its upper directory is known to be in memory. One that is kept on a disk, as
    containers have, is not.
  - Swap is encrypted if it is on dm-crypt, directly or with LVM between. Swap in zram is memory, unless it
    writes pages back to a disk.
  - Tells of a restore that is under way, too, since no file is to be changed then.
  - Changes nothing.
attributes:
  check_mode:
    description: Changes nothing in either mode.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: Look where files and memory end up
  edge_litestream.appliance.storage:
  register: storage
"""

RETURN = r"""
volatile:
  description: The root file system whose changes are gone after a reboot; empty where there is none.
  returned: always
  type: str
swap:
  description: Swap that is not encrypted.
  returned: always
  type: list
  elements: str
restoring:
  description: The database that is being restored, and since when; empty where none is.
  returned: always
  type: str
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import restoring

PROC = Path("/proc")
SYS = Path("/sys")
MEMORY = ("tmpfs", "ramfs")
# Where initramfs hooks put the upper directory: overlayroot, and Raspberry Pi OS before it had that.
UPPER = ("/media/root-rw/", "/upper/")


def unescaped(text: str) -> str:
    """Read a path as the kernel writes it into its tables."""
    return text.encode().decode("unicode_escape")


def volatile_root() -> str:
    """Say what the root file system is if it is in memory."""
    mounts = [line.split() for line in (PROC / "self/mounts").read_text().splitlines()]
    kinds = {unescaped(where): kind for _source, where, kind, *_rest in mounts}
    kind, options = next(mount[2:4] for mount in reversed(mounts) if mount[1] == "/")
    if kind in MEMORY:
        return f"{kind} at /"
    if kind != "overlay":
        return ""
    upper = next((unescaped(one[9:]) for one in options.split(",") if one.startswith("upperdir=")), "")
    above = next((str(one) for one in Path(upper).parents if str(one) in kinds and str(one) != "/"), "")
    # Where it lies is seen, as overlayroot can be told to use a disk, or else known.
    in_memory = kinds[above] in MEMORY if above else upper.startswith(UPPER)
    return f"overlay at / with its changes in {upper or 'memory'}" if in_memory else ""


def encrypted(block: Path) -> bool:
    """Whether a block device is dm-crypt, or all that it consists of is."""
    uuid = block / "dm/uuid"
    if uuid.exists() and uuid.read_text().startswith("CRYPT-"):
        return True
    below = list((block / "slaves").glob("*"))
    return bool(below) and all(encrypted(one) for one in below)


def leaks(swap: str) -> bool:
    """Whether what is swapped out reaches a disk in the clear."""
    found = os.stat(swap)
    device = found.st_rdev or found.st_dev
    block = (SYS / "dev/block" / f"{os.major(device)}:{os.minor(device)}").resolve()
    if block.name.startswith("zram"):
        backing = block / "backing_dev"
        return backing.exists() and backing.read_text().strip() != "none"
    return not encrypted(block)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    lines = (PROC / "swaps").read_text().splitlines()[1:] if (PROC / "swaps").exists() else []
    swaps = [unescaped(line.split()[0]) for line in lines]
    # One that this system cannot see is another's, as in a container.
    clear = [swap for swap in swaps if os.path.exists(swap) and leaks(swap)]
    module.exit_json(changed=False, volatile=volatile_root(), swap=clear, restoring=restoring.under_way())


if __name__ == "__main__":
    main()
