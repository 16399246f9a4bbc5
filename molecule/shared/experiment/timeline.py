"""Draw writes, uploads and rotations of each device over time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt


@dataclass
class Lane:
    """What happened on one device; times in seconds since 1970, writes as SQLite's CURRENT_TIMESTAMP."""

    title: str
    writes: list[str]
    uploads: list[float]
    rotations: list[float]
    restarts: list[float]


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()


def draw(lanes: list[Lane], since: float, target: Path) -> None:
    """Write the picture, one panel per device, seconds since the start of the watch from left to right."""
    figure, panels = plt.subplots(
        len(lanes), 1, figsize=(11, 2.4 * len(lanes)), sharex=True, layout="constrained"
    )
    for panel, lane in zip([panels] if len(lanes) == 1 else list(panels), lanes, strict=True):
        written = Counter(_seconds(text) - since for text in lane.writes)
        times = sorted(at for at in written if at >= 0)
        panel.bar(
            times, [written[at] for at in times], width=1.0, color="#c8d6e5", label="rows written per second"
        )
        panel.plot(
            [at - since for at in lane.uploads],
            [-0.6] * len(lane.uploads),
            "|",
            color="#10ac84",
            label="uploads",
        )
        panel.vlines([at - since for at in lane.rotations], -1.2, 3.4, color="#ee5253", label="rotations")
        panel.plot(
            [at - since for at in lane.restarts],
            [3.2] * len(lane.restarts),
            "v",
            color="#222f3e",
            label="restarts",
        )
        panel.set_title(lane.title, loc="left", fontsize=10)
        panel.set_yticks([])
        panel.set_ylim(-1.2, 4.6)
        panel.legend(loc="upper right", ncols=4, fontsize=8, frameon=False)
    figure.supxlabel("seconds since the start of the watch", fontsize=9)
    figure.savefig(target)
    plt.close(figure)
