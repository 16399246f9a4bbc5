# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Run a command as Litestream's unit would run it, in a sandbox: root parses no database that others made."""

from __future__ import annotations

import subprocess

LIMIT_S = 86400
PASSED_ON = (
    "User",
    "Group",
    "SupplementaryGroups",
    "Environment",
    "UnsetEnvironment",
    "EnvironmentFiles",
)
SANDBOX = (
    "UMask=0077",
    f"RuntimeMaxSec={LIMIT_S}",
    "LimitCORE=0",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
)


class UnitError(Exception):
    """Why nothing can be run as Litestream's unit, with what to do about it."""


def unit_properties(unit: str) -> dict[str, list[str]]:
    """Properties of Litestream's unit that are taken over; a name may have several values.

    Raises UnitError.
    """
    show = ["systemctl", "show", f"--property={','.join(PASSED_ON)}", "--", unit]
    told = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for line in told.splitlines():
        name, _unused, value = line.partition("=")
        if value:
            found.setdefault(name, []).append(value)
    # Which `show` calls unprintable: what a proxy asks for.
    cat = ["systemctl", "cat", "--", unit]
    lines = subprocess.run(cat, capture_output=True, text=True, check=False).stdout.splitlines()
    found["LoadCredential"] = [line.partition("=")[2] for line in lines if line.startswith("LoadCredential=")]
    if "User" not in found:
        raise UnitError(f"{unit} is not installed or runs as root: run edge_litestream.appliance.site first")
    return found


def transient(unit: dict[str, list[str]], directory: str, network: bool) -> list[str]:
    """Command that runs another one in a sandbox, as Litestream's unit would, in this directory."""
    properties = [f"{name}={value}" for name in PASSED_ON[:-1] for value in unit.get(name, [])]
    if network:
        properties += [f"LoadCredential={value}" for value in unit.get("LoadCredential", [])]
        # Only a unit that an older version wrote has it; shown with a remark in parentheses.
        properties += [
            f"EnvironmentFile={value.split(' (')[0]}" for value in unit.get("EnvironmentFiles", [])
        ]
    properties += [*SANDBOX, f"WorkingDirectory={directory}", f"ReadWritePaths={directory}"]
    properties.append(f"ProtectHome={'no' if directory.startswith(('/home/', '/root/')) else 'yes'}")
    properties.append(f"PrivateNetwork={'no' if network else 'yes'}")
    return [
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        "--collect",
        *[f"--property={p}" for p in properties],
    ]
