"""What every experiment needs: machines booted and converged, progress told, and a log of each step."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from experiment import observe
from lab.settings import HOSTS_FILE, inventory, paths
from lab.shell import signals_as_exceptions

ROOT = Path(__file__).resolve().parents[3]
LAB = ROOT / "inventory/lab"
BUILD = ROOT / "build"


class Stage:
    """The machines of one experiment, and its progress on standard error."""

    def __init__(self, name: str, target: Path, hosts: Path = HOSTS_FILE) -> None:
        self.name, self.target, self.hosts = name, target, hosts
        self.log = target / f"{name}.log"
        machines = inventory(hosts).values()
        self.devices = {machine.name: machine for machine in machines if "edge_devices" in machine.groups}
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        """Report progress, with the time since the start."""
        print(f"[{time.monotonic() - self.begun:5.0f} s] {text}", file=sys.stderr, flush=True)

    def step(self, text: str, *command: str) -> None:
        """Run one step; its output goes to a log that is shown when it fails."""
        if text:
            self.say(text)
        environment = {**os.environ, "EDGE_LAB_INVENTORY": str(self.hosts), "ANSIBLE_NOCOLOR": "1"}
        with self.log.open("a") as file:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, check=False
            )
        if done.returncode:
            print("\n".join(self.log.read_text().splitlines()[-40:]), file=sys.stderr)
            raise SystemExit(f"{self.name}: '{' '.join(command)}' failed; the whole log is {self.log}")

    def lab(self, *words: str, text: str = "") -> None:
        """Run a command of the lab."""
        self.step(text, sys.executable, "-m", "lab", *words)

    def play(self, text: str, playbook: str, variables: dict[str, Any] | None = None) -> None:
        """Run a playbook against the machines."""
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        given = f"--extra-vars={json.dumps(variables or {})}"
        self.step(text, program, f"--inventory={self.hosts.parent}", given, playbook)

    def set_up(self, lifetimes: dict[str, int], variables: dict[str, Any] | None = None) -> None:
        """Boot and converge, with credentials that live so many seconds, by role alias."""
        self.lab("up", text=f"booting the cloud and {len(self.devices)} devices")
        self.play("setting up the cloud", "molecule/shared/cloud.yml")
        self.let_live(lifetimes)
        self.converge(variables)

    def let_live(self, lifetimes: dict[str, int]) -> None:
        """Let new credentials live so many seconds, by role alias."""
        for alias, seconds in lifetimes.items():
            observe.run(observe.CLOUD, ["sudo", "cloudctl", "set-lifetime", "--alias", alias, str(seconds)])

    def converge(self, variables: dict[str, Any] | None = None) -> None:
        """Turn bare devices into appliances, or change what they are."""
        self.play("converging the devices (playbooks/site.yml)", "playbooks/site.yml", variables)


def add_options(parser: argparse.ArgumentParser, kept: Path, drawn: str = "") -> None:
    """Add what recorded experiments share: --record (in `kept`), --keep, --seed where something is drawn."""
    if drawn:
        parser.add_argument(
            "--seed",
            type=int,
            default=random.SystemRandom().randrange(10**6),
            help=f"what {drawn} are drawn from (default: one of its own)",
        )
    parser.add_argument("--record", action="store_true", help=f"keep the result in {kept.relative_to(ROOT)}")
    parser.add_argument("--keep", action="store_true", help="leave the machines running")


@contextmanager
def machines(stage: Stage, keep: bool = False) -> Iterator[None]:
    """Around an experiment: nothing may be up before, and nothing is left of it."""
    if os.geteuid() != 0:
        raise SystemExit(f"{stage.name}: the lab needs root: run make {stage.name}")
    if paths().machines.exists() and any(paths().machines.iterdir()):
        raise SystemExit(f"{stage.name}: a lab is up already; end it first: make lab-down")
    stage.target.mkdir(parents=True, exist_ok=True)
    stage.log.unlink(missing_ok=True)
    try:
        with signals_as_exceptions():
            yield
    finally:
        if not keep:
            stage.lab("purge")


def hosts_file(folder: Path, devices: dict[str, dict[str, Any]]) -> Path:
    """Write the lab's inventory with these devices, and their variables, in place of its own."""
    groups: dict[str, Any] = yaml.safe_load((LAB / "hosts.yml").read_text())["all"]["children"]
    groups["edge_devices"]["hosts"] = {
        name: {**variables, "ansible_host": f"10.83.0.{10 + number}"}
        for number, (name, variables) in enumerate(devices.items(), 1)
    }
    (folder / "group_vars").symlink_to(LAB / "group_vars")
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    return folder / "hosts.yml"


def kinds_of_devices(count: int) -> dict[str, dict[str, Any]]:
    """So many devices of the kinds that the lab's inventory has, by turns."""
    groups = yaml.safe_load((LAB / "hosts.yml").read_text())["all"]["children"]
    patterns = list(groups["edge_devices"]["hosts"].values())
    return {f"edge{number:02}": patterns[(number - 1) % len(patterns)] for number in range(1, count + 1)}


class _Indented(yaml.SafeDumper):
    """Lists indented, as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Never leave a list where its key is."""
        super().increase_indent(flow, False)


def record(path: Path, made_by: str, result: dict[str, Any]) -> None:
    """Keep a result for docs/reliability.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(result, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=110)
    path.write_text(f"---\n# Made by `{made_by}`.\n{text}")
