"""playbooks/renew.yml: a run that broke off between two files, a device that goes away, what goes when."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[3]
OLD = 'key_label = "device-key"\n'


def run(tmp_path: Path, play: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a play on this machine."""
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"gather_facts": False, **play}]))
    return subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), *options),
            str(tmp_path / "play.yml"),
        ],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("certificate", "rekeyed", "written"),
    [("other_key", True, OLD), ("ok", False, 'key_label = "device-key-2"\n')],
)
def test_a_certificate_of_the_new_key_gets_its_configuration(
    certificate: str, rekeyed: bool, written: str, tmp_path: Path
) -> None:
    """The inventory names a new key; with its certificate in place, there is nothing to renew again."""
    (play,) = yaml.safe_load((ROOT / "playbooks/renew.yml").read_text())
    wanted = (
        "Look whether certificate and key fit already",
        "The configuration names the key of the certificate",
    )
    tasks = [task for task in play["tasks"] if task["name"] in wanted]
    (tmp_path / "config.toml").write_text(OLD)
    known: dict[str, Any] = {
        "edge_rotator_config_dir": str(tmp_path),
        "edge_rotator_backend": "pkcs11",
        "pkcs11_key_label": "device-key-2",
        "pkcs11_user": "root",
        "__edge_rotator_current_key": "device-key",
        "__edge_rotator_current": {"content": base64.b64encode(OLD.encode()).decode()},
    }
    told = {"ansible.builtin.assert": {"that": "__renew_rekeyed == " + str(rekeyed).lower()}}
    looked = {"ansible.builtin.set_fact": {"__device_identity_key": {"certificate": certificate}}}
    # After the switch they fit, and what was due is still to be ended.
    switched = {"ansible.builtin.set_fact": {"__device_identity_key": {"certificate": "ok"}}}
    done = run(
        tmp_path,
        {
            "hosts": "localhost",
            "connection": "local",
            "vars": {**play["vars"], **known},
            "pre_tasks": [looked],
            "tasks": [*tasks, told, switched, told],
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "config.toml").read_text() == written


@pytest.mark.timeout(300)
def test_a_device_that_goes_away_is_told_of_with_both_its_certificates(tmp_path: Path) -> None:
    """No answer from the switch on: nobody knows which certificate it has, so none becomes inactive."""
    (play,) = yaml.safe_load((ROOT / "playbooks/renew.yml").read_text())
    (block,) = [task for task in play["tasks"] if "rescue" in task]
    names = [task["name"] for task in block["block"]]
    first = names.index("The device has switched, and the old files are kept")
    in_use = base64.b64encode(b"old certificate").decode()
    known = {
        "edge_rotator_backend": "pkcs11",
        "edge_rotator_config_dir": str(tmp_path),
        "device_identity_certificate_file": str(tmp_path / "device.crt"),
        "pkcs11_key_label": "device-key",
        "__edge_rotator_current_key": "device-key",
        "__renew_due": True,
        "__renew_half": False,
        "__renew_in_use": {"content": in_use},
        "__renew_old": {"id": "0123"},
        "__certified": {"id": "4567", "certificate": "new certificate"},
    }
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_connection": "ssh"}
    done = run(
        tmp_path,
        {
            "hosts": "edge-0001",
            "vars": {**play["vars"], **known, **away},
            # Beside what a role of the collection does, all of them.
            "tasks": [{**block, "block": block["block"][first : first + 2]}],
        },
        "--inventory=edge-0001,",
    )
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "edge-0001 has its old certificate 0123 or the new one 4567; both are active" in said, said
    assert "run this again with --limit edge-0001" in said
    assert re.search(r"TASK \[The new certificate is inactive\] \*+ skipping", said), said


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("before", "proven"), [({"stat": {"checksum": "aa"}}, True), ({"unreachable": True}, False)]
)
def test_new_credentials_are_compared_with_some(before: dict[str, Any], proven: bool, tmp_path: Path) -> None:
    """A device that could not be reached for a moment has not shown that it fetched any."""
    *_, asserts = yaml.safe_load((ROOT / "playbooks/tasks/rotated.yml").read_text())
    known = {
        "__rotated_old": before,
        "__rotated_new": {"stat": {"exists": True, "checksum": "bb"}},
        "__rotated_after": {"stdout": "ok", "stdout_lines": ["ok"]},
    }
    done = run(tmp_path, {"hosts": "localhost", "connection": "local", "vars": known, "tasks": [asserts]})
    assert (done.returncode == 0) == proven, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("inactive_s", "in_use_s", "due", "deleted"),
    [
        (86399, 10**7, False, False),
        (86401, 10**7, False, True),
        # Of a clock that AWS does not tell, the age of the new one is the least.
        (10**7, 86399, False, False),
        (10**7, 10**7, True, False),
    ],
)
def test_an_old_certificate_stays_until_it_was_inactive_for_long_enough(
    inactive_s: int, in_use_s: int, due: bool, deleted: bool
) -> None:
    """However long ago the new one was made: a run may end what another began weeks before."""
    loaded = DataLoader().load_from_file(str(ROOT / "playbooks/renew.yml"), trusted_as_template=True)
    old = {"id": "0123", "status": "INACTIVE", "created": "2025-01-01", "unchanged_s": inactive_s}
    known = {
        **loaded[0]["vars"],
        "__renew_due": due,
        "__thing_found": {"certificates": [old]},
        "__renew_old": {"id": "4567", "created": "2026-01-01", "age_s": in_use_s},
        "__certified": {"id": "89ab", "created": "2026-02-01"},
        "ansible_check_mode": False,
    }
    found = Templar(loader=DataLoader(), variables=known).template(known["__renew_forgotten"])
    assert found == (["0123"] if deleted else [])
