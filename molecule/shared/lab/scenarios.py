"""Run Molecule scenarios three at a time, each with a lab and a network of its own; leave no machine behind.

Three, because a scenario waits for half of its time: for a timer, a life time to end, ssh. `matrix` is no
scenario, and runs beside them for the same reason.

The screen shows their steps, and in the end what failed; build/molecule-NAME.log has every word.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab import network
from lab.settings import paths
from lab.shell import say, signals_as_exceptions

AT_ONCE = max(1, int(os.environ.get("AT_ONCE", "3")))
AT_MOST_S = int(os.environ.get("AT_MOST_S", "3600"))
MATRIX = "matrix"
# Molecule folds what it shows at 80 columns otherwise.
COLUMNS = "160"

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(
    r"➜ (?P<step>[\w ]+): (?P<state>Executing$|Executed: .*)|(?P<tests>\d+ (passed|failed)\b.*)"
)
_FAILURE = re.compile(r"(FAILED|ERROR tests|E  |fatal:|\[ERROR\]|CRITICAL)")
# A step whose playbook or tests are missing is passed over with a warning.
_NOTHING = re.compile(r"Missing playbook|no tests found", re.IGNORECASE)

# In the new network: a cable to the one outside, and the way out through it.
_CABLE = """
set -eu
outside() { nsenter --net="/proc/$OUTSIDE/ns/net" ip "$@"; }
ip link set lo up
ip link add uplink type veth peer name "$CABLE" netns "$OUTSIDE"
outside address add "$GATEWAY/30" dev "$CABLE"
outside link set "$CABLE" up
ip address add "$ADDRESS/30" dev uplink
ip link set uplink up
ip route add default via "$GATEWAY"
exec "$@"
"""


@dataclass
class Scenario:
    """One scenario's run."""

    name: str
    number: int
    began: float = field(default_factory=time.monotonic)
    failures: list[str] = field(default_factory=list)
    hollow: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None

    @property
    def log(self) -> Path:
        """Where everything stands that Molecule says."""
        return Path("build", "matrix.log" if self.name == MATRIX else f"molecule-{self.name}.log")

    @property
    def command(self) -> list[str]:
        """What runs it: Molecule in a network of its own, which ends with its last process."""
        if self.name == MATRIX:
            return [sys.executable, "tests/matrix/run.py"]
        molecule = ["timeout", str(AT_MOST_S), "molecule", "test", "--scenario-name", self.name]
        return ["unshare", "--net", "sh", "-c", _CABLE, "sh", *molecule]

    @property
    def environment(self) -> dict[str, str]:
        """The scenario's own lab."""
        return {**os.environ, "EDGE_LAB_DIR": f"{paths().state}-{self.name}"}

    def start(self) -> None:
        """Begin it, and read what it says."""
        gateway, address = (str(network.CABLES[4 * self.number + end]) for end in (1, 2))
        cable = {
            "OUTSIDE": str(os.getpid()),
            "CABLE": f"{network.CABLE}{self.number}",
            "GATEWAY": gateway,
            "ADDRESS": address,
        }
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            env={**self.environment, **cable, "COLUMNS": os.environ.get("COLUMNS", COLUMNS)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        """Keep every line, and show those that tell how far it is."""
        assert self.process and self.process.stdout
        with self.log.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self.take(_COLOURS.sub("", line).strip(" │\n"))

    def take(self, line: str) -> None:
        """Show a line that is a step, and remember one that says what failed."""
        if found := _STEP.search(line):
            text = found["tests"] or f"{found['step']}: {found['state']}"
            minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
            print(f"{minutes:3}:{seconds:02} {self.name:8} {text.strip('= ')}", file=sys.stderr, flush=True)
        if _FAILURE.match(line):
            self.failures.append(line[:200])
        if _NOTHING.search(line):
            self.hollow.append(f"a step had nothing to run: {line[:160]}")

    def end(self) -> bool:
        """Take its machines away; tell whether it passed, with nothing passed over."""
        if self.process is None:
            return False
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
        code = self.process.wait(timeout=60)
        gone = subprocess.run([sys.executable, "-m", "lab", "purge"], env=self.environment, check=False)
        if self.reader is not None:
            # Somebody whom Molecule left behind may hold its end of the pipe.
            self.reader.join(timeout=10)
        # After a failure Molecule itself looks for a clean-up that no scenario has.
        self.failures += self.hollow if code == 0 else []
        return code == 0 and gone.returncode == 0 and not self.hollow


def run(scenarios: list[Scenario]) -> list[Scenario]:
    """Run them, the first ones first; return those that failed. After a failure none is begun."""
    waiting, running, failed = list(scenarios), list[Scenario](), list[Scenario]()
    try:
        while running or (waiting and not failed):
            while waiting and not failed and len(running) < AT_ONCE:
                running.append(waiting.pop(0))
                say(f"{running[-1].name}: {running[-1].log}")
                running[-1].start()
            time.sleep(0.5)
            for scenario in [one for one in running if one.process and one.process.poll() is not None]:
                if not scenario.end():
                    failed.append(scenario)
                # Not before: an interrupt meanwhile ends it once more.
                running.remove(scenario)
    finally:
        for scenario in running:
            scenario.end()
    return failed


def main() -> int:
    """Run the scenarios that are named; 0 when all of them passed."""
    scenarios = [Scenario(name, number) for number, name in enumerate(sys.argv[1:])]
    Path("build").mkdir(exist_ok=True)
    try:
        with signals_as_exceptions(), network.cables(paths()):
            failed = run(scenarios)
    except KeyboardInterrupt:
        return 130
    for scenario in failed:
        say(f"{scenario.name} failed, from {scenario.log}:")
        last = scenario.failures or scenario.log.read_text(errors="replace").splitlines()
        print("\n".join(last[-12:]), file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
