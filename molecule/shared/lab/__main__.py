"""The lab's command line."""

import argparse
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from lab import machine as box
from lab import network, pki, vm
from lab.settings import LabError, Machine, Paths, inventory, paths, select
from lab.shell import say, signals_as_exceptions

CLOUD_GROUP = "cloud"


def main() -> int:
    """Run one command; 0 when it is done, 1 with one message when it is not."""
    arguments = _parser().parse_args()
    try:
        if os.geteuid() != 0:
            raise LabError("the lab needs root: run it with sudo")
        return Lab(paths(), inventory()).run(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class Lab:
    """The commands, on one lab."""

    def __init__(self, where: Paths, machines: dict[str, Machine]) -> None:
        self.paths = where
        self.machines = machines

    def run(self, arguments: argparse.Namespace) -> int:
        """Dispatch a parsed command."""
        command: str = arguments.command
        if command == "status":
            return self.status()
        if command == "ssh":
            return self.ssh(arguments.host, arguments.words)
        if command == "cloud":
            host = select(self.machines, [CLOUD_GROUP])[0].name
            return self.ssh(host, [shlex.join(["sudo", "cloudctl", *(arguments.words or ["--help"])])])
        with signals_as_exceptions(), self._lock():
            if command == "up":
                self.up(select(self.machines, arguments.hosts))
            elif command == "down":
                self.down(arguments.hosts)
            elif command == "purge":
                self.down([])
            else:
                self._one(command, select(self.machines, [arguments.host]), getattr(arguments, "clock", ""))
        if command == "purge":
            shutil.rmtree(self.paths.state, ignore_errors=True)
        return 0

    def up(self, wanted: list[Machine]) -> None:
        """Bring machines up; whatever a failure interrupts is taken down again."""
        names = {machine.name for machine in wanted}
        running = {name for name in names if box.runs(self.paths, name)}
        known = {name for name in names if box.known(self.paths, name)}
        try:
            pki.ensure(self.paths, self.machines)
            network.up(self.paths)
            vm.register(self.paths, wanted)
            for machine in wanted:
                box.unpack(self.paths, machine, self.machines)
                if not box.boot(self.paths, machine):
                    network.set_cable(machine.name, "up")
            with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
                for _ in pool.map(lambda m: box.wait_for_ssh(self.paths, m), wanted):
                    pass
        except BaseException:
            say("interrupted or failed: taking down what this run had started")
            for name in sorted(names - running):
                box.stop(self.paths, name)
                if name not in known:
                    box.delete(self.paths, name)
            if not any(box.runs(self.paths, name) for name in self._present()):
                self._leave()
            raise
        for machine in wanted:
            say(f"{machine.name}: up at {machine.address} ({machine.suite})")

    def down(self, wanted: list[str]) -> None:
        """Stop and delete machines; with none named all of them, and the network."""
        present = self._present()
        names = [m.name for m in select(self.machines, wanted)] if wanted else present
        for name in names:
            if name in present:
                box.stop(self.paths, name)
                box.delete(self.paths, name)
                say(f"{name}: gone")
        if not wanted:
            self._leave()

    def _leave(self) -> None:
        """Set this host back to what it was before the first machine."""
        network.down(self.paths)
        vm.unregister(self.paths)

    def status(self) -> int:
        """Print one line per machine: name, state, address, suite, groups."""
        for name in sorted({*self.machines, *self._present()}):
            state = "running" if box.runs(self.paths, name) else "off"
            if name not in self._present():
                state = "absent"
            facts = ""
            if machine := self.machines.get(name):
                facts = f"{machine.address} {machine.suite} {','.join(sorted(machine.groups))}"
            print(f"{name:12} {state:8} {facts}")
        owner = network.bridge_owner()
        print(f"bridge       {owner if owner is not None else 'absent'}")
        return 0

    def ssh(self, host: str, words: list[str]) -> int:
        """Log in, or run one command; its exit status is ours."""
        select(self.machines, [host.rpartition("@")[2]])
        if not self.paths.ssh_config.exists():
            raise LabError("there is no lab yet: run `up`")
        sys.stdout.flush()
        return subprocess.run(["ssh", "-F", str(self.paths.ssh_config), host, *words], check=False).returncode

    def _one(self, command: str, chosen: list[Machine], clock: str) -> None:
        """Commands on running or stopped machines, one or a whole group."""
        for machine in chosen:
            name = machine.name
            if command == "power-cut":
                box.stop(self.paths, name)
            elif command == "boot":
                box.boot(self.paths, machine, clock)
                box.wait_for_ssh(self.paths, machine)
            elif command == "cut":
                network.set_cable(name, "down")
                box.hang_up(self.paths, name)
            else:
                network.set_cable(name, "up")
            say(f"{name}: {command} done")

    def _present(self) -> list[str]:
        """Machines that left a directory here, whether or not the inventory still names them."""
        if not self.paths.machines.exists():
            return []
        return sorted(entry.name for entry in self.paths.machines.iterdir())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one command at a time change the lab."""
        self.paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.paths.state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another command to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description="Machines of inventory/lab/hosts.yml, booted with systemd-nspawn, or emulated by QEMU.",
        epilog="State: $EDGE_LAB_DIR (/var/lib/edge-litestream-lab); "
        "images: $EDGE_CACHE_DIR (/var/cache/edge-litestream).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, **options: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, **options)

    for name, text in {
        "up": "Make and boot machines, and wait until ssh answers; repeatable.",
        "down": "Stop and delete machines; without HOST all, with bridge and firewall rules.",
    }.items():
        add(name, text).add_argument(
            "hosts", nargs="*", metavar="HOST", help="machine or group; default: all"
        )
    add("purge", "Take everything down and delete the lab's state, keys included.")
    add("status", "Show each machine's state and the bridge.")
    clock = "boot a virtual machine with a wrong clock, in UTC like 2020-01-01T00:00:00"
    for name, text in {
        "power-cut": "Kill all of a machine at once. A virtual machine loses what was written without "
        "fsync, as by a pulled plug; a container's stays in the host's page cache.",
        "boot": "Boot a machine again from its own disk.",
        "cut": "Pull out a machine's network cable.",
        "heal": "Plug a machine's network cable in again.",
    }.items():
        command = add(name, text)
        command.add_argument("host", metavar="HOST", help="machine or group")
        if name == "boot":
            command.add_argument("--clock", default="", metavar="TIME", help=clock)
    ssh = add("ssh", "Log in to a machine, or run a command on it.")
    ssh.add_argument("host", metavar="[USER@]HOST", help="user: admin (default, may use sudo) or operator")
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    # No options of its own: `lab cloud --help`, too, is cloudctl's.
    text = "Run cloudctl on the cloud machine; alone it lists what cloudctl can."
    cloud = add("cloud", text, add_help=False, prefix_chars="\0")
    cloud.add_argument("words", nargs=argparse.REMAINDER, metavar="ARG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
