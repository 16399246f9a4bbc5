"""The experiment: write, rotate, restore, compare. Exit 0 only if nothing was lost."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from experiment import observe, timeline
from experiment.stage import BUILD, Stage, machines

WATCH_AT_MOST_S = 400


@dataclass
class Result:
    """One row of the table."""

    device: str
    debian: str
    mode: str
    rotations: int
    restarts: int
    refused: int
    largest_gap_s: float
    rows_on_device: int
    rows_restored: int
    identical: bool
    integrity: str

    @property
    def lossless(self) -> bool:
        """Tell whether the replica is the database, and whether there was anything to lose."""
        return self.identical and self.integrity == "ok" and self.rows_on_device > 0


class Demo(Stage):
    """One run, with its progress on standard error and its result in a folder."""

    def __init__(self, rotations: int, lifetime_s: int, target: Path) -> None:
        super().__init__("demo", target)
        self.rotations, self.lifetime_s = rotations, lifetime_s

    def watch(self, since: float) -> None:
        """Let the writer run until every device has rotated often enough."""
        deadline = time.monotonic() + WATCH_AT_MOST_S
        while True:
            done = {name: len(observe.events(name, "rotated", since)) for name in self.devices}
            self.say("rotations so far: " + ", ".join(f"{name} {count}" for name, count in done.items()))
            if min(done.values()) >= self.rotations:
                return
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"demo: fewer than {self.rotations} rotations in {WATCH_AT_MOST_S} s: {done}"
                )
            time.sleep(15)

    def judge(self, name: str, since: float) -> tuple[Result, timeline.Lane]:
        """Stop the writer of a device, restore its replica on the cloud machine, compare row by row."""
        machine = self.devices[name]
        stopped = observe.now(observe.CLOUD)
        observe.finish_replication(name)
        until = observe.now(observe.CLOUD)
        here, there = observe.rows(name, observe.DATABASE), observe.restore(name)
        requests = [request for request in observe.s3_requests(name, since) if request.at <= until]
        rotated = [event.at for event in observe.events(name, "rotated", since)]
        restarted = observe.starts(name, "litestream.service", since)
        puts = [at for at in observe.uploads(requests) if at <= stopped]
        mode = observe.mode(name)
        result = Result(
            device=name,
            debian=machine.suite,
            mode=mode,
            rotations=len(rotated),
            restarts=len(restarted),
            refused=len(observe.refused(requests)),
            largest_gap_s=round(observe.largest_gap(puts), 2),
            rows_on_device=len(here.rows),
            rows_restored=len(there.rows),
            identical=here.rows == there.rows,
            integrity=there.integrity,
        )
        writes = [row.partition("|")[2] for row in here.rows]
        lane = timeline.Lane(f"{name} ({machine.suite}, {mode})", writes, puts, rotated, restarted)
        return result, lane

    def run(self) -> int:
        """Do it all; return the exit status."""
        self.set_up({"edge-litestream": self.lifetime_s})
        since = observe.now(observe.CLOUD)
        self.say(f"credentials live {self.lifetime_s} s; watching {self.rotations} rotations per device")
        self.watch(since)
        self.say("stopping the writers, restoring both replicas on the cloud machine, comparing")
        judged = [self.judge(name, since) for name in self.devices]
        results = [result for result, _ in judged]
        picture = self.target / "timeline.svg"
        timeline.draw([lane for _, lane in judged], since, picture)
        (self.target / "result.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
        print(table(results))
        print(f"\ntimeline of writes, uploads and rotations: {picture}")
        lossless = all(result.lossless for result in results)
        print("nothing was lost" if lossless else "ROWS WERE LOST")
        return 0 if lossless else 1


def table(results: list[Result]) -> str:
    """Lay the results out for a terminal."""
    head = [
        "device",
        "Debian",
        "mode",
        "rotations",
        "restarts",
        "refused",
        "largest gap",
        "rows there",
        "restored",
        "integrity",
    ]
    body = [
        [
            result.device,
            result.debian,
            result.mode,
            str(result.rotations),
            str(result.restarts),
            str(result.refused),
            f"{result.largest_gap_s:.2f} s",
            str(result.rows_on_device),
            f"{result.rows_restored}{'' if result.identical else ' DIFFER'}",
            result.integrity,
        ]
        for result in results
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *body]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def main() -> int:
    """Read the arguments, run, and take the machines away again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=4, help="at least so many per device (default 4)")
    parser.add_argument("--lifetime", type=int, default=60, help="life time of credentials, s (default 60)")
    parser.add_argument("--keep", action="store_true", help="leave the machines running")
    parser.add_argument("--output", type=Path, default=BUILD / "demo", help="folder for log and picture")
    arguments = parser.parse_args()
    demo = Demo(arguments.rotations, arguments.lifetime, arguments.output)
    with machines(demo, arguments.keep):
        return demo.run()


if __name__ == "__main__":
    raise SystemExit(main())
