"""The lab's network on the host: one bridge, and the way out for apt."""

import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.settings import BRIDGE, GATEWAY, SUBNET, LabError, Paths
from lab.shell import run, succeeds

# Labs that run beside each other have a network namespace each, and a cable to this one's outside.
CABLE = "edgecable"
CABLES = ipaddress.ip_network("10.83.1.0/24")

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


def _rules(interface: str, subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[tuple[str, ...]]:
    """Return the rules of a way out; FORWARD as well, since a host with containers often drops by default."""
    return [
        ("nat", "POSTROUTING", "-s", str(subnet), "!", "-d", str(subnet), "-j", "MASQUERADE"),
        ("filter", "FORWARD", "-i", interface, "-j", "ACCEPT"),
        ("filter", "FORWARD", "-o", interface, "-j", "ACCEPT"),
    ]


def up(paths: Paths) -> None:
    """Make the bridge, the rules and forwarding, whichever of them are missing."""
    owner = bridge_owner()
    if owner is None:
        run("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        run("ip", "link", "set", BRIDGE, "alias", str(paths.state))
    elif owner != str(paths.state):
        raise LabError(f"bridge {BRIDGE} belongs to the lab in {owner}: take that one down first")
    run("ip", "address", "replace", f"{GATEWAY}/{SUBNET.prefixlen}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    _open(_rules(BRIDGE, SUBNET), paths.state / "ip_forward.before")


def down(paths: Paths) -> None:
    """Remove what `up` made and set forwarding back to what it was; never another lab's."""
    if bridge_owner() not in {None, "", str(paths.state)}:
        return
    if bridge_owner() is not None:
        run("ip", "link", "delete", BRIDGE)
    _close(_rules(BRIDGE, SUBNET), paths.state / "ip_forward.before")


@contextmanager
def cables(paths: Paths) -> Iterator[None]:
    """Let labs in network namespaces of their own out by their cables, which go with their namespaces."""
    before = paths.state.with_name(f"{paths.state.name}.ip_forward")
    rules = _rules(f"{CABLE}+", CABLES)
    try:
        _open(rules, before)
        yield
    finally:
        _close(rules, before)


def _open(rules: list[tuple[str, ...]], before: Path) -> None:
    for table, chain, *rule in rules:
        if not succeeds("iptables", "-w", "-t", table, "-C", chain, *rule):
            run("iptables", "-w", "-t", table, "-I", chain, *rule)
    if (forwards := _IP_FORWARD.read_text().strip()) != "1":
        before.write_text(forwards)
        _IP_FORWARD.write_text("1")


def _close(rules: list[tuple[str, ...]], before: Path) -> None:
    for table, chain, *rule in rules:
        if succeeds("iptables", "-w", "-t", table, "-C", chain, *rule):
            run("iptables", "-w", "-t", table, "-D", chain, *rule)
    if before.exists():
        _IP_FORWARD.write_text(before.read_text())
        before.unlink()


def exists(interface: str) -> bool:
    """Tell whether there is an interface in our network namespace (which /sys may not show)."""
    return succeeds("ip", "link", "show", "dev", interface)


def bridge_owner() -> str | None:
    """State directory of the lab that made the bridge; None when there is no bridge."""
    if not exists(BRIDGE):
        return None
    link = json.loads(run("ip", "-json", "link", "show", "dev", BRIDGE))[0]
    return str(link.get("ifalias", ""))


def veth(machine: str) -> str:
    """Return the host's end of a machine's cable: a container's veth, a virtual machine's tap."""
    return f"vb-{machine}"


def make_tap(machine: str) -> str:
    """Make a virtual machine's cable and plug it in; systemd-nspawn makes its own."""
    tap = veth(machine)
    if not exists(tap):
        run("ip", "tuntap", "add", "dev", tap, "mode", "tap")
    run("ip", "link", "set", tap, "master", BRIDGE, "up")
    return tap


def set_cable(machine: str, state: str) -> None:
    """Plug a machine's cable in (`up`) or pull it out (`down`)."""
    if not exists(veth(machine)):
        raise LabError(f"{machine} has no network: is it running?")
    run("ip", "link", "set", veth(machine), state)
