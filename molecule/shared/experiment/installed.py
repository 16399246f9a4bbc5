"""The collection as operators have it: built, installed, and run where there is nothing but an inventory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NAME = "edge_litestream.appliance"
TIMEOUT_S = 360


def tool(name: str) -> str:
    """Path of a program of this interpreter's ansible-core."""
    return str(Path(sys.executable).with_name(name))


class Operator:
    """Somebody with ansible-core, a home and a working directory of their own, and no clone."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "fleet"
        self.directory.mkdir(parents=True)
        # The one setting that the collection insists on.
        (self.directory / "ansible.cfg").write_text("[defaults]\ninject_facts_as_vars = False\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        self.environment = {**kept, "HOME": str(home), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        self.environment.pop("PYTHONPATH", None)

    @property
    def collection(self) -> Path:
        """Where the collection is, once installed."""
        return self.home / ".ansible/collections/ansible_collections" / NAME.replace(".", "/")

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of ansible-core in the operator's directory; the caller looks at its exit code."""
        return subprocess.run(
            [tool(program), *map(str, arguments)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    def install(self, source: str | Path) -> None:
        """Install the collection from an archive or a git URL; Galaxy is not asked."""
        done = self.run("ansible-galaxy", "collection", "install", "--offline", source)
        assert done.returncode == 0, done.stdout + done.stderr


def build(target: Path) -> Path:
    """Build the collection's archive from this work tree into a directory."""
    command = [tool("ansible-galaxy"), "collection", "build", "--force", "--output-path", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=TIMEOUT_S)
    return next(target.glob("edge_litestream-appliance-*.tar.gz"))
