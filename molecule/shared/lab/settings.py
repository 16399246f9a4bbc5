"""Where the lab keeps its things and which machines it knows."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
# A scenario with machines of its own names its list by $EDGE_LAB_INVENTORY.
HOSTS_FILE = Path(os.environ.get("EDGE_LAB_INVENTORY") or REPOSITORY / "inventory/lab/hosts.yml")

BRIDGE = "edgelab0"
SUBNET = ipaddress.ip_network("10.83.0.0/24")
GATEWAY = "10.83.0.1"

KINDS = ("container", "vm")
# What QEMU emulates here, by Debian's names.
ARCHITECTURES = ("arm64", "armhf", "amd64")

# vb-NAME must fit into an interface name, which has 15 characters.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,11}")


class LabError(Exception):
    """Something the person at the keyboard can fix; the message says what."""


@dataclass(frozen=True)
class Paths:
    """Directories of one lab: `state` is deleted by purge, `cache` outlives it."""

    state: Path
    cache: Path

    @property
    def images(self) -> Path:
        """Cached machine images."""
        return self.cache / "images"

    @property
    def pki(self) -> Path:
        """The certificate authorities and the server certificates."""
        return self.state / "pki"

    @property
    def ssh(self) -> Path:
        """Client key, ssh_config and control sockets."""
        return self.state / "ssh"

    @property
    def ssh_config(self) -> Path:
        """The ssh_config for Ansible, testinfra and people."""
        return self.ssh / "config"

    @property
    def machines(self) -> Path:
        """One directory per machine: its root file system and its console log."""
        return self.state / "machines"


@dataclass(frozen=True)
class Machine:
    """One machine of the inventory."""

    name: str
    groups: frozenset[str]
    suite: str
    address: str
    names: tuple[str, ...]
    packages: tuple[str, ...] = ()
    # Whether the control node's Python packages are to be seen there.
    python: bool = False
    # A virtual machine with a kernel and a clock of its own, emulated, instead of a container.
    vm: bool = False
    # Debian's name for the processor's; empty for the host's own.
    architecture: str = ""
    # Lines of a sources.list for its image; mmdebstrap's own choice without any.
    mirrors: tuple[str, ...] = ()
    tpm: bool = False


def paths() -> Paths:
    """Return the lab's directories, as $EDGE_LAB_DIR and $EDGE_CACHE_DIR say."""
    return Paths(
        state=Path(os.environ.get("EDGE_LAB_DIR") or "/var/lib/edge-litestream-lab").absolute(),
        cache=Path(os.environ.get("EDGE_CACHE_DIR") or "/var/cache/edge-litestream").absolute(),
    )


def inventory(hosts_file: Path = HOSTS_FILE) -> dict[str, Machine]:
    """Read the machines, by name; LabError when the file does not make sense."""
    groups: dict[str, set[str]] = {}
    variables: dict[str, dict[str, Any]] = {}
    _walk("all", yaml.safe_load(hosts_file.read_text())["all"], (), groups, variables)
    machines = {}
    for name, host in variables.items():
        try:
            machine = Machine(
                name=name,
                groups=frozenset(groups[name]),
                suite=host["lab_suite"],
                address=host["ansible_host"],
                names=tuple(host.get("lab_names", ())),
                packages=tuple(host.get("lab_packages", ())),
                python=host.get("lab_python", False),
                vm=host.get("lab_kind", "container") == "vm",
                architecture=host.get("lab_architecture", ""),
                mirrors=tuple(host.get("lab_mirrors", ())),
                tpm=host.get("lab_tpm", False),
            )
        except KeyError as missing:
            raise LabError(f"{hosts_file}: {name} has no {missing.args[0]}") from None
        if not _NAME.fullmatch(name):
            raise LabError(f"{hosts_file}: {name}: a name has at most 12 of a-z, 0-9 and -")
        if host.get("lab_kind", "container") not in KINDS:
            raise LabError(f"{hosts_file}: {name}: lab_kind is {host['lab_kind']!r}, not one of {KINDS}")
        if machine.vm != (machine.architecture in ARCHITECTURES):
            raise LabError(
                f"{hosts_file}: {name}: lab_architecture is {machine.architecture!r}; "
                f"with lab_kind: vm it is one of {ARCHITECTURES}, and a container has none"
            )
        if machine.tpm and not machine.vm:
            raise LabError(f"{hosts_file}: {name}: lab_tpm needs lab_kind: vm")
        if ipaddress.ip_address(machine.address) not in SUBNET:
            raise LabError(f"{hosts_file}: {name}: {machine.address} is not in {SUBNET}")
        machines[name] = machine
    return machines


def _walk(
    group: str,
    content: dict[str, Any] | None,
    above: tuple[str, ...],
    groups: dict[str, set[str]],
    variables: dict[str, dict[str, Any]],
) -> None:
    """Collect hosts of an inventory group and its children (hosts.yml nests a few levels)."""
    content = content or {}
    lineage = (*above, group)
    for name, host in (content.get("hosts") or {}).items():
        groups.setdefault(name, set()).update(lineage)
        variables.setdefault(name, {}).update(host or {})
    for child, inner in (content.get("children") or {}).items():
        _walk(child, inner, lineage, groups, variables)


def select(machines: dict[str, Machine], wanted: list[str]) -> list[Machine]:
    """Machines by name or group name, all of them when nothing is named."""
    if not wanted:
        return list(machines.values())
    known = set(machines) | {group for machine in machines.values() for group in machine.groups}
    for word in wanted:
        if word not in known:
            raise LabError(f"no machine or group {word!r}; there are: {', '.join(sorted(known))}")
    return [m for m in machines.values() if m.name in wanted or m.groups & set(wanted)]
