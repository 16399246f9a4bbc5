"""Power cuts: kill an emulated board at random moments while rows are written and it is changed.

Unlike a container, the board loses what it has not sent to its disk. After each boot it has to come up by
itself; its database has to hold every row that the application was told is durable, without a hole; what is
restored from the replica has to equal it; and the rotator's state, its latch and the token have to be whole.
The moments are drawn from a seed. Exit 0 only if all of that held at every cut. `--record` adds a run
to those of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from experiment import observe
from experiment.stage import BUILD, ROOT, Stage, add_options, hosts_file, machines, record
from lab.settings import paths
from lab.shell import wait_until

RECORD = ROOT / "docs/reliability/power-cuts.yml"
BOARDS = ROOT / "molecule/board/inventory/hosts.yml"
ROWS_PER_S = 10
# What is under way, and how long until the cut.
MOMENTS_S = {"rotations": (2, 30), "converges": (20, 400)}
WELL_WITHIN_S = 300

# The sample application's way to write, and a line for each row once SQLite has said that it is committed.
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA synchronous = " + sys.argv[3])
while True:
    for row in connection.execute("INSERT INTO Sample DEFAULT VALUES RETURNING id, created_at").fetchall():
        print(*row, sep="|", flush=True)
    time.sleep(float(sys.argv[2]))
"""
ROTATE = "while sudo systemctl start edge-rotator-force.service || true; do sleep 1; done"
# What has to be readable after a cut, each by what reads it.
WHOLE = {
    "state": "sudo python3 -I -m json.tool /var/lib/edge-rotator/state.json",
    "token and certificate": "sudo edge-rotator doctor --login",
    "units": "! systemctl --failed --quiet --no-legend | grep .",
}


@dataclass
class Cut:
    """What one power cut did; rows are `id|created_at`."""

    acknowledged: list[str]
    here: list[str]
    ahead: list[str] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """Rows that the application was told are durable, and that are not there."""
        return sorted(set(self.acknowledged) - set(self.here))

    @property
    def holes(self) -> list[int]:
        """Ids that are missing below the last: what survives has to be a prefix of what was written."""
        ids = {int(row.partition("|")[0]) for row in self.here}
        return sorted(set(range(1, max(ids, default=0) + 1)) - ids)


@dataclass
class Tally:
    """What came of all of them."""

    seed: int
    date: str = ""
    version: str = ""
    board: str = ""
    synchronous: str = "FULL"
    beside: str = "rotations"
    converges_cut: int = 0
    cuts: int = 0
    rows_acknowledged: int = 0
    rows_lost: int = 0
    cuts_with_holes: int = 0
    rows_only_in_replica: int = 0
    replicas_that_differ: int = 0
    corrupt: int = 0
    rotations: int = 0
    broken: list[str] = field(default_factory=list)
    not_well: int = 0
    longest_boot_s: float = 0.0
    longest_well_s: float = 0.0

    def failed(self) -> bool:
        """Tell whether anything happened that must not."""
        counted = self.rows_lost + self.cuts_with_holes + self.replicas_that_differ + self.corrupt
        return bool(counted + self.not_well or self.broken)


