"""`--check` of every playbook that goes to a device and changes it: it ends well, and nothing is touched."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from experiment import observe
from experiment.phases import ROOT, play, wait_for
from lab.settings import paths

pytestmark = pytest.mark.timeout(400)
# In process mode a rotation writes nothing but its own state and the credentials.
DEVICE = "edge02"
VARIABLES: dict[str, dict[str, Any]] = {
    # Something is to be changed.
    "site": {"edge_rotator_tick": 7},
    "rotate": {},
    "restore": {"restore_confirm": DEVICE},
    "rollback": {},
    # By the tasks of upgrade.yml, which scenario rings looks at too.
    "debian_upgrade": {"edge_rotator_tick": 7},
    "decommission": {"decommission_aws": False},
}
# Whoever opens a file to write it, or replaces it by the same, changes its ctime.
TREE = r"""
sudo find /etc /opt /usr/local /usr/lib /var/lib/dpkg /var/spool -xdev ! -name '*.pyc' ! -name __pycache__ \
    \( -type d -printf '%p %m %U %G\n' -o -printf '%p %y %m %U %G %s %C@ %l\n' \) | sort
sudo find /var/lib/edge-token /var/lib/sample-app /run/systemd/system /run/edge-rotator \
    -printf '%p %y %m %U %G\n' | grep -v next | sort
systemctl show --property=Id,ActiveState,UnitFileState,ActiveEnterTimestamp,NeedDaemonReload \
    litestream.service sample-app.service edge-rotator.timer litestream.path edge-rotator-due.path
sudo sha256sum /etc/edge-identity/* /etc/litestream.yml /etc/edge-rotator/config.toml
cat /proc/sys/kernel/random/boot_id
"""


def here() -> dict[str, str]:
    """Return the digest of what roll-outs and requests leave on the control node."""
    found = [*paths().state.glob("*.report*"), *(ROOT / "enrollment").glob("*")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("playbook", VARIABLES)
def test_a_look_changes_nothing(name: str, playbook: str) -> None:
    if name != DEVICE:
        pytest.skip(f"{DEVICE} shows it")
    wait_for(lambda: "ok" in observe.run(DEVICE, "sudo edge-rotator status", check=False).split())
    before = observe.run(DEVICE, TREE), here()
    looked = play(playbook, DEVICE, VARIABLES[playbook], ("--check",))
    after = observe.run(DEVICE, TREE), here()
    assert looked.code == 0, looked.text
    assert "changed=0" not in looked.text or "edge_rotator_tick" not in VARIABLES[playbook], looked.text
    assert after == before


def test_every_playbook_that_changes_a_device_is_looked_at() -> None:
    """Those that ask AWS are looked at where there is one."""
    there = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    of_aws = {"cloud", "enroll", "enroll_bulk", "found", "lost", "renew", "replace", "undelete"}
    assert there - set(VARIABLES) == of_aws | {"artifacts", "drill", "recovery_points", "status", "upgrade"}
