"""playbooks/renew.yml: what a run does about one that broke off between two files."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
OLD = 'key_label = "device-key"\n'


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
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "localhost",
                    "connection": "local",
                    "gather_facts": False,
                    "vars": {**play["vars"], **known},
                    "pre_tasks": [looked],
                    "tasks": [*tasks, told, switched, told],
                }
            ]
        )
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), str(tmp_path / "play.yml")],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "config.toml").read_text() == written
