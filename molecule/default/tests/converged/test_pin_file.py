"""A PIN of the inventory goes by ssh and sudo to a real device, and only its file ever holds it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from experiment.installed import tool
from experiment.phases import ROOT

PIN = "x7-unheard-of-92641"
DIRECTORY = "/etc/edge-token/test"
# In two pieces, so that the search itself is not found in the journal, where sudo writes it.
NEEDLE = f"$(printf %s%s {PIN[:9]} {PIN[9:]})"


@pytest.fixture
def kept(host: Any, name: str, tmp_path: Path) -> Iterator[Path]:
    """Make a directory for a PIN, on one device; what modules leave there is removed at the end."""
    if name != "edge02":
        pytest.skip("one device shows it")
    host.check_output("install -d -m 0700 %s", DIRECTORY)
    yield tmp_path
    host.check_output("rm -rf %s /home/admin/.test-ansible", DIRECTORY)


def play(tmp_path: Path, pipelining: bool) -> str:
    """Write the PIN as the role does; keep all files that Ansible makes, on both machines."""
    task = {"edge_litestream.appliance.pin_file": {"path": f"{DIRECTORY}/pin", "pin": PIN}}
    known = {"ansible_ssh_pipelining": pipelining, "ansible_remote_tmp": "/home/admin/.test-ansible"}
    file = tmp_path / "play.json"
    file.write_text(
        json.dumps(
            [{"hosts": "edge02", "become": True, "gather_facts": False, "vars": known, "tasks": [task]}]
        )
    )
    done = subprocess.run(
        [tool("ansible-playbook"), "-vvv", "--inventory=inventory/lab", file],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Files that are there for a moment count too. Ends with the file that says so, or by itself.
WATCH = f"""
for n in $(seq 3000); do
    test -e {DIRECTORY}/end && exit
    grep -rsF "{NEEDLE}" /home /tmp /var/tmp && exit
    sleep 0.01
done
exit 1
"""


@pytest.mark.parametrize("pipelining", [False, True])
def test_no_other_file_of_the_device_holds_it(host: Any, kept: Path, pipelining: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(host.run, WATCH)
        try:
            said = play(kept, pipelining)
        finally:
            host.check_output("touch %s/end", DIRECTORY)
        seen = watch.result()
    assert (seen.rc, seen.stdout) == (0, "")
    assert "changed=1" in said
    assert PIN not in said
    assert "changed=0" in play(kept, pipelining)
    assert host.check_output("stat -c %%U:%%G:%%a %s/pin", DIRECTORY) == "root:root:600"
    found = host.run(f'grep -rslF "{NEEDLE}" /etc /home /root /run /tmp /var/tmp /var/lib').stdout.split()
    assert found == [f"{DIRECTORY}/pin"]
    # sudo writes every command line that it runs into the journal.
    journal = "journalctl --no-pager --output=export --since=-5min"
    assert host.run(f"{journal} | grep -aqF '{DIRECTORY}/pin'").rc == 0, "the search sees the commands"
    assert host.run(f'{journal} | grep -aqF "{NEEDLE}"').rc == 1
    assert not [path for path in kept.rglob("*") if path.is_file() and path.name != "play.json"]
