"""Walk the table of faults on a converged lab: inject, wait for the words, heal, compare the rows."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from edge_rotator import __version__
from experiment import alerts, observe
from experiment.phases import ROOT
from lab.settings import HOSTS_FILE, paths
from lab.shell import signals_as_exceptions

TABLE = ROOT / "molecule/faults/table.yml"
RECORDED = ROOT / "molecule/faults/recorded.yml"
RESULTS = ROOT / "docs/reliability.yml"
LEVELS = ("ok", "warning", "critical", "unknown")
LAB = [sys.executable, "-m", "lab"]
STATUS = "sudo edge-rotator status --json"
# The device's own configuration, but with a file for metrics; made anew each time, for a fault may be in it.
# In a unit with a sandbox, as edge-rotator-metrics.service is: what keeps that from starting keeps this, too.
METRICS = r"""
unit=/etc/systemd/system/edge-faults-metrics.service
[ -e $unit ] || {
    printf '[Service]\nType=oneshot\nPrivateDevices=yes\nExecStart=/usr/local/bin/edge-rotator %s\n' \
        '--config /var/lib/edge-faults/config.toml metrics' >$unit
    systemctl daemon-reload
}
install -d -o edge-rotator /var/lib/edge-faults &&
sed 's,^metrics_file.*,metrics_file = "/var/lib/edge-faults/metrics.prom",' \
    /etc/edge-rotator/config.toml >/var/lib/edge-faults/config.toml &&
systemctl start edge-faults-metrics.service
cat /var/lib/edge-faults/metrics.prom
"""
HEALTHY_WITHIN_S = 60.0
BETWEEN_SAMPLES_S = 5.0  # what moves meanwhile moves on in the alerts' tests, what stands still does not
COMMAND_AT_MOST_S = 600.0
CONVERGES_AT_MOST_S = 1800.0  # a dozen of them are one command

Command = dict[str, str]


@dataclass(frozen=True)
class Told:
    """What `status` has to say, at least so bad, and how soon."""

    level: str
    says: str
    within_s: float


@dataclass(frozen=True)
class Fault:
    """One row of the table; molecule/faults/table.yml says what each field means."""

    name: str
    what: str
    inject: list[Command]
    ok_within_s: float
    group: str
    modes: Sequence[str] = ("environment", "process")
    heal: list[Command] = field(default_factory=list)
    mend: list[Command] = field(default_factory=list)
    status: Told | None = None
    doctor: dict[str, str] | None = None
    login: bool = False
    alert: dict[str, Any] | None = None
    lost: str = "0"
    short: bool = False


def load(path: Path = TABLE) -> list[Fault]:
    """Read the table."""
    faults = []
    for group, rows in yaml.safe_load(path.read_text()).items():
        for row in rows:
            status = row.pop("status", None)
            faults.append(Fault(group=group, status=Told(**status) if status else None, **row))
    return faults


@dataclass
class Outcome:
    """What one fault came to on one device."""

    fault: str
    mode: str
    told_s: float | None = None  # until the words were there; None where none are expected
    level: str = ""
    problems: list[str] = field(default_factory=list)
    doctor: dict[str, str] = field(default_factory=dict)  # line -> class of each one that failed
    ok_s: float | None = None
    wrong: list[str] = field(default_factory=list)  # what is not as the table says

    def line(self) -> str:
        """One line for a terminal."""
        told = "-" if self.told_s is None else f"{self.told_s:.0f} s"
        healed = "-" if self.ok_s is None else f"{self.ok_s:.0f} s"
        verdict = "ok" if not self.wrong else "WRONG: " + "; ".join(self.wrong)
        return f"{self.fault:32} {self.mode:12} told {told:>6}  well {healed:>6}  {verdict}"


class Device:
    """One device of the lab."""

    def __init__(self, name: str, mode: str) -> None:
        self.name, self.mode = name, mode

    def status(self) -> dict[str, Any]:
        """Ask the device; a report of level unknown where there is none."""
        try:
            report: dict[str, Any] = json.loads(observe.run(self.name, STATUS, check=False))
        except (ValueError, subprocess.TimeoutExpired):
            return {"level": "unknown", "problems": ["status does not answer"], "exit_code": 3}
        return report

    def doctor(self, login: bool) -> dict[str, str]:
        """Lines of doctor that failed, each with its class."""
        command = "sudo edge-rotator doctor" + (" --login" if login else "")
        text = observe.run(self.name, command, check=False, timeout_s=COMMAND_AT_MOST_S)
        return dict(re.findall(r"^failed +(\S+) +(\w+): ", text, re.MULTILINE))

    def metrics(self) -> tuple[float, dict[str, float]]:
        """Return when the device was asked, and the samples of its textfile of now, by series."""
        text = observe.run(self.name, f"sudo sh -c {shlex.quote(METRICS)}", check=False)
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        # How often what happened in this walk concerns no alert.
        samples = {name: float(value) for name, _, value in pairs if "_attempts_total" not in name}
        return round(observe.now(self.name), 3), samples


def devices(only: list[str] | None = None) -> list[Device]:
    """List the inventory's devices that have a mode."""
    groups = yaml.safe_load(HOSTS_FILE.read_text())["all"]["children"]
    hosts = groups["edge_devices"]["hosts"]
    return [
        Device(name, host["edge_rotator_delivery"])
        for name, host in hosts.items()
        if only is None or name in only
    ]


