"""The soak: write and rotate for as long as you like, break something at random, let it heal, lose no row.

What is broken, where and for how long is drawn from a seed; the same seed draws the same faults. Exit 0 only
if every row that was seen on a device is in its replica and every device healed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from experiment import faults, observe
from experiment.faults import Device, Fault
from experiment.stage import BUILD, ROOT, Stage, add_options, hosts_file, kinds_of_devices, machines, record

RECORD = ROOT / "docs/reliability/soak.yml"
# As short as a restart, a tick and the whole seconds of an expiry allow.
LIFETIME_S = 10
VARIABLES = {
    "edge_rotator_expected_lifetime": LIFETIME_S,
    "edge_rotator_refresh_margin": LIFETIME_S // 2,
    "edge_rotator_safety_margin": 1,
    "edge_rotator_tick": 1,
    "sample_app_interval": 0.2,
}
HEALS_WITHIN_S = 240
HOLD_S = (1, 40)  # four life times
REST_S = (3, 12)
ALL = "all devices"
HELP = [
    {"device": f"systemctl start edge-rotator-force.service; systemctl restart {unit}"}
    for unit in ("litestream", "sample-app")
]
LEFT_OUT = {
    "database-replaced": "rows go by intent",
    "database-restored-under-litestream": "rows go by intent",
    "provider-slow": "an answer that is 10 s late is as old as credentials get here",
}
OWN = Path(__file__).with_suffix(".yml")


def kinds(table: Path = faults.TABLE) -> dict[str, Fault]:
    """Return what may happen: rows of the table that lose nothing and need no playbook, and our own."""
    rows = {row.name: row for row in [*faults.load(table), *faults.load(OWN)]}
    return {
        name: row
        for name, row in rows.items()
        if row.lost == "0" and name not in LEFT_OUT and "ansible-playbook" not in str(commands(row))
    }


def commands(row: Fault) -> list[faults.Command]:
    """All that a row does."""
    return row.inject + row.heal + row.mend


def shared(row: Fault) -> bool:
    """Whether a fault is everybody's: it is made at the cloud and names no device."""
    return any(
        "device" not in command and "{device}" not in "".join(command.values()) for command in row.inject
    )


class Drawn(NamedTuple):
    """One fault of the sequence."""

    kind: str
    device: str
    hold_s: float
    rest_s: float


def sequence(seed: int, devices: dict[str, str], rows: dict[str, Fault]) -> Iterator[Drawn]:
    """Draw faults for ever: every kind once in each round, in an order, places and lengths of chance.

    `devices` are modes by name; a kind that one mode alone knows happens to one of that mode.
    """
    chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
    while True:
        for kind in chance.sample(sorted(rows), len(rows)):
            row = rows[kind]
            where = chance.choice([name for name, mode in devices.items() if mode in row.modes])
            hold_s, rest_s = chance.uniform(*HOLD_S), chance.uniform(*REST_S)
            yield Drawn(kind, ALL if shared(row) else where, round(hold_s, 1), round(rest_s, 1))


@dataclass
class Window:
    """When a device was, or may have been, disturbed, and by what; seconds since 1970."""

    kind: str
    begun: float
    ended: float


@dataclass
class Tally:
    """What came of it."""

    seed: int
    minutes: float = 0.0
    date: str = ""
    version: str = ""
    devices: dict[str, str] = field(default_factory=dict)
    lifetime_s: int = LIFETIME_S
    heals_within_s: int = HEALS_WITHIN_S
    rotations: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    longest_heal_s: dict[str, float] = field(default_factory=dict)
    not_healed: list[str] = field(default_factory=list)
    rows_written: int = 0
    rows_lost: int = 0
    refused_in_faults: int = 0
    refused_outside: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, kind: str, healed_s: float | None) -> None:
        """Count a fault and how long it took to heal."""
        self.faults[kind] = self.faults.get(kind, 0) + 1
        if healed_s is None:
            self.not_healed.append(kind)
        else:
            self.longest_heal_s[kind] = max(self.longest_heal_s.get(kind, 0.0), round(healed_s, 1))

    def worst(self) -> str:
        """Name the fault that took longest to heal, and its time."""
        kind = max(self.longest_heal_s, key=self.longest_heal_s.__getitem__, default="")
        return f"{self.longest_heal_s[kind]:.1f} s ({kind})" if kind else "none"


