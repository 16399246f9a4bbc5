"""What systemd says of the sandbox of every unit that the roles install."""

from __future__ import annotations

import re
from typing import Any

# Scores of `systemd-analyze security`, 0 to 10, per way of delivery and Debian. A ratchet without slack: a
# unit that got tighter lowers its number here. A unit that a device does not have may stand here.
BOTH = {
    "edge-rotator-due.service": 0.2,
    "edge-rotator-metrics.service": 0.2,
    "litestream.service": 1.5,
    "litestream-query@.service": 0.2,
    "litestream-restart.service": 0.5,
    "sample-app.service": 0.2,
    "tpm2-abrmd.service": 1.2,
}
# With a chip it needs no network; a software TPM is a server.
CHIP = {"tpm2-abrmd.service": 0.4}
ROTATOR = {
    ("process", "bookworm"): 1.1,
    ("process", "trixie"): 1.1,
    # sudo has to work: see the template.
    ("environment", "bookworm"): 5.9,
    ("environment", "trixie"): 2.0,
}
# With a device node as its token it has devices.
NODE = 0.1


def expected(mode: str, release: str, chip: bool, node: bool) -> dict[str, float]:
    """Return scores by unit, on a device with this way of delivery and this Debian.

    `chip`: it has a TPM; `node`: the rotator opens a device node itself.
    """
    rotator = round(ROTATOR[mode, release] + NODE * node, 1)
    return (
        BOTH
        | (CHIP if chip else {})
        | {"edge-rotator.service": rotator, "edge-rotator-force.service": rotator}
    )


def measured(host: Any) -> dict[str, float]:
    """Measure the scores of all services that Ansible has written, whole or in part."""
    written = host.check_output(
        "cd /etc/systemd/system && grep -l '^# Ansible managed' *.service *.service.d/* 2>/dev/null || true"
    )
    units = {path.split(".service")[0] + ".service" for path in written.split()}
    # A template has no score but by an instance.
    shown = host.check_output(
        "systemd-analyze security --no-pager -- " + " ".join(unit.replace("@.", "@1.") for unit in units)
    )
    scores = re.findall(r"Overall exposure level for (\S+): ([\d.]+)", shown)
    return {unit.replace("@1.", "@."): float(score) for unit, score in scores}


def assert_exposure(host: Any) -> None:
    """Fail where a unit has no score in the table, a worse one, or a better one."""
    release = host.check_output(". /etc/os-release && echo $VERSION_CODENAME")
    mode = host.check_output("sed -n 's/^mode = \"\\(.*\\)\"/\\1/p' /etc/edge-rotator/config.toml")
    chip = host.run("test -c /dev/tpm0").rc == 0
    node = host.run("systemctl cat edge-rotator.service | grep -q ^DeviceAllow=").rc == 0
    found, wanted = measured(host), expected(mode, release, chip, node)
    assert {"edge-rotator.service", "litestream.service", "sample-app.service"} <= found.keys()
    assert found == {unit: wanted.get(unit) for unit in found}
