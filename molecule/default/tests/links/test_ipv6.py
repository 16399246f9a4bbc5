"""A device that reaches provider and S3 by IPv6 alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import HOSTS

from experiment import observe
from experiment.phases import assert_lossless, wait_for

CLOUD, CLOUD_6 = "10.83.0.10", "fd83::10"


@pytest.fixture(scope="module", autouse=True)
def _without_ipv4() -> Iterator[None]:
    """Give all machines IPv6 addresses; the devices' only IPv4 neighbour is the control node."""
    addresses = {"cloud01": CLOUD_6} | {name: f"fd83::{number}" for number, name in enumerate(HOSTS, 11)}
    for name, address in addresses.items():
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
