"""How long replication pauses for rotations: every mode beside Litestream left alone, in one run on one host.

`make bench-gap MINUTES=n` boots a lab of its own. All devices have one image and one
configuration of Litestream with three databases (1 and 100 rows a second; 200 MB at 1 row a second). They
differ in the credentials alone: both modes with lives of seconds; "alone", whose credentials outlive the run,
and a second such one, by which chance is told from effect; "restarted", the same with Litestream restarted
as often as in environment mode. All times are of the S3 gate's log. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge_rotator import schedule
from experiment import observe
from experiment.observe import Request
from experiment.stage import BUILD, ROOT, Stage, add_options, hosts_file, machines, record

RECORD = ROOT / "docs/reliability/gap.yml"
FOLDER = "/var/lib/sample-app"
SOCKET = "/run/litestream/litestream.sock"
WRITER = "/usr/local/lib/sample-app/writer.py"
# Name of the database: what is written, and seconds between two rows.
LOADS = {
    "sample": ("1 row a second", 1.0),
    "busy": ("100 rows a second", 0.01),
    "large": ("200 MB, 1 row a second", 1.0),
}
# One Litestream stops and starts for all its databases, so a large one would hold the others up.
PHASES = (("sample", "busy"), ("large",))
LARGE_AT_MOST_MINUTES = 10.0
LARGE_MB = 200
TICK = 1
LIFETIMES = {"short": 8, "medium": 20, "long": 43200}


def credentials(mode: str, alias: str) -> dict[str, Any]:
    """Return a device's variables."""
    lifetime = LIFETIMES[alias]
    return {
        "edge_rotator_delivery": mode,
        "edge_rotator_role_alias": alias,
        "edge_rotator_expected_lifetime": lifetime,
        "edge_rotator_refresh_margin": lifetime // 2,
    }


# Lives as short as the load of so many machines on one host allows; a restart takes longer.
PROCESS, ENVIRONMENT = credentials("process", "short"), credentials("environment", "medium")
ALONE = credentials("environment", "long")
VARIANTS: dict[str, dict[str, Any]] = {
    "process": PROCESS,
    "process, second": PROCESS,
    "environment": ENVIRONMENT,
    "restarted": ALONE,
    "alone": ALONE,
    "alone, second": ALONE,
}
FILL = """
import os, sqlite3, sys
os.umask(0o007)
path, megabytes = sys.argv[1:]
os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o660))
c = sqlite3.connect(path, isolation_level=None)
c.execute("PRAGMA journal_mode = WAL")
c.execute("CREATE TABLE Filler (content BLOB)")
for _ in range(int(megabytes)):
    c.execute("BEGIN")
    c.executemany("INSERT INTO Filler VALUES (randomblob(1000000))", [()])
    c.execute("COMMIT")
"""


@dataclass
class Cell:
    """One variant under one load; times in seconds."""

    variant: str
    load: str
    changes: int  # rotations, or restarts where there are no rotations
    uploads: int
    largest: float
    median: float
    p99: float
    at_change: float | None  # median of the gaps in which a change lies
    bytes_per_row: float
    refused: int


def gaps(times: list[float]) -> list[float]:
    """Seconds between neighbours."""
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that so large a share of all does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def around(times: list[float], changes: list[float]) -> list[float]:
    """Gaps in which at least one change lies."""
    return [
        later - earlier
        for earlier, later in itertools.pairwise(times)
        if any(earlier < at <= later for at in changes)
    ]


def cell(variant: str, load: str, requests: list[Request], changes: list[float], rows: int) -> Cell:
    """Weigh the requests that concern one database of one device."""
    puts = [request for request in requests if request.method == "PUT" and request.status == 200]
    # Level 0 is what the application wrote; higher ones are compacted from it.
    times = [request.at for request in puts if "/0000/" in request.key]
    found, near = gaps(times), around(times, changes)
    return Cell(
        variant,
        load,
        changes=len(changes),
        uploads=len(times),
        largest=round(max(found, default=0.0), 3),
        median=round(statistics.median(found), 3) if found else 0.0,
        p99=round(quantile(found, 0.99), 3),
        at_change=round(statistics.median(near), 3) if near else None,
        bytes_per_row=round(sum(request.bytes_in for request in puts) / max(rows, 1), 1),
        refused=len(observe.refused(requests)),
    )


