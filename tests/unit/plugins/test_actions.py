"""What stops a play before anything changes, run as a play."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "provider": {"endpoint": "endpoint", "role_alias": "alias", "thing_name": "thing"},
    "token": {"module": "module", "label": "label", "key_label": "label"},
    "schedule": {"expected_lifetime": "lifetime", "refresh_margin": "margin"},
    "delivery": {"region": "region"},
}
GOOD = {
    "endpoint": "abc.credentials.iot.eu-central-1.amazonaws.com",
    "alias": "alias",
    "thing": "edge01",
    "module": "/m.so",
    "label": "edge",
    "lifetime": "3600",
    "margin": 300,
    "region": "eu-central-1",
}


def play(tmp_path: Path, task: dict[str, Any], inventory: dict[str, Any], *options: str) -> tuple[int, str]:
    """Run one task on this machine: how it ended, and what was said."""
    file, hosts = tmp_path / "play.yml", tmp_path / "hosts.json"
    file.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    hosts.write_text(json.dumps({"all": {"hosts": {"edge01": {"ansible_connection": "local", **inventory}}}}))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), f"--inventory={hosts}", *options, file],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"alias": "my alias!"}, "alias is 'my alias!': must be 1 to 128"),
        ({"margin": 3601}, "margin is 3601: must be less than lifetime (3600 s)"),
    ],
)
def test_the_rotators_refusal_names_the_variable(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    task = {"edge_litestream.appliance.rotator_config": {"variables": SETTINGS, "integers": ["lifetime"]}}
    code, text = play(tmp_path, task, {**GOOD, **changed})
    assert (code == 0) == (not said)
    assert said in text


CHECK = {
    "edge_litestream.appliance.preflight": {
        "rules": [
            {"that": "size | int > 1", "message": "size is {{ size }}: more."},
            {"that": ["true", "name == 'x'"], "message": "name is {{ name }}: x."},
        ],
        "derived": {"handed_on": "source"},
        "renamed": {"old": "new"},
        "renamed_values": {"backend": {"provider": "pkcs11-provider"}},
    }
}


def test_everything_to_correct_is_named_at_once(tmp_path: Path) -> None:
    inventory = {"size": 1, "name": "y", "handed_on": 1, "old": 1, "backend": "provider"}
    code, text = play(tmp_path, CHECK, inventory)
    assert code != 0
    for said in (
        "size is 1: more.",
        "name is y: x.",
        "set that instead",
        "is now called new",
        "'pkcs11-provider'",
    ):
        assert said in text


def test_what_the_command_line_gives_is_not_ignored(tmp_path: Path) -> None:
    code, text = play(tmp_path, CHECK, {"size": 2, "name": "x"}, "--extra-vars=handed_on=1")
    assert code == 0, text
