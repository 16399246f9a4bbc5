"""A roll-out as Ansible plays it, to devices that are directories of this machine or never answer."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(300)
# Accepts the connection and never says a word. It ends by itself, so that no test leaves it behind.
NEVER_ANSWERS = "#!/bin/sh\nexec sleep 90\n"

NO_AWS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


class Played(NamedTuple):
    """How a playbook ended: exit code, what it said with every white space made one blank, seconds."""

    code: int
    text: str
    seconds: float


class Control:
    """A control node with a fleet of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.silent = directory / "ssh"
        self.silent.write_text(NEVER_ANSWERS)
        self.silent.chmod(0o755)
        self.hosts: dict[str, Any] = {}

    def has(self, name: str, **variables: Any) -> None:
        """Add a device which is this machine; nothing is installed on it."""
        self.hosts[name] = {"ansible_connection": "local", **variables}

    def has_silent(self, name: str) -> None:
        """Add a device which accepts ssh and never answers."""
        silent = {"ansible_host": "192.0.2.1", "ansible_ssh_executable": str(self.silent)}
        self.hosts[name] = {**silent, "answer_timeout": 3}

    def play(self, playbook: Path, *words: str, **variables: Any) -> Played:
        """Run a playbook; it has to end within four minutes."""
        inventory = self.directory / "hosts.yml"
        common = {"ansible_become": False, "ansible_python_interpreter": sys.executable}
        group = {"hosts": self.hosts, "vars": {**common, "rollout_soak": 0, "healthy_retries": 0}}
        inventory.write_text(yaml.safe_dump({"all": {"children": {"edge_devices": group}}}))
        given = {"rollout_report_dir": str(self.directory), **variables}
        began = time.monotonic()
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={inventory}"),
                *(f"--extra-vars={json.dumps(given)}", *words, str(playbook)),
            ],
            cwd=ROOT,
            env={**os.environ, **NO_AWS, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        text = " ".join((done.stdout + done.stderr).split())
        return Played(done.returncode, text, time.monotonic() - began)

    def change(
        self,
        tasks: list[dict[str, Any]],
        handlers: list[dict[str, Any]],
        gate: list[dict[str, Any]] | None = None,
    ) -> Path:
        """Write a playbook that rolls tasks out, where there is a gate to those that it lets through."""
        (self.directory / "change.yml").write_text(yaml.safe_dump(tasks))
        rollout: dict[str, Any] = {
            "ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/rollout.yml"),
            "vars": {
                "rollout_name": "change",
                "rollout_change": str(self.directory / "change.yml"),
                "rollout_tags": ["all"],
                "rollout_mends": False,
            },
        }
        if gate:
            (self.directory / "gate.yml").write_text(yaml.safe_dump(gate))
            rollout["vars"]["rollout_gate"] = str(self.directory / "gate.yml")
        play = {"hosts": "edge_devices", "gather_facts": False, "tasks": [rollout], "handlers": handlers}
        playbook = self.directory / "play.yml"
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        return playbook

    def verdicts(self, name: str = "change") -> dict[str, str]:
        """Read what has become of each device."""
        told = json.loads((self.directory / f"{name}.report.json").read_text())
        return {device: known["verdict"] for device, known in told["devices"].items()}


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def test_what_a_device_had_changed_before_it_failed_is_restarted_before_it_is_judged(
    control: Control,
) -> None:
    """Also where one of its handlers fails. Those of the next ring have not begun by then."""
    control.has("edge1", rollout_ring="first", ill=True)
    control.has("edge2", rollout_ring="second")
    log = control.directory / "log"
    tasks: list[dict[str, Any]] = [
        {"command": "true", "notify": ["First", "Second", "Third"]},
        {"shell": f"echo change {{{{ inventory_hostname }}}} >>{log}"},
        {"command": "false", "when": "ill is defined"},
        {"meta": "flush_handlers"},
    ]
    handlers = [
        {"name": name, "shell": f"echo {name} {{{{ inventory_hostname }}}} >>{log}; {end}"}
        for name, end in (("First", "false"), ("Second", "test {{ inventory_hostname }} = edge2"))
    ]
    handlers.append({"name": "Third", "shell": f"echo Third {{{{ inventory_hostname }}}} >>{log}"})
    rings = [{"name": "first", "tolerate": 1}, {"name": "second", "tolerate": 1}]
    done = control.play(control.change(tasks, handlers), rollout_rings=rings)
    assert done.code != 0
    assert control.verdicts() == {"edge1": "failed", "edge2": "failed"}, done.text
    assert log.read_text().splitlines() == [
        *("change edge1", "First edge1", "Second edge1", "Third edge1"),
        *("change edge2", "First edge2", "Second edge2", "Third edge2"),
    ]


