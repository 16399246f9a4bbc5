"""Simulate a fleet on the rotator's own schedule after a power cut that hit all of it.

`python tests/bench/fleet.py` (about a minute). All things boot within a minute and have no credentials, for
those lay on tmpfs. The provider answers so many requests a second and refuses the others with 429. Times,
spread and back-off are those of `edge_rotator.schedule`, at the ticks of the role's timer. With `--record`
the table and the picture of docs/scale.md are made anew.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("svg")
sys.path.insert(0, str(Path(__file__).parents[2]))

from matplotlib import pyplot as plt

from edge_rotator import schedule

Numbers = NDArray[np.int64]

ROOT = Path(__file__).parents[2]
TICK = 60  # s, the role's default, as the margins are
FIRST_TICK = 5  # s after the boot
REFRESH_MARGIN, SAFETY_MARGIN = 300, 90  # s
BYTES = 256  # the rotator draws one random byte
COUNTS = 10  # after so many failures the wait grows no more
STEP = 10  # s; peaks are of so many seconds, so that chance is not taken for a peak
PAGE, PICTURE = ROOT / "docs/scale.md", ROOT / "docs/scale.svg"
BEGIN, END = "<!-- made by `make bench-fleet RECORD=1` -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Fleet:
    """What is simulated."""

    things: int
    lifetime: int  # s
    limit: int  # requests a second
    spread: float = 1.0  # how much of the schedule's own: 0 is none
    boots_within: int = 60  # s
    retry_after: float | None = None  # s, what the provider asks for beside a 429

    @property
    def seconds(self) -> int:
        """How long to look: about eight rotations."""
        return 4 * self.lifetime


@dataclass
class Run:
    """What came of it."""

    asked: Numbers  # requests, by second
    refused: Numbers  # those of them that got 429
    supplied: Numbers  # things that hold credentials, by second
    first: Numbers  # the second of its first success, by thing; -1 for none
    expired: float  # share of the things whose credentials ran out before they were renewed

    def share_after(self, share: float) -> float:
        """Seconds until so large a share of the things has had credentials."""
        had = np.sort(self.first[self.first >= 0])
        needed = int(np.ceil(share * len(self.first)))
        return float(had[needed - 1]) if needed <= len(had) else float("inf")

    def steady(self) -> tuple[float, float]:
        """Requests a second in the last quarter, and their peak over that mean."""
        last = self.asked[3 * len(self.asked) // 4 :]
        return float(last.mean()), float(last.reshape(-1, STEP).mean(axis=1).max() / last.mean())


def waits(fleet: Fleet) -> tuple[Numbers, Numbers]:
    """Seconds to the tick that asks again: after a success, by thing; after a failure, by count and byte."""
    ours = schedule.LIFETIME_JITTER, schedule.BACKOFF_JITTER
    schedule.LIFETIME_JITTER, schedule.BACKOFF_JITTER = (fleet.spread * value for value in ours)
    try:
        names = (f"edge-{number:07}" for number in range(fleet.things))
        due = [schedule.due_after(fleet.lifetime, "process", REFRESH_MARGIN, name) for name in names]
        draws = [(count, byte / BYTES) for count in range(1, COUNTS + 1) for byte in range(BYTES)]
        again = [
            schedule.backoff("throttled", count, fleet.lifetime, fleet.retry_after, drawn)
            for count, drawn in draws
        ]
    finally:
        schedule.LIFETIME_JITTER, schedule.BACKOFF_JITTER = ours
    return ticks(due), ticks(again).reshape(COUNTS, BYTES)


def ticks(seconds: list[float]) -> Numbers:
    """Round up to ticks; an attempt takes a moment, from whose end is counted."""
    return np.ceil((np.array(seconds) + 0.5) / TICK).astype(np.int64) * TICK


def simulate(fleet: Fleet) -> Run:
    """Let the fleet boot and rotate."""
    random = np.random.default_rng(1)
    due, again = waits(fleet)
    usable = int(schedule.usable(fleet.lifetime, SAFETY_MARGIN))
    first, expired = np.full(fleet.things, -1), np.zeros(fleet.things, bool)
    failures, until = np.zeros(fleet.things, np.int64), np.zeros(fleet.things, np.int64)
    asked, refused = np.zeros(fleet.seconds, np.int64), np.zeros(fleet.seconds, np.int64)
    change = np.zeros(fleet.seconds + usable, np.int64)  # of the number of things with credentials
    calendar: list[list[Numbers]] = [[] for _ in range(fleet.seconds)]

    def put(things: Numbers, at: Numbers) -> None:
        for second in np.unique(at[at < fleet.seconds]):
            calendar[second].append(things[at == second])

    put(np.arange(fleet.things), random.integers(0, fleet.boots_within, fleet.things) + FIRST_TICK)
    for now in range(fleet.seconds):
        if not calendar[now]:
            continue
        things = random.permutation(np.concatenate(calendar[now]))
        calendar[now] = []
        served, late = things[: fleet.limit], things[fleet.limit :]
        asked[now], refused[now] = len(things), len(late)
        held = until[served]
        expired[served] |= (held > 0) & (held <= now)
        # Whoever still held credentials is not supplied twice: this takes back that they run out.
        np.add.at(change, np.maximum(held, now), 1)
        change[now + usable] -= len(served)
        first[served] = np.where(first[served] < 0, now, first[served])
        until[served], failures[served] = now + usable, 0
        failures[late] += 1
        put(served, now + due[served])
        byte = random.integers(0, BYTES, len(late))
        put(late, now + again[np.minimum(failures[late], COUNTS) - 1, byte])
    expired |= (until > 0) & (until < fleet.seconds)
    return Run(asked, refused, np.cumsum(change)[: fleet.seconds], first, float(expired.mean()))


HOUR = 3600
ROWS = [
    Fleet(things, hours * HOUR, limit, spread)
    for things, hours, limit in (
        (100_000, 1, 100),
        (100_000, 1, 200),
        (1_000_000, 1, 500),
        (1_000_000, 1, 1000),
        (1_000_000, 1, 2000),
        (1_000_000, 12, 100),
        (1_000_000, 12, 1000),
    )
    for spread in (0.0, 1.0)
]
ROWS += [Fleet(1_000_000, HOUR, 1000, boots_within=600), Fleet(1_000_000, HOUR, 1000, retry_after=60)]
HEAD = "things|life|limit/s|spread|peak/s|half after|all after|expired|mean/s|peak over mean"


def minutes(seconds: float) -> str:
    """Show a time."""
    if seconds == float("inf"):
        return "never"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def row(fleet: Fleet, run: Run) -> str:
    """Show one fleet as a row of the table."""
    spread = "ours" if fleet.spread else "none"
    spread += f", boots within {fleet.boots_within // 60} min" if fleet.boots_within > 60 else ""
    spread += f", Retry-After {fleet.retry_after:.0f} s" if fleet.retry_after else ""
    mean, over = run.steady()
    cells = [f"{fleet.things:,}", f"{fleet.lifetime // HOUR} h", f"{fleet.limit:,}", spread]
    cells += [f"{run.asked.max():,}", minutes(run.share_after(0.5)), minutes(run.share_after(1.0))]
    cells += [f"{100 * run.expired:.1f} %", f"{mean:.0f}", f"{over:.1f}"]
    return "| " + " | ".join(cells) + " |"


def draw(runs: dict[str, Run], limit: int, target: Path) -> None:
    """Draw requests and supply over time, a line per run."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fleet", "font.size": 9})
    figure, panels = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    step = 60
    for (name, run), colour in zip(runs.items(), ("#ee5253", "#10ac84"), strict=True):
        hours = np.arange(0, len(run.asked), step) / HOUR
        asked = run.asked.reshape(-1, step).mean(axis=1)
        panels[0].plot(hours, np.maximum(asked, 10), color=colour, linewidth=1, label=name)
        panels[1].plot(hours, 100 * run.supplied[::step] / len(run.first), color=colour, label=name)
    panels[0].axhline(limit, color="#222f3e", linestyle="--", linewidth=0.8, label=f"limit, {limit:,}/s")
    panels[0].set_yscale("log")
    panels[0].set_ylim(8, 1e5)
    panels[0].set_ylabel("requests a second")
    panels[1].set_ylabel("things with credentials, %")
    panels[1].set_xlabel("hours after the power cut")
    panels[1].set_xlim(0, 4)
    panels[0].legend(loc="upper right", ncols=3, frameon=False)
    clean: dict[str, Any] = {"Date": None, "Creator": None}
    figure.savefig(target, metadata=clean)
    target.write_text("\n".join(line.rstrip() for line in target.read_text().splitlines()) + "\n")


def main() -> int:
    """Print the table; record it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write docs/scale.md's table and picture anew")
    record = parser.parse_args().record
    columns = HEAD.split("|")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    drawn: dict[str, Run] = {}
    print(*lines, sep="\n")
    for fleet in ROWS:
        run = simulate(fleet)
        lines.append(row(fleet, run))
        print(lines[-1], flush=True)
        if fleet in (Fleet(1_000_000, HOUR, 1000, 0.0), Fleet(1_000_000, HOUR, 1000)):
            drawn["with our spread" if fleet.spread else "without"] = run
    if record:
        draw(drawn, 1000, PICTURE)
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
