"""The tasks of an upgrade as Ansible plays them, with a module that says what it is told to."""

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
pytestmark = pytest.mark.timeout(120)
MODULE = "edge_litestream.appliance.debian_upgrade"
# Notes what it is asked. What fails and where the device is lost is told by the test.
FAKE = """\
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        args, fate = self._task.args, task_vars["fate"]
        asked = " ".join(args[name] for name in ("state", "phase") if args.get(name))
        with open(task_vars["playbook_dir"] + "/asked", "a+") as file:
            file.seek(0)
            gone = fate["stays"] and fate["lost"] in file.read().splitlines()
            file.write(asked + "\\n")
        if gone or asked == fate["lost"]:
            raise AnsibleConnectionFailure("no route")
        return {"failed": asked == fate["fails"], "msg": "E: broken", "token": "t", "finished": True}
"""


def played(
    tmp_path: Path, begun: bool, fails: str = "", lost: str = "", stays: bool = False
) -> tuple[list[str], str]:
    """Play debian_upgraded.yml up to the reboot: what the module was asked, and what was said."""
    for name, text in {"action_plugins": FAKE, "library": "#!/usr/bin/python\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "debian_step.py").write_text(text)
    for name in ("debian_upgraded.yml", "debian_phase.yml"):
        text = (ROOT / "playbooks/tasks" / name).read_text().replace(MODULE, "debian_step")
        # Whether the rotator's part is there is not asked here.
        (tmp_path / name).write_text(text.replace("__debian_parts.matched > 0 or ", "true or "))
    tasks = yaml.safe_load((tmp_path / "debian_upgraded.yml").read_text())
    last = next(number for number, task in enumerate(tasks) if task["name"].endswith("The device runs it"))
    (tmp_path / "debian_upgraded.yml").write_text(yaml.safe_dump(tasks[:last], sort_keys=False))
    (tmp_path / "upgraded.yml").write_text("[]")
    known: dict[str, Any] = {
        "__debian": {"begun": begun, "pending": True},
        "fate": {"fails": fails, "lost": lost, "stays": stays},
        "ansible_python_interpreter": sys.executable,
    }
    play = {
        "hosts": "edge01",
        "connection": "local",
        "gather_facts": False,
        "vars": known,
        "tasks": [{"ansible.builtin.include_tasks": "debian_upgraded.yml"}],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--inventory=edge01,", tmp_path / "play.yml"],
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert (tmp_path / "asked").exists(), said
    return (tmp_path / "asked").read_text().splitlines(), said


def of_phase(name: str) -> list[str]:
    return [f"started {name}", f"finished {name}"]


def test_an_upgrade_that_broke_off_goes_on_and_fetches_nothing(tmp_path: Path) -> None:
    """With dpkg broken apt downloads nothing."""
    asked, said = played(tmp_path, begun=True, fails="started download")
    assert asked == [*of_phase("upgrade"), "ready"], said
    assert "nothing of Debian 13 was installed" not in said


@pytest.mark.parametrize(
    "state", ["disabled", "finished current", "switched", "finished download", "planned"]
)
def test_a_device_that_is_lost_before_it_begins_gets_its_sources_back(tmp_path: Path, state: str) -> None:
    asked, said = played(tmp_path, begun=False, lost=state)
    assert asked[0] == "restored", "of a run before"
    assert asked[-2:] == [state, "restored"], said
    assert "nothing of Debian 13 was installed: it cannot be reached: " in said


def test_one_that_stays_lost_is_said_to_have_the_new_sources(tmp_path: Path) -> None:
    said = played(tmp_path, begun=False, lost="finished download", stays=True)[1]
    assert (
        "its sources may still name it until this playbook is run for it again: it cannot be reached" in said
    )


def test_what_does_not_fit_is_not_installed(tmp_path: Path) -> None:
    asked, said = played(tmp_path, begun=False, fails="planned")
    assert asked[-2:] == ["planned", "restored"], said
    assert "nothing of Debian 13 was installed: E: broken" in said


def test_what_may_not_reboot_does_not(tmp_path: Path) -> None:
    asked, said = played(tmp_path, begun=True, fails="ready")
    assert asked[-1] == "ready"
    assert "E: broken" in said
