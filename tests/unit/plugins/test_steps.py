"""What an operator sees of a playbook: a line per device and step, and in the end one per device."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
TASKS: list[dict[str, Any]] = [
    {"name": "install | It is there", "command": "true"},
    {"name": "install | It is asked", "command": "true", "changed_when": False},
    {"name": "configure | Nothing", "command": "true", "when": False},
    {"name": "configure | A secret", "command": "false", "ignore_errors": True, "changed_when": False},
    {"name": "Told once", "debug": {"msg": ["one", "two"]}, "run_once": True},
    {"name": "Told", "debug": {"msg": "about {{ inventory_hostname }}"}},
    {
        "name": "service | It runs",
        "fail": {"msg": "it does\n\x1b[2Jnot"},
        "when": "inventory_hostname == 'edge2'",
    },
]


@pytest.fixture
def played(tmp_path: Path) -> Any:
    """Play it on two devices that are this machine, and one that cannot be reached."""

    def play(*words: str, tasks: Any = TASKS) -> tuple[int, str, dict[str, Any]]:
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
        (tmp_path / "ssh").chmod(0o755)
        off = {"ansible_host": "192.0.2.1", "ansible_ssh_executable": str(tmp_path / "ssh")}
        hosts = {"edge1": local, "edge2": local, "edge3": off}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        (tmp_path / "play.yml").write_text(
            yaml.safe_dump(
                [{"name": "A play", "hosts": "all", "gather_facts": False, "tasks": tasks}], sort_keys=False
            )
        )
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", *words, "play.yml"],
            cwd=tmp_path,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "ANSIBLE_STDOUT_CALLBACK": "edge_litestream.appliance.steps",
                "ANSIBLE_NOCOLOR": "1",
                "EDGE_RUN_JSON": str(tmp_path / "run.json"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr, json.loads((tmp_path / "run.json").read_text())

    return play


def test_a_line_per_device_and_step_and_a_summary(played: Any) -> None:
    code, said, _unused = played()
    assert code != 0
    for device in ("edge1", "edge2"):
        for step in (r"install +changed 1", r"configure +ok", r"A play +ok"):
            assert len(re.findall(rf"^{device} +{step} +\d+\.\d s$", said, re.MULTILINE)) == 1, said
    assert re.search(r"^edge2 +service +failed +\d", said, re.MULTILINE), said
    assert "TASK [service | It runs]" in said, "what failed is shown whole"
    assert "TASK [configure" not in said
    assert re.search(r"^one\ntwo$", said, re.MULTILINE)
    assert re.search(r"^edge2: about edge2$", said, re.MULTILINE)
    last = said.rstrip().splitlines()
    assert [line.split()[:2] for line in last if re.match(r"edge\d +\w+ +\d+ changed", line)] == [
        ["edge1", "changed"],
        ["edge3", "unreachable"],
        ["edge2", "failed"],
    ]
    assert "play: 1 changed, 1 unreachable, 1 failed" in last


def test_the_same_for_programs(played: Any, tmp_path: Path) -> None:
    _unused, _said, told = played()
    assert (told["playbook"], told["check"]) == ("play", False)
    assert {name: device["result"] for name, device in told["devices"].items()} == {
        "edge1": "changed",
        "edge2": "failed",
        "edge3": "unreachable",
    }
    steps = told["devices"]["edge1"]["steps"]
    assert [(step["step"], step["result"], step["tasks"], step["changed"]) for step in steps] == [
        ("install", "changed", 2, 1),
        ("configure", "ok", 1, 0),
        ("A play", "ok", 2, 0),
    ]
    assert told["devices"]["edge2"]["reason"] == "service | It runs: it does ?[2Jnot"
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600


def results(told: dict[str, Any]) -> dict[str, str]:
    return {name: device["result"] for name, device in told["devices"].items()}


def test_what_was_rescued_has_failed(played: Any) -> None:
    """A roll-out and a restore go on after it; the exit code says nothing of it."""
    new = {"name": "upgrade | It is new", "fail": {"msg": "no"}, "when": "inventory_hostname == 'edge2'"}
    old = {"name": "upgrade | It is old again", "command": "true"}
    code, said, told = played("--limit=edge1,edge2", tasks=[{"block": [new], "rescue": [old]}])
    assert code == 0, said
    assert results(told) == {"edge1": "ok", "edge2": "failed"}
    assert told["devices"]["edge2"]["reason"] == "upgrade | It is new: no"
    assert "play: 1 ok, 1 failed" in said
    assert told["failed"] == ""


def test_what_is_done_once_for_all_fails_the_run_and_no_device(played: Any) -> None:
    """Ansible books it to the first device, to which it may not even have gone."""
    once = {"name": "check | All are told apart", "fail": {"msg": "they are not"}, "run_once": True}
    on = {"name": "It goes on", "command": "true", "changed_when": False}
    code, said, told = played("--limit=edge1,edge2", tasks=[on, once])
    assert code != 0, said
    assert results(told) == {"edge1": "ok", "edge2": "ok"}
    assert {step["result"] for device in told["devices"].values() for step in device["steps"]} == {"ok"}
    assert told["failed"] == "check | All are told apart: they are not"
    assert "play: failed once for all: check | All are told apart: they are not" in said


def test_a_failure_of_a_device_and_one_of_the_run_are_both_told(played: Any) -> None:
    own = {"name": "own | It is well", "fail": {"msg": "ill"}, "when": "inventory_hostname == 'edge1'"}
    once = {"name": "All are told apart", "fail": {"msg": "no"}, "run_once": True}
    _code, _said, told = played("--limit=edge1,edge2", tasks=[own, once])
    assert (results(told), told["failed"]) == ({"edge1": "failed", "edge2": "ok"}, "All are told apart: no")


def test_check_mode_is_told(played: Any) -> None:
    _code, said, told = played("--check")
    assert told["check"]
    assert "(--check: nothing was changed)" in said


def test_all_is_shown_when_it_is_asked_for(played: Any) -> None:
    _code, said, told = played("-v")
    assert "TASK [install | It is asked]" in said
    assert "PLAY RECAP" in said
    assert told["devices"]["edge2"]["result"] == "failed"