class PowerCuts(Stage):
    """One run on one board."""

    def __init__(self, seed: int, synchronous: str, beside: str, target: Path, hosts: Path) -> None:
        super().__init__("power-cuts", target, hosts)
        (self.board,) = self.devices
        machine = self.devices[self.board]
        version = subprocess.run(
            ["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        self.tally = Tally(
            seed,
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
            version=version,
            board=f"{machine.architecture}, {machine.suite}",
            synchronous=synchronous,
            beside=beside,
        )

    @contextmanager
    def _running(self, command: list[str], lines: list[str]) -> Iterator[None]:
        """Run a command on the board while its lines are collected; the cut ends it, or we do."""
        ssh = ["ssh", "-F", str(paths().ssh_config), "-o", "ControlPath=none", self.board, *command]
        with subprocess.Popen(
            ssh, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            output = process.stdout

            def collect() -> None:
                # A line that the cut has torn was not told.
                lines.extend(line.strip() for line in output if line.endswith("\n"))

            reader = threading.Thread(target=collect, daemon=True)
            reader.start()
            try:
                yield
            finally:
                process.kill()
                reader.join(timeout=10)

    @contextmanager
    def _converging(self) -> Iterator[None]:
        """Converge the board, with another version of Litestream and another schedule each time."""
        words = [f"--inventory={self.hosts.parent}", "playbooks/site.yml"]
        words.append(f"--extra-vars={json.dumps(self.change(self.tally.cuts))}")
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                [program, *words], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
            ) as process,
        ):
            try:
                yield
                self.tally.converges_cut += process.poll() is None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def change(self, number: int) -> dict[str, Any]:
        """Variables of a converge; every other one has Litestream by a newer name."""
        change: dict[str, Any] = {"edge_rotator_refresh_margin": 300 + number % 2}
        if number % 2 == 0:
            pins = yaml.safe_load((ROOT / "files/litestream-checksums.yml").read_text())
            version, digests = list(pins["litestream_checksums"].items())[-1]
            architecture = self.devices[self.board].architecture
            digest = digests[architecture]
            kept = f"litestream/{version}-{architecture}-{digest[:16]}/litestream"
            change |= {"litestream_version": f"{version}1", "litestream_source": "file"}
            change |= {"litestream_archive": str(paths().cache / kept), "litestream_sha256": digest}
        return change

    def _write_until(self, moment_s: float) -> list[str]:
        """Let rows be written while credentials rotate or the board is changed, and cut the power."""
        told: list[str] = []
        writer = ["sudo", "runuser", "-u", "sample-app", "--", "python3", "-I", "-c", f"'{WRITER}'"]
        writer += [observe.DATABASE, str(1 / ROWS_PER_S), self.tally.synchronous]
        changing = self._converging() if self.tally.beside == "converges" else self._running([ROTATE], [])
        with self._running(writer, told), changing:
            if not wait_until(lambda: bool(told), 120):
                raise SystemExit(f"{self.board}: the writer did not write its first row within 120 s")
            time.sleep(moment_s)
            self.lab("power-cut", self.board)
        return told

    def _rotations(self, since: float) -> int:
        """How often the board was given credentials since a time; its own journal may be lost in a cut."""
        command = f"sudo cloudctl log provider --thing {self.board} --since {since * 1000:.0f}"
        lines = map(json.loads, observe.run(observe.CLOUD, command).splitlines())
        return sum(line.get("status") == 200 for line in lines)

    def _well(self) -> bool:
        return bool(
            observe.run(
                self.board, "sudo -u edge-rotator edge-rotator status >/dev/null && echo ok", check=False
            )
        )

    def cut(self, moment_s: float) -> Cut:
        """Cut the power once, and see what is left."""
        observe.run(self.board, "sudo systemctl stop sample-app.service")
        told = self._write_until(moment_s)
        replica = observe.restore(self.board)
        begun = time.monotonic()
        self.lab("boot", self.board)
        booted = time.monotonic()
        here = observe.rows(self.board, observe.DATABASE)
        known = set(here.rows)
        ahead = [row for row in replica.rows if row not in known]
        if not wait_until(self._well, WELL_WITHIN_S, 2):
            self.tally.not_well += 1
        well = time.monotonic()
        self.tally.longest_boot_s = max(self.tally.longest_boot_s, round(booted - begun, 1))
        self.tally.longest_well_s = max(self.tally.longest_well_s, round(well - begun, 1))
        self.tally.corrupt += here.integrity != "ok"
        return Cut(told, here.rows, ahead)

    def judge(self, number: int, moment_s: float, cut: Cut) -> None:
        """Count a cut, and look at all that has to be whole."""
        observe.finish_replication(self.board)
        here, there = observe.rows(self.board, observe.DATABASE), observe.restore(self.board)
        self.tally.cuts += 1
        self.tally.rows_acknowledged += len(cut.acknowledged)
        self.tally.rows_lost += len(cut.lost)
        self.tally.cuts_with_holes += bool(cut.holes)
        self.tally.rows_only_in_replica += len(cut.ahead)
        self.tally.replicas_that_differ += here != there
        for what, command in WHOLE.items():
            try:
                observe.run(self.board, command)
            except observe.CommandError as error:
                self.tally.broken.append(f"cut {number}: {what}: {error}")
        self.say(
            f"cut {number} after {moment_s:.1f} s: {len(cut.acknowledged)} rows told, {len(cut.lost)} lost, "
            f"{len(cut.holes)} holes, {len(cut.ahead)} in the replica alone, "
            f"replica {'equal' if here == there else 'DIFFERS'}"
        )

    def run(self, cuts: int) -> int:
        """Cut the power so many times; return the exit status."""
        since = observe.now(observe.CLOUD)
        chance = random.Random(self.tally.seed)  # noqa: S311 - it has to be repeatable
        for number in range(1, cuts + 1):
            moment_s = chance.uniform(*MOMENTS_S[self.tally.beside])
            self.judge(number, moment_s, self.cut(moment_s))
            self.tally.rotations = self._rotations(since)
            (self.target / "result.json").write_text(json.dumps(vars(self.tally), indent=1))
        print(table(self.tally))
        return 1 if self.tally.failed() else 0


