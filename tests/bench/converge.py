"""How long playbooks take with a number of booted devices: site.yml on bare ones, site.yml again, status.yml.

`python tests/bench/converge.py [--record] [NUMBER...]` (1, 5, 10 and 20). Each number has a lab of its own,
which it boots and purges again. With `--record` it writes the table of docs/scale.md anew.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import linear_regression

from experiment.stage import ROOT, hosts_file, kinds_of_devices

COUNTS = [1, 5, 10, 20]
PAGE = ROOT / "docs/scale.md"
BEGIN, END = "<!-- made by `make fleet RECORD=1` -->\n", "<!-- end -->\n"
RUNS = {
    "first converge": "playbooks/site.yml",
    "converge that changes nothing": "playbooks/site.yml",
    "status": "playbooks/status.yml",
}


def run(*command: str | Path, hosts: Path) -> str:
    """Run a command in the repository's root; end with what it said where it fails."""
    environment = {**os.environ, "EDGE_LAB_INVENTORY": str(hosts), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    if done.returncode:
        said = done.stdout[-3000:] + done.stderr[-2000:]
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return done.stdout


def measure(count: int) -> dict[str, float]:
    """Boot so many devices and run each playbook: seconds by what ran.

    Raises:
        SystemExit: a command failed, or a converge that had nothing to change changed something.

    """
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        hosts = hosts_file(Path(name), kinds_of_devices(count))
        play = ("ansible-playbook", "--inventory", hosts.parent)
        try:
            run(sys.executable, "-m", "lab", "up", hosts=hosts)
            run(*play, "molecule/shared/cloud.yml", hosts=hosts)
            for what, playbook in RUNS.items():
                begin = time.monotonic()
                text = run(*play, f"--extra-vars=status_page={name}/status.html", playbook, hosts=hosts)
                seconds[what] = time.monotonic() - begin
                changed = sum(map(int, re.findall(r"^edge.* changed=(\d+)", text, re.MULTILINE)))
                print(f"{count:>7} {what:<30} {seconds[what]:>7.0f} {changed:>7}", flush=True)
                if changed and what != "first converge":
                    raise SystemExit(
                        f"{playbook} changed {changed} things on devices that were as they should be"
                    )
        finally:
            run(sys.executable, "-m", "lab", "purge", hosts=hosts)
    return seconds


def table(measured: dict[int, dict[str, float]]) -> list[str]:
    """Seconds and seconds per device, by number of devices, and what one device more costs."""
    lines = [f"| devices | {' | '.join(RUNS)} |", "|---" * (1 + len(RUNS)) + "|"]
    for count, seconds in measured.items():
        cells = [f"{seconds[what]:.0f} s ({seconds[what] / count:.1f})" for what in RUNS]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    if len(measured) > 1:
        slopes = [
            linear_regression(list(measured), [s[what] for s in measured.values()]).slope for what in RUNS
        ]
        lines.append(f"| each more | {' | '.join(f'{slope:.1f} s' for slope in slopes)} |")
    return lines


def main() -> None:
    """Measure, print, and record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=COUNTS, metavar="NUMBER", help="of devices")
    parser.add_argument("--record", action="store_true", help="write docs/scale.md's table anew")
    given = parser.parse_args()
    print(f"{'devices':>7} {'what':<30} {'seconds':>7} {'changed':>7}")
    lines = table({count: measure(count) for count in given.counts})
    print("\n".join(lines))
    if given.record:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
