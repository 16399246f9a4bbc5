"""A device that reaches provider and S3 by IPv6 alone, and is itself reached by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import HOSTS

from experiment import observe
from experiment.phases import assert_lossless, play, wait_for
from lab import shell
from lab.settings import BRIDGE

pytestmark = pytest.mark.timeout(300)  # a converge, on a busy host

CLOUD, CLOUD_6, HERE_6 = "10.83.0.10", "fd83::10", "fd83::1"
DEVICES_6 = {name: f"fd83::{number}" for number, name in enumerate(HOSTS, 11)}


@pytest.fixture(scope="module", autouse=True)
def _without_ipv4() -> Iterator[None]:
    """Give all machines IPv6 addresses; the devices' only IPv4 neighbour is the control node."""
    shell.run("sysctl", "-qw", f"net.ipv6.conf.{BRIDGE}.disable_ipv6=0")
    shell.run("ip", "address", "replace", f"{HERE_6}/64", "dev", BRIDGE, "nodad")
    for name, address in {"cloud01": CLOUD_6, **DEVICES_6}.items():
        observe.run(name, "echo 0 | sudo tee /proc/sys/net/ipv6/conf/host0/disable_ipv6")
        observe.run(name, f"sudo ip address replace {address}/64 dev host0 nodad")
    for name in HOSTS:
        observe.run(name, f"sudo ip route replace unreachable {CLOUD}")
        observe.run(name, f"sudo sed -i.kept 's/^{CLOUD} /{CLOUD_6} /' /etc/hosts")
        observe.run(name, "sudo systemctl restart litestream.service")
    yield
    for name in HOSTS:
        observe.run(name, "sudo mv /etc/hosts.kept /etc/hosts")
        observe.run(name, f"sudo ip route delete unreachable {CLOUD}")


def test_it_rotates_and_replicates(host: Any, name: str) -> None:
    since = observe.now(name)
    host.check_output("systemctl start edge-rotator-force.service")
    assert wait_for(lambda: observe.events(name, "rotated", since))
    assert_lossless(host, name)
    done = wait_for(lambda: (tried := host.run("edge-rotator doctor --login")).rc == 0 and tried, 30)
    assert f"credentials.lab.test is {CLOUD_6}" in done.stdout


def test_it_is_converged_by_ipv6(host: Any, name: str) -> None:
    """The address stands in the inventory as it is, without brackets."""
    since = observe.now(name)
    done = play("site", name, {"ansible_host": DEVICES_6[name]})
    assert done.code == 0, done.text[-3000:]
    assert "changed=0" in done.text
    logins = host.check_output(f"journalctl --unit=ssh --since=@{int(since)} --output=cat")
    assert f"Accepted publickey for admin from {HERE_6} " in logins