def test_who_is_not_fit_is_not_changed_and_the_others_are(control: Control) -> None:
    """Nor is one that is off asked."""
    control.has("edge1", unfit=True)
    control.has("edge2")
    control.has_silent("edge3")
    log = control.directory / "log"
    gate = [{"fail": {"msg": "packages are held"}, "when": "unfit is defined"}]
    tasks: list[dict[str, Any]] = [{"shell": f"echo {{{{ inventory_hostname }}}} >>{log}"}]
    playbook = control.change(tasks, [], gate)
    done = control.play(playbook, rollout_rings=[{"name": "all"}])
    assert done.code != 0
    assert control.verdicts() == {"edge1": "refused", "edge2": "same", "edge3": "off"}, done.text
    assert "edge1 all refused packages are held" in done.text
    assert log.read_text().split() == ["edge2"]


def test_a_device_that_never_answers_is_off_and_holds_nobody_up(control: Control) -> None:
    control.has_silent("edge1")
    control.has("edge2")
    done = control.play(control.change([{"command": "true"}], []))
    assert done.code == 0, done.text
    assert control.verdicts() == {"edge1": "off", "edge2": "same"}
    assert done.seconds < 85, "it was not waited for"


def test_a_device_that_falls_silent_is_judged(control: Control) -> None:
    """Nor is it waited for after its change, when it is compared."""
    control.has("edge1")
    tasks = [
        {
            "set_fact": {
                "ansible_connection": "ssh",
                "ansible_ssh_executable": str(control.silent),
                "answer_timeout": 3,
            }
        }
    ]
    done = control.play(control.change(tasks, []))
    assert done.code != 0
    assert control.verdicts() == {"edge1": "vanished"}, done.text
    assert done.seconds < 85


def test_status_gives_a_device_that_never_answers_its_line(control: Control) -> None:
    control.has_silent("edge1")
    control.has("edge2")
    page = str(control.directory / "status.html")
    done = control.play(ROOT / "playbooks/status.yml", status_page=page)
    assert done.code == 0, done.text
    told = {
        one["device"]: one["level"] for one in json.loads(Path(f"{page[:-5]}.json").read_text())["devices"]
    }
    assert set(told) == {"edge1", "edge2"}
    assert done.seconds < 85


class Refusing(http.server.BaseHTTPRequestHandler):
    """An S3 that gives nobody anything, at once."""

    def do_GET(self) -> None:
        """Answer any request."""
        self.send_error(403)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def bucket() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_drill_asks_a_device_that_never_answers_no_longer_than_it_may(
    control: Control, bucket: str
) -> None:
    """What is in the bucket is looked at all the same; here it is refused. No number of devices is given."""
    control.has_silent("edge1")
    done = control.play(
        ROOT / "playbooks/drill.yml",
        edge_rotator_region="eu-central-1",
        fleet_bucket="bucket",
        edge_databases={"app": {"path": "/var/lib/app/app.db"}},
        drill_program="/bin/false",
        drill_scratch=str(control.directory / "scratch"),
        drill_timeout=8,
        drill_endpoint=bucket,
    )
    assert "Its databases are restored here, and checked" in done.text, done.text
    assert done.code != 0
    assert done.seconds < 85, done.text


@pytest.mark.parametrize(
    ("playbook", "tags", "instead"),
    [
        ("rollback", "litestream", "use none"),
        ("rollback", "always", "use none"),
        ("upgrade", "litestraem", "litestream"),
    ],
)
def test_tags_with_which_nothing_would_change_are_refused(
    control: Control, playbook: str, tags: str, instead: str
) -> None:
    """Else everybody would be noted as done."""
    control.has("edge1")
    done = control.play(ROOT / f"playbooks/{playbook}.yml", f"--tags={tags}", "--check")
    assert done.code != 0
    assert f"--tags has {tags}, with which {playbook} would change nothing" in done.text
    assert instead in done.text
    assert not list(control.directory.glob("*.report*"))


@pytest.mark.parametrize("first", ["edge1", "edge3"])
def test_two_devices_of_one_thing_are_refused_before_the_first_ring(control: Control, first: str) -> None:
    """Whoever is the first of the inventory, and whoever answers."""
    control.has_silent(first)
    for name in ("edge2", "edge4"):
        control.has(name, edge_rotator_thing_name="twin")
    done = control.play(ROOT / "playbooks/upgrade.yml", "--check")
    assert done.code != 0
    assert "edge_rotator_thing_name is the same on more than one host of edge_devices: 'twin'" in done.text
    assert not list(control.directory.glob("*.report*"))
    assert "ring first" not in done.text