def table(cells: list[Cell]) -> str:
    """Lay the cells out, each with its ratios to the baseline of the same load."""
    by = {(each.variant, each.load): each for each in cells}
    lines = [["load", "variant", "changes", "uploads", "largest", "median", "p99", "at change", "B/row"]]
    lines[0] += ["refused", "beside", "largest", "p99", "at change", "bytes"]
    for each in cells:
        base = by["restarted" if each.variant == "environment" else "alone", each.load]
        usual = each.median if each.at_change is None else each.at_change
        line = [each.load, each.variant, str(each.changes), str(each.uploads)]
        line += [f"{seconds:.2f} s" for seconds in (each.largest, each.median, each.p99, usual)]
        line += [f"{each.bytes_per_row:.0f}", str(each.refused)]
        if base is not each:
            ratios = [each.largest / base.largest, each.p99 / base.p99]
            ratios += [usual / (base.at_change or base.median), each.bytes_per_row / base.bytes_per_row]
            line += [base.variant, *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(line + [""] * (len(lines[0]) - len(line)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


class Bench(Stage):
    """One run."""

    def __init__(self, minutes: float, loads: list[str], target: Path, hosts: Path) -> None:
        super().__init__("bench-gap", target, hosts)
        self.phases = [
            chosen for phase in PHASES if (chosen := tuple(load for load in phase if load in loads))
        ]
        self.minutes, self.large_minutes = minutes, min(minutes, LARGE_AT_MOST_MINUTES)
        self.variants = dict(zip(self.devices, VARIANTS, strict=True))

    def prepare(self, load: str, name: str) -> None:
        """Make the large database, and start a writer; the sample application itself is one."""
        if load == "large":
            fill = ["python3", "-I", "-c", FILL, f"{FOLDER}/large.db", str(LARGE_MB)]
            observe.run(name, ["sudo", "-u", "sample-app", "-g", "edge-data", *fill])
        if load != "sample":
            command = ["python3", "-I", WRITER, f"{FOLDER}/{load}.db", str(LOADS[load][1])]
            self.unit(name, f"bench-{load}", *command, user=True)

    def unit(self, name: str, unit: str, *command: str, user: bool = False) -> None:
        """Run a command on a device for as long as the bench lasts."""
        words = ["sudo", "systemd-run", "--quiet", f"--unit={unit}"]
        if user:
            # Restart: the large database may still be locked when the writer first comes.
            words += ["-pUser=sample-app", "-pGroup=edge-data", "-pUMask=0007", "-pRestart=on-failure"]
        observe.run(name, [*words, *command])

    def synced(self, load: str, name: str) -> None:
        """Wait until all that was written so far, the large database before all, is in S3."""
        command = f"sudo litestream sync -wait -timeout 300 -socket {SOCKET} {FOLDER}/{load}.db"
        deadline = time.monotonic() + 600
        while True:
            try:
                observe.run(name, command, timeout_s=330)
                return
            except observe.CommandError:  # restarted meanwhile
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def compacted(self, name: str) -> None:
        """Wait until the large database has reached level 1, which is at the next full five minutes.

        A restart breaks a compaction off, and the next start begins anew: at restarts every ten seconds the
        first one, of 200 MB, would never end.
        """
        deadline = time.monotonic() + 900
        while not any(ends_upload(request, "large.db/0001/") for request in observe.s3_requests(name, 0)):
            if time.monotonic() > deadline:
                raise SystemExit(f"bench-gap: {name}: large.db was not compacted within 15 min")
            time.sleep(20)

    def rows(self, name: str, load: str) -> int:
        """Rows of a database now."""
        program = f"import sqlite3; c = sqlite3.connect('{FOLDER}/{load}.db'); "
        program += "print(c.execute('SELECT max(id) FROM Sample').fetchone()[0])"
        return int(observe.run(name, ["sudo", "-u", "sample-app", "python3", "-I", "-c", program]))

    def run(self) -> list[Cell]:
        """Do it all."""
        cells: list[Cell] = []
        for loads in self.phases:
            variables = {
                "edge_rotator_tick": TICK,
                "edge_rotator_safety_margin": 1,
                "sample_app_interval": LOADS["sample"][1],
                "edge_databases": {},
                "litestream_config": {"dbs": [database(load) for load in loads]},
            }
            # Nothing rotates until all is ready.
            quiet = dict.fromkeys(LIFETIMES, LIFETIMES["long"])
            if cells:
                self.let_live(quiet)
                self.rotate()
                self.converge(variables)
            else:
                self.set_up(quiet, variables)
            self.say(f"writing {' and '.join(LOADS[load][0] for load in loads)}")
            for load in loads:
                self.each(partial(self.prepare, load))
                self.each(partial(self.synced, load))
            if "large" in loads:
                self.say("waiting until the large database is compacted everywhere")
                self.each(self.compacted)
            cells += self.measure(loads, self.minutes if "large" not in loads else self.large_minutes)
            for load, name in itertools.product(loads, self.devices):
                observe.run(name, f"sudo systemctl stop bench-{load}", check=False)
        return cells

    def each(self, work: Callable[[str], Any]) -> None:
        """Do something on all devices at once."""
        with ThreadPoolExecutor(max_workers=len(self.devices)) as pool:
            list(pool.map(work, self.devices))

    def rotate(self) -> None:
        """Fetch credentials now; in process mode Litestream would keep the old ones as long as they live."""
        self.each(lambda name: observe.run(name, "sudo systemctl start edge-rotator-force.service"))
        self.each(lambda name: observe.run(name, "sudo systemctl restart litestream.service"))

    def measure(self, loads: tuple[str, ...], minutes: float) -> list[Cell]:
        """Let rotations and restarts begin, and look at what S3 sees."""
        self.let_live(LIFETIMES)
        self.rotate()
        (restarted,) = (name for name, variant in self.variants.items() if variant == "restarted")
        # What environment mode does at these lives: its delay and, in the middle, half a tick more.
        due = (
            schedule.due_after(LIFETIMES["medium"], "environment", LIFETIMES["medium"] / 2, restarted) + TICK
        )
        loop = f"while sleep {due:.1f}; do systemctl restart litestream.service; done"
        self.unit(restarted, "bench-restart", "sh", "-c", loop)
        time.sleep(LIFETIMES["medium"])
        self.say(f"measuring for {minutes:g} minutes")
        since = observe.now(observe.CLOUD)
        before = {(name, load): self.rows(name, load) for name in self.devices for load in loads}
        time.sleep(minutes * 60)
        until = observe.now(observe.CLOUD)
        after = {place: self.rows(*place) for place in before}
        observe.run(restarted, "sudo systemctl stop bench-restart")
        cells = []
        for load, name in itertools.product(loads, self.devices):
            rows = after[name, load] - before[name, load]
            cells.append(self.weigh(name, load, since, until, rows))
        return cells

    def weigh(self, name: str, load: str, since: float, until: float, rows: int) -> Cell:
        """Look at what S3 saw of one database of one device."""
        requests = [request for request in observe.s3_requests(name, since) if request.at <= until]
        concern = [request for request in requests if request.key.startswith(f"{name}/{load}.db")]
        variant = self.variants[name]
        if variant.startswith("process"):
            changes = [event.at for event in observe.events(name, "rotated", since)]
        else:
            changes = observe.starts(name, "litestream.service", since)
        return cell(variant, load, concern, [at for at in changes if at <= until], rows)


def ends_upload(request: Request, prefix: str) -> bool:
    """Whether this request ended an upload in parts of an object with this in its name."""
    done = request.method == "POST" and "uploadId" in request.query and request.status == 200
    return done and prefix in request.key


def database(load: str) -> dict[str, Any]:
    """Return Litestream's configuration of one database."""
    replica = {
        "type": "s3",
        "bucket": "{{ lab_bucket }}",
        "path": f"{{{{ edge_rotator_thing_name }}}}/{load}.db",
        "region": "{{ lab_region }}",
        "endpoint": "{{ lab_s3_endpoint }}",
        "force-path-style": True,
        "sync-interval": "1s",
    }
    return {"path": f"{FOLDER}/{load}.db", "replica": replica}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help=f"how long to measure (default 10); with a large database {LARGE_AT_MOST_MINUTES:g} at most",
    )
    parser.add_argument(
        "--loads",
        nargs="+",
        choices=LOADS,
        default=list(LOADS),
        metavar="LOAD",
        help="default: all; %(choices)s",
    )
    add_options(parser, RECORD)
    arguments = parser.parse_args()
    if arguments.record and len(arguments.loads) < len(LOADS):
        parser.error("--record keeps a whole run: leave --loads out")
    with tempfile.TemporaryDirectory() as folder:
        devices = {
            f"edge{number:02}": {**variables, "lab_suite": "bookworm"}
            for number, variables in enumerate(VARIANTS.values(), 1)
        }
        bench = Bench(
            arguments.minutes, arguments.loads, BUILD / "bench-gap", hosts_file(Path(folder), devices)
        )
        with machines(bench, arguments.keep):
            cells = bench.run()
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "minutes": arguments.minutes,
        "loads": {load: text for load, (text, _) in LOADS.items()},
        "cells": [vars(each) for each in cells],
    }
    (bench.target / "result.json").write_text(json.dumps(result, indent=1))
    print(table(cells))
    if arguments.record:
        record(RECORD, "make bench-gap RECORD=1", result)


if __name__ == "__main__":
    main()
