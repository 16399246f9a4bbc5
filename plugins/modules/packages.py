#!/usr/bin/python
"""Install Debian packages, and ask the mirror only when one is missing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install Debian packages, and ask the mirror only when one is missing
description:
  - Where everything is installed nothing is fetched, so a device without a way to its mirror
    converges all the same.
  - Recommended packages are left out. A package that is installed is never upgraded.
  - Nothing is installed while apt's sources are those of an upgrade of Debian that has not begun.
options:
  names:
    description: Names of the packages.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: OpenSSL's command is installed
  edge_litestream.appliance.packages:
    names: [openssl]
"""

RETURN = r"""
missing:
  description: Packages that were installed, or in check mode would have been.
  type: list
  elements: str
  returned: always
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

LISTS = Path("/var/lib/apt/lists")
CURRENT_S = 86400
# What the module debian_upgrade keeps.
UPGRADE = Path("/var/lib/edge-debian-upgrade")
# Another apt, like that of unattended-upgrades, may be at work.
APT = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=120"]


def missing_packages(module: AnsibleModule, names: list[str]) -> list[str]:
    """Those of the names that dpkg does not have as installed; it names an unknown one only on stderr."""
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n", *names]
    _unused, output, _unused = module.run_command(command)
    installed = {line.split()[1] for line in output.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in installed]


def lists_current() -> bool:
    """Whether package lists are there and of today. A fresh image may have an empty directory of today."""
    times = [path.stat().st_mtime for path in LISTS.glob("*_Packages*")]
    return bool(times) and 0 <= time.time() - LISTS.stat().st_mtime < CURRENT_S


def last_lines(output: str, errors: str) -> str:
    """Return what a command said last."""
    return "\n".join((output + errors).strip().splitlines()[-8:])


def between_releases() -> bool:
    """Whether an upgrade of Debian has exchanged the sources, and has not begun to install."""
    return any((UPGRADE / "sources").glob("*")) and not (UPGRADE / "begun").exists()


def main() -> None:
    """Install what is missing."""
    module = AnsibleModule(
        {"names": {"type": "list", "elements": "str", "required": True}}, supports_check_mode=True
    )
    module.run_command_environ_update = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    missing = missing_packages(module, module.params["names"])
    if missing and not module.check_mode:
        if between_releases():
            module.fail_json(
                msg="apt's sources are those of an upgrade of Debian that broke off before it began, and "
                f"{', '.join(missing)} would come from the next release: run "
                "edge_litestream.appliance.debian_upgrade for this device again, which puts them back first",
                missing=missing,
            )
        steps = [[*APT, "update"]] if not lists_current() else []
        for command in [*steps, [*APT, "--no-install-recommends", "install", *missing]]:
            code, output, errors = module.run_command(command)
            before = ""
            if code and "dpkg --configure -a" in errors:
                # A power cut came in the middle of an installation; that is how it is finished.
                finish = ["dpkg", "--force-confold", "--configure", "--pending"]
                _unused, *finished = module.run_command(finish)
                code, output, errors = module.run_command(command)
                before = f"{' '.join(finish)} said:\n{last_lines(*finished)}\n"
            if code:
                said = f"{before}{' '.join(command)} failed:\n{last_lines(output, errors)}"
                module.fail_json(msg=said, missing=missing)
    module.exit_json(changed=bool(missing), missing=missing)


if __name__ == "__main__":
    main()
