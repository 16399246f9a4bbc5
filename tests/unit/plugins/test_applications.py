"""Which units a restore stops, by the inventory; a play on this machine that asks no device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PLAY = [
    {
        "hosts": "edge_devices",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/planned.yml")},
            {
                "ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/applications.yml"),
                "vars": {"applications_of": "{{ wanted }}"},
            },
            {"ansible.builtin.debug": {"msg": "units {{ __applications | to_json }}"}},
        ],
    }
]
DATABASES = {
    "sample": {"path": "{{ sample_app_database }}", "group": "edge-data"},
    "app": {"path": "/var/lib/app/app.db", "unit": "app.service"},
    "many": {"dir": "/var/lib/many", "pattern": "*.db", "unit": ["many.service", "many.timer"]},
    "unsaid": {"path": "/var/lib/unsaid/unsaid.db"},
}


def play(tmp_path: Path, databases: dict[str, Any], wanted: list[str], **known: Any) -> tuple[int, str]:
    variables = {"edge_databases": databases, "wanted": wanted, "fleet_bucket": "backups", **known}
    variables["edge_rotator_region"] = "eu-central-1"
    hosts = {"edge_devices": {"hosts": {"edge01": {}}, "vars": variables}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--inventory=hosts.yml", "play.yml"],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).replace("\\", "").split())


@pytest.mark.parametrize(
    ("wanted", "known", "units"),
    [
        (["/var/lib/app/app.db"], {}, ["app.service"]),
        (["/var/lib/many/one.db", "/var/lib/app/app.db"], {}, ["app.service", "many.service", "many.timer"]),
        (["/var/lib/sample-app/sample.db"], {}, ["sample-app.service"]),
        ([], {"restore_units": ["mine.service"]}, ["mine.service"]),
        ([], {}, None),
        (["/var/lib/unsaid/unsaid.db"], {}, None),
        # An inventory from before says nothing, and has the sample application alone.
        (["/var/lib/sample-app/sample.db"], {"sample_app_state": "absent"}, None),
    ],
)
def test_the_inventory_says_which_units_are_stopped(
    tmp_path: Path, wanted: list[str], known: dict[str, Any], units: list[str] | None
) -> None:
    code, said = play(tmp_path, DATABASES, wanted, **known)
    if units is None:
        assert code != 0, said
        assert "Nobody says which unit writes /var/lib/" in said
        assert "give the entry in edge_databases a unit" in said
    else:
        assert code == 0, said
        assert f"units {json.dumps(units)}" in said


def test_all_databases_of_an_inventory_from_before(tmp_path: Path) -> None:
    code, said = play(tmp_path, {"sample": DATABASES["sample"]}, [])
    assert code == 0, said
    assert 'units ["sample-app.service"]' in said