def run(command: Command, device: Device) -> None:
    """Run one command of the table where it belongs."""
    ((where, text),) = command.items()
    text = text.replace("{device}", device.name)
    if where == "device":
        observe.run(device.name, f"sudo sh -ec {shlex.quote(text)}", timeout_s=COMMAND_AT_MOST_S)
    elif where == "cloud":
        observe.run(observe.CLOUD, f"sudo sh -ec {shlex.quote(text)}")
    elif where == "control":
        lines = f'lab() {{ {shlex.join(LAB)} "$@"; }}\n{text}'
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", lines],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=CONVERGES_AT_MOST_S,
        )
        if done.returncode:
            words = " ".join((done.stdout + done.stderr).split())[-600:]
            raise observe.CommandError(f"{text!r} ended with {done.returncode}: {words}")
    else:
        raise ValueError(f"{TABLE}: a command runs on device, cloud or control, not {where!r}")


def until(reached: Callable[[], bool], at_most_s: float) -> float | None:
    """Ask until the answer is yes; return after how many seconds, None if it never was."""
    begun = time.monotonic()
    while True:
        if reached():
            return time.monotonic() - begun
        if time.monotonic() - begun > at_most_s:
            return None
        time.sleep(0.5)


class Drill:
    """One walk over some rows, on all devices at once."""

    def __init__(self, targets: list[Device], record: bool = True) -> None:
        self.targets, self.record = targets, record
        self.outcomes: list[Outcome] = []
        self.recorded: dict[str, dict[str, Any]] = {}
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        """Report progress, with the time since the start."""
        print(f"[{time.monotonic() - self.begun:5.0f} s] {text}", file=sys.stderr, flush=True)

    def each(self, work: Callable[[Device], Any], targets: list[Device]) -> list[Any]:
        """Do something on all devices at once."""
        with ThreadPoolExecutor(max_workers=max(len(targets), 1)) as pool:
            return list(pool.map(work, targets))

    def everywhere(self, commands: list[Command], targets: list[Device]) -> None:
        """Run commands: on each device; elsewhere once, or once for each device that is named."""
        for command in commands:
            (text,) = command.values()
            shared = "device" not in command and "{device}" not in text
            self.each(partial(run, command), targets[:1] if shared else targets)

    def one(self, fault: Fault) -> list[Outcome]:
        """Let one fault happen, and see what the devices say during it and after."""
        targets = [device for device in self.targets if device.mode in fault.modes]
        outcomes = {device.name: Outcome(fault.name, device.mode) for device in targets}
        if not targets:
            return []
        # One device tells enough, for the alerts do not know of modes; in process mode nothing restarts.
        witness = targets[-1]
        record = [self.healthy(witness)] if fault.alert and self.record else []
        try:
            self.everywhere(fault.inject, targets)
            self.each(lambda device: self.observe(fault, device, outcomes[device.name]), targets)
            if record and not outcomes[witness.name].wrong:
                record.append(witness.metrics())
                time.sleep(BETWEEN_SAMPLES_S)
                self.recorded[fault.name] = alerts.compact([*record, witness.metrics()])
        finally:
            self.everywhere(fault.heal + fault.mend, targets)
        self.each(lambda device: self.recover(fault, device, outcomes[device.name]), targets)
        for outcome in outcomes.values():
            self.say(outcome.line())
        self.outcomes += outcomes.values()
        return list(outcomes.values())

    def healthy(self, device: Device) -> tuple[float, dict[str, float]]:
        """Record a device before a fault; the last one's may still be in its metrics for some seconds."""
        found: list[tuple[float, dict[str, float]]] = []

        def replicated() -> bool:
            found.append(device.metrics())
            return all(value for name, value in found[-1][1].items() if "_replicated{" in name)

        until(replicated, HEALTHY_WITHIN_S)
        return found[-1]

    def observe(self, fault: Fault, device: Device, outcome: Outcome) -> None:
        """Wait for the words of status, then ask the doctor."""
        if fault.status:
            told = fault.status
            report: dict[str, Any] = {}

            def says() -> bool:
                report.update(device.status())
                bad_enough = LEVELS.index(report["level"]) >= LEVELS.index(told.level)
                return bad_enough and any(w in " / ".join(report["problems"]) for w in told.says.split(" | "))

            outcome.told_s = until(says, told.within_s)
            outcome.level, outcome.problems = report["level"], report["problems"]
            if outcome.told_s is None:
                outcome.wrong.append(
                    f"status said {report['level']} {report['problems']}, not {told.level} {told.says!r} "
                    f"within {told.within_s:.0f} s"
                )
        if fault.doctor is not None:
            outcome.doctor = device.doctor(fault.login)
            missing = {line: kind for line, kind in fault.doctor.items() if outcome.doctor.get(line) != kind}
            if missing:
                outcome.wrong.append(f"doctor failed {outcome.doctor}, without {missing}")

    def recover(self, fault: Fault, device: Device, outcome: Outcome) -> None:
        """Wait until the device is well."""
        outcome.ok_s = until(lambda: device.status()["level"] == "ok", fault.ok_within_s)
        if outcome.ok_s is None:
            report = device.status()
            outcome.wrong.append(
                f"still {report['level']} {report['problems']} after {fault.ok_within_s:.0f} s"
            )

    def compare(self, group: str) -> list[str]:
        """Restore every replica and compare it with its database, row by row; return what was lost."""

        def lossless(device: Device) -> str:
            try:
                observe.finish_replication(device.name)
                here, there = observe.rows(device.name, observe.DATABASE), observe.restore(device.name)
            except (observe.CommandError, subprocess.TimeoutExpired) as error:
                return f"{device.name}: {error}"
            finally:
                observe.run(device.name, "sudo systemctl start sample-app.service", check=False)
            good = there.rows == here.rows and there.integrity == here.integrity == "ok" and here.rows
            lost = len(set(here.rows) - set(there.rows))
            return "" if good else f"{device.name}: {lost} of {len(here.rows)} rows lost, {there.integrity}"

        lost = [text for text in self.each(lossless, self.targets) if text]
        self.say(f"{group}: rows compared, {'none lost' if not lost else 'ROWS LOST: ' + '; '.join(lost)}")
        return lost

    def walk(self, faults: list[Fault]) -> bool:
        """Walk over rows of the table; whether all is as it says."""
        for number, fault in enumerate(faults):
            try:
                self.one(fault)
            except (observe.CommandError, subprocess.SubprocessError) as error:
                failed = Outcome(fault.name, "both", wrong=[str(error)])
                self.outcomes.append(failed)
                self.say(failed.line())
            if number + 1 == len(faults) or faults[number + 1].group != fault.group:
                lost = self.compare(fault.group)
                self.outcomes += [Outcome(f"rows after {fault.group}", "both", wrong=[text]) for text in lost]
        return not any(outcome.wrong for outcome in self.outcomes)

    def results(self, faults: list[Fault]) -> dict[str, Any]:
        """Return what docs/reliability.yml keeps of this walk."""
        rows: dict[str, Any] = {}
        for outcome in self.outcomes:
            told = None if outcome.told_s is None else round(outcome.told_s)
            well = None if outcome.ok_s is None else round(outcome.ok_s)
            row = {"told_s": told, "well_s": well, "said": outcome.problems, "doctor": outcome.doctor}
            rows.setdefault(outcome.fault, {})[outcome.mode] = row | (
                {"wrong": outcome.wrong} if outcome.wrong else {}
            )
        return {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "version": __version__,
            "faults": {fault.name: rows[fault.name] for fault in faults if fault.name in rows},
        }


