"""How long playbooks/site.yml takes: a first run on bare devices, and a second that changes nothing.

`python tests/bench/converge.py [NUMBER...]` (1 and 8). It boots a lab of its own size and purges it again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiment.stage import ROOT, hosts_file, kinds_of_devices


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


def main(counts: list[int]) -> None:
    """Print a line per run."""
    print(f"{'devices':>7} {'run':>6} {'seconds':>7} {'tasks':>5} {'changed':>7}")
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            hosts = hosts_file(Path(name), kinds_of_devices(count))
            play = ("ansible-playbook", "--inventory", hosts.parent)
            try:
                run(sys.executable, "-m", "lab", "up", hosts=hosts)
                run(*play, "molecule/shared/cloud.yml", hosts=hosts)
                for which in ("first", "second"):
                    begin = time.monotonic()
                    text = run(*play, "playbooks/site.yml", hosts=hosts)
                    seconds = time.monotonic() - begin
                    done = max(int(ok) for ok in re.findall(r"^edge\S+ +: ok=(\d+)", text, re.MULTILINE))
                    changed = sum(
                        int(found) for found in re.findall(r"^edge.* changed=(\d+)", text, re.MULTILINE)
                    )
                    print(f"{count:>7} {which:>6} {seconds:>7.0f} {done:>5} {changed:>7}", flush=True)
            finally:
                run(sys.executable, "-m", "lab", "purge", hosts=hosts)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1, 8])