def table(tally: Tally) -> str:
    """Lay the result out for a terminal."""
    return "\n".join(
        [
            f"seed {tally.seed}, {tally.board}, synchronous = {tally.synchronous}: {tally.cuts} power cuts",
            f"rotations: {tally.rotations}; converges under way at the cut: {tally.converges_cut}",
            f"rows acknowledged: {tally.rows_acknowledged}, lost: {tally.rows_lost}",
            f"cuts after which the rows were no prefix: {tally.cuts_with_holes}, corrupt: {tally.corrupt}",
            f"rows in the replica alone: {tally.rows_only_in_replica}; "
            f"replicas that differed in the end: {tally.replicas_that_differ}",
            f"not well within {WELL_WITHIN_S} s: {tally.not_well}",
            f"broken: {'; '.join(tally.broken) or 'nothing'}",
            f"longest boot: {tally.longest_boot_s} s, longest time to be well: {tally.longest_well_s} s",
        ]
    )


def board(name: str) -> dict[str, dict[str, object]]:
    """Return the variables of one of the scenario's boards."""
    found = yaml.safe_load(BOARDS.read_text())["all"]["children"]["edge_devices"]["hosts"]
    if name not in found:
        raise SystemExit(f"power-cuts: no board {name!r}; there are: {', '.join(found)}")
    return {name: found[name]}


def main() -> int:
    """Read the arguments, run, and take the machines away again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=10, help="how many (default 10)")
    parser.add_argument(
        "--board", default="edge05", help="which of molecule/board/inventory (default edge05)"
    )
    parser.add_argument(
        "--synchronous", choices=["FULL", "NORMAL"], default="FULL", help="the writer's PRAGMA (default FULL)"
    )
    parser.add_argument(
        "--beside", choices=list(MOMENTS_S), default="rotations", help="what is under way (default rotations)"
    )
    add_options(parser, RECORD, drawn="the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hosts = hosts_file(Path(folder), board(arguments.board))
        os.environ["EDGE_LAB_INVENTORY"] = str(hosts)
        experiment = PowerCuts(
            arguments.seed, arguments.synchronous, arguments.beside, BUILD / "power-cuts", hosts
        )
        with machines(experiment, arguments.keep):
            experiment.set_up({})
            code = experiment.run(arguments.cuts)
    if arguments.record:
        runs = yaml.safe_load(RECORD.read_text())["runs"] if RECORD.exists() else []
        record(RECORD, "make power-cuts RECORD=1", {"runs": [*runs, vars(experiment.tally)]})
    return code


if __name__ == "__main__":
    raise SystemExit(main())