def choose(names: str, short: bool) -> list[Fault]:
    """Pick rows of the table, in its order; all of them where nothing is asked for."""
    faults = load()
    wanted = {name for name in re.split(r"[\s,]+", names) if name}
    if unknown := wanted - {fault.name for fault in faults} - {fault.group for fault in faults}:
        raise SystemExit(
            f"faults: {TABLE.name} has no {', '.join(sorted(unknown))}; --list shows what it has"
        )
    return [
        fault
        for fault in faults
        if (fault.short or not short) and (not wanted or fault.name in wanted or fault.group in wanted)
    ]


def merge(path: Path, key: str, new: dict[str, Any], order: list[Fault]) -> None:
    """Put the rows of a walk over some faults into a file that has those of all."""
    old = yaml.safe_load(path.read_text()) if path.exists() else {}
    rows = {**old.get(key, {}), **new[key]}
    new = {**new, key: {fault.name: rows[fault.name] for fault in order if fault.name in rows}}
    text = yaml.safe_dump(new, sort_keys=False, width=1000, default_flow_style=None)
    path.write_text(f"---\n# Made by `make faults`.\n# yamllint disable\n{text}")


@contextmanager
def booted() -> Iterator[None]:
    """Boot and converge the lab, and take it away again."""
    if paths().machines.exists() and any(paths().machines.iterdir()):
        raise SystemExit("faults: a lab is up already; end it first: make lab-down")
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory/lab"]
    try:
        subprocess.run([*LAB, "up"], check=True, cwd=ROOT)
        subprocess.run([*playbook, "molecule/shared/cloud.yml"], check=True, cwd=ROOT)
        observe.run(observe.CLOUD, "sudo cloudctl set-lifetime 60")
        subprocess.run([*playbook, "playbooks/site.yml"], check=True, cwd=ROOT)
        yield
    finally:
        subprocess.run([*LAB, "purge"], check=False, cwd=ROOT)