def outside(times: list[float], windows: list[Window]) -> list[float]:
    """Return the times that lie in no window."""
    return [at for at in times if not any(window.begun <= at <= window.ended for window in windows)]


def replicated(requests: list[observe.Request]) -> float | None:
    """Return when what the application wrote was first uploaded; compacted older rows prove nothing."""
    fresh = [request for request in requests if "/0000/" in request.key]
    return next(iter(observe.uploads(fresh)), None)


def lost(seen: dict[int, str], here: list[str], there: list[str]) -> set[str]:
    """Return rows (`id|created_at`) that are or at a glance were on the device and are not in the replica.

    The writer deletes nothing, so an id that is missing below the last was lost too.
    """
    written = {f"{number}|{at}" for number, at in seen.items()} | set(here)
    missing = written - set(there)
    known = {int(row.partition("|")[0]) for row in written}
    holes = set(range(1, max(known, default=0) + 1)) - known - {int(row.partition("|")[0]) for row in here}
    return missing | {f"{number}|" for number in holes}


class Soak(Stage):
    """One run."""

    def __init__(self, seed: int, minutes: float, target: Path, hosts: Path) -> None:
        super().__init__("soak", target, hosts)
        self.length_s, self.since = minutes * 60, 0.0
        version = subprocess.run(
            ["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        self.tally = Tally(seed, date=date, version=version.stdout.strip())
        self.modes: dict[str, str] = {}
        self.windows: dict[str, list[Window]] = {name: [] for name in self.devices}
        self.seen: dict[str, dict[int, str]] = {name: {} for name in self.devices}

    def do(self, todo: list[faults.Command], targets: list[Device]) -> None:
        """Run commands of a row: those that name a device for each, others once."""
        for command in todo:
            once = "device" not in command and "{device}" not in "".join(command.values())
            for device in targets[:1] if once else targets:
                try:
                    faults.run(command, device)
                except (observe.CommandError, subprocess.SubprocessError) as error:
                    # What is broken may well end badly; whether it heals is seen afterwards.
                    self.say(f"  {error}")

    def rotations(self) -> int:
        """How often the devices rotated so far, by their journals: a garbled state forgets its counters."""
        return sum(len(observe.events(name, "rotated", self.since)) for name in self.devices)

    def glance(self, name: str) -> None:
        """Remember the newest row of a device: at the end it has to be in the replica."""
        query = "select id || '|' || created_at from Sample order by id desc limit 1"
        program = (
            f"import sqlite3;print(*sqlite3.connect('{observe.DATABASE}').execute(\"{query}\").fetchone())"
        )
        row = observe.run(
            name, ["sudo", "-u", "sample-app", "python3", "-I", "-c", program], check=False
        ).strip()
        if row:
            number, _, at = row.partition("|")
            self.seen[name][int(number)] = at

    def healed(self, name: str, since: float) -> float | None:
        """Wait until a device uploads again and calls itself well; how long that took since the lift."""
        deadline = time.monotonic() + HEALS_WITHIN_S
        uploaded: float | None = None
        while time.monotonic() < deadline:
            if uploaded is None:
                uploaded = replicated(observe.s3_requests(name, since))
            if uploaded is not None:
                command = "sudo -u edge-rotator edge-rotator status >/dev/null && date +%s.%N"
                if at := observe.run(name, command, check=False):
                    return max(uploaded, float(at)) - since
            time.sleep(2)
        return None

    def suffer(self, number: int, drawn: Drawn, row: Fault) -> None:
        """Inject one fault, lift it, wait until it has healed, and tell."""
        names = (
            [drawn.device] if drawn.device != ALL else [n for n, m in self.modes.items() if m in row.modes]
        )
        targets = [Device(name, self.modes[name]) for name in names]
        for name in names:
            self.glance(name)
        begun = observe.now(observe.CLOUD)
        self.do(row.inject, targets)
        if row.heal or row.mend:
            time.sleep(drawn.hold_s)
            self.do(row.heal + row.mend, targets)
        lifted = observe.now(observe.CLOUD)
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            times = dict(zip(names, pool.map(lambda name: self.healed(name, lifted), names), strict=True))
        for device in targets:
            if times[device.name] is None:
                self.do(HELP, [device])  # so that one that stays ill does not spoil what follows
        ended = observe.now(observe.CLOUD)
        for name in names:
            self.windows[name].append(Window(row.name, begun, ended))
            self.tally.count(row.name, times[name])
        healing = ", ".join(
            f"{name} " + (f"{s:.1f} s" if s is not None else "NOT HEALED") for name, s in times.items()
        )
        self.say(
            f"fault {number}: {row.name}, {drawn.device}, {lifted - begun:.1f} s long; healed: {healing}"
        )

    def judge(self, name: str) -> None:
        """Stop a device's writer, restore its replica, compare row by row."""
        observe.finish_replication(name)
        here, there = observe.rows(name, observe.DATABASE), observe.restore(name)
        missing = lost(self.seen[name], here.rows, there.rows)
        if here.integrity != "ok" or here.integrity != there.integrity:
            missing |= set(here.rows)
        at = [request.at for request in observe.refused(observe.s3_requests(name, self.since))]
        unexpected = outside(at, self.windows[name])
        self.tally.rows_written += len(here.rows)
        self.tally.rows_lost += len(missing)
        self.tally.refused_outside += len(unexpected)
        self.tally.refused_in_faults += len(at) - len(unexpected)
        self.say(
            f"{name}: {len(here.rows)} rows, {len(missing)} lost; refused outside faults: {len(unexpected)}"
        )
        for moment in unexpected[:5]:
            self.say(f"  refused at {datetime.fromtimestamp(moment, UTC):%H:%M:%S.%f}")
        for row in sorted(missing)[:5]:
            self.say(f"  lost: {row}")

    def run(self) -> int:
        """Do it all; return the exit status."""
        self.say(f"seed {self.tally.seed}, {self.length_s / 60:g} minutes, credentials live {LIFETIME_S} s")
        self.set_up({"edge-litestream": LIFETIME_S}, VARIABLES)
        self.modes = {name: observe.mode(name) for name in self.devices}
        self.tally.devices = {
            name: f"{mode}, {self.devices[name].suite}" for name, mode in self.modes.items()
        }
        self.since, begun = observe.now(observe.CLOUD), time.monotonic()
        rows = kinds()
        for number, drawn in enumerate(sequence(self.tally.seed, self.modes, rows), 1):
            time.sleep(drawn.rest_s)
            if time.monotonic() - begun > self.length_s:
                break
            self.suffer(number, drawn, rows[drawn.kind])
            self.tally.minutes = round((time.monotonic() - begun) / 60, 1)
            if number % 10 == 0:
                self.say(f"rotations so far: {self.rotations()}")
        self.tally.rotations = self.rotations()
        self.say("stopping the writers, restoring every replica on the cloud machine, comparing")
        for name in self.devices:
            self.judge(name)
        (self.target / "result.json").write_text(json.dumps(vars(self.tally), indent=1))
        print(table(self.tally))
        return 1 if self.tally.rows_lost or self.tally.not_healed else 0


def table(tally: Tally) -> str:
    """Lay the result out for a terminal."""
    lines = [f"{'fault':32} {'times':>5} {'longest time to heal':>20}"]
    for kind in sorted(tally.faults):
        heal = tally.longest_heal_s.get(kind)
        lines.append(f"{kind:32} {tally.faults[kind]:>5} {'never' if heal is None else f'{heal:.1f} s':>20}")
    size = f"{tally.minutes:g} minutes, {len(tally.devices)} devices, {tally.rotations} rotations"
    lines += [
        f"seed {tally.seed}, {size}",
        f"longest time to heal: {tally.worst()}; not healed: {', '.join(tally.not_healed) or 'none'}",
        f"rows written: {tally.rows_written}, lost: {tally.rows_lost}",
        f"requests refused outside of faults: {tally.refused_outside}, in faults: {tally.refused_in_faults}",
    ]
    return "\n".join(lines)


def main() -> int:
    """Read the arguments, run, and take the machines away again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long faults are injected (default 10)")
    parser.add_argument("--devices", type=int, default=2, help="how many, of both modes by turns (default 2)")
    add_options(parser, RECORD, drawn="the faults")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hosts = hosts_file(Path(folder), kinds_of_devices(arguments.devices))
        os.environ["EDGE_LAB_INVENTORY"] = str(hosts)  # for the lab's commands of the table
        soak = Soak(arguments.seed, arguments.minutes, BUILD / "soak", hosts)
        with machines(soak, arguments.keep):
            code = soak.run()
    if arguments.record:
        record(RECORD, "make soak RECORD=1", vars(soak.tally))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