def main() -> int:
    """Read the arguments, walk, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="?", default=os.environ.get("FAULTS", ""), help="names, or groups")
    parser.add_argument("--list", action="store_true", help="only show the table's rows")
    parser.add_argument("--short", action="store_true", help="only the rows that `make test` walks")
    parser.add_argument("--hosts", help="only these devices, comma-separated")
    parser.add_argument("--boot", action="store_true", help="boot and converge a lab, and take it away again")
    parser.add_argument("--dry", action="store_true", help="write no file")
    arguments = parser.parse_args()
    faults = choose(arguments.faults, arguments.short)
    if arguments.list:
        for fault in faults:
            print(f"{fault.group:12} {fault.name:32} {fault.what}")
        return 0
    if os.geteuid() != 0:
        raise SystemExit("faults: the lab needs root: run make faults")
    drill = Drill(devices(arguments.hosts.split(",") if arguments.hosts else None))
    with signals_as_exceptions():
        if arguments.boot:
            with booted():
                good = drill.walk(faults)
        else:
            good = drill.walk(faults)
    for outcome in drill.outcomes:
        print(outcome.line())
    if not arguments.dry:
        merge(RESULTS, "faults", drill.results(faults), load())
        waking = [fault for fault in load() if fault.alert]
        merge(RECORDED, "recorded", {"recorded": drill.recorded}, waking)
    print("every fault was told and healed, no row was lost" if good else "NOT AS THE TABLE SAYS")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
