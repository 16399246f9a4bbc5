"""From bare to replicating, on a kernel and processor of its own: nothing compiled there, all rows in S3."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from experiment import observe
from experiment.exposure import assert_exposure
from experiment.phases import ROOT, assert_lossless, wait_for
from experiment.stage import record
from lab.settings import Machine

# An emulated processor, on a host that does other things too.
pytestmark = pytest.mark.timeout(900)
# e_machine and the class of an ELF file, by Debian's name of the architecture.
ELF = {"arm64": (183, 64), "armhf": (40, 32), "amd64": (62, 64)}
READ_ELF = """
import struct, sys
for path in sys.argv[1:]:
    head = open(path, "rb").read(20)
    print(struct.unpack_from("<H", head, 18)[0], 32 * head[4])
"""
MEASURE = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(json.dumps({"code": code, "wall_s": round(time.monotonic() - begun, 2)}))
"""
# Debian 12's systemd does not tell a unit's peak; the kernel does, as long as there is a process in the unit.
PEAK = """[Service]
ExecStopPost=+/bin/sh -c "cat /sys/fs/cgroup/system.slice/%n/memory.peak >/run/edge-peak"
"""
RECORDED = ROOT / "docs/reliability/board.yml"
RUNS = {"tick": "edge-rotator.service", "rotation": "edge-rotator-force.service"}
PROGRAMS = (
    "find /opt/edge-rotator/ -name 'pycurl*.so' -o -name '*pkcs11*.so'; readlink -f /usr/local/bin/litestream"
)


def test_the_board_is_what_the_inventory_says(host: Any, machine: Machine, release: str) -> None:
    """And no container: its kernel is not the host's."""
    assert host.check_output("dpkg --print-architecture") == machine.architecture
    assert release == machine.suite
    assert host.check_output("uname -r") != platform.release()
    assert host.run("systemd-detect-virt --container").rc != 0


def test_programs_are_the_boards_own_and_none_was_compiled_there(host: Any, machine: Machine) -> None:
    found = host.check_output(PROGRAMS).split()
    assert len(found) >= 2
    kinds = set(host.check_output(f"python3 -I -c %s {' '.join(found)}", READ_ELF).splitlines())
    assert kinds == {" ".join(map(str, ELF[machine.architecture]))}
    assert [p for p in ("gcc", "cmake", "python3-pip") if host.package(p).is_installed] == []


def test_the_chip_is_a_device_of_the_kernel(host: Any, machine: Machine) -> None:
    if not machine.tpm:
        pytest.skip("it has none")
    for path in ("/dev/tpm0", "/dev/tpmrm0"):
        assert host.run(f"test -c {path}").rc == 0
    assert host.check_output("cat /sys/class/tpm/tpm0/tpm_version_major") == "2"


def test_the_timer_rotates(name: str) -> None:
    since = observe.now(name)
    assert wait_for(lambda: observe.events(name, "rotated", since), 300)[0].fields["reason"] == "schedule"


def test_status_and_doctor_find_nothing(host: Any) -> None:
    wait_for(lambda: host.run("sudo -u edge-rotator edge-rotator status").rc == 0, 120)
    assert wait_for(lambda: host.run("edge-rotator doctor --login").rc == 0, 120)


def test_exposure_is_what_the_table_says(host: Any) -> None:
    assert_exposure(host)


@pytest.mark.parametrize("unit", ["litestream.service", "sample-app.service"])
def test_the_kernel_filters_and_confines(host: Any, unit: str) -> None:
    """What runs, by its kernel: a filter of system calls, no new privileges, no capability."""
    pid = host.check_output(f"systemctl show --property=MainPID --value {unit}")
    lines = host.check_output(f"cat /proc/{pid}/status").splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["Uid"].split()[0] != "0"


def test_what_is_in_s3_is_the_database(host: Any, name: str) -> None:
    assert_lossless(host, name)


@pytest.fixture
def peaks(host: Any) -> Iterator[None]:
    """Have each run of the rotator leave its peak of memory."""
    folders = [f"/run/systemd/system/{unit}.d" for unit in RUNS.values()]
    for folder in folders:
        host.check_output(f"mkdir -p {folder}")
        host.check_output(f"printf %s %s >{folder}/peak.conf", "%s", PEAK)
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"rm -r {' '.join(folders)} && systemctl daemon-reload")


@pytest.mark.usefixtures("at_rest", "peaks")
def test_a_tick_and_a_rotation_are_measured(host: Any, name: str, machine: Machine) -> None:
    """A tick that finds nothing to do starts no Python. With RECORD=1 kept for docs/reliability.md."""

    def measure(*words: str) -> dict[str, float]:
        """Return the middle one of five runs."""
        command = "python3 -I -c %s " + " ".join(words)
        runs = [json.loads(host.check_output(command, MEASURE)) for _ in range(5)]
        assert {run.pop("code") for run in runs} == {0}, words
        return dict(sorted(runs, key=lambda run: float(run["wall_s"]))[2])

    found: dict[str, Any] = {"python": measure("python3", "-I", "-c", "pass")}
    for what, unit in RUNS.items():
        found[what] = measure("systemctl", "start", unit)
        found[what]["memory_mb"] = round(int(host.check_output("cat /run/edge-peak")) / 2**20, 1)
    memory = host.check_output("systemctl show --property=MemoryCurrent --value litestream.service")
    found["litestream"] = {"memory_mb": round(int(memory) / 2**20, 1)}
    found["board"] = f"{machine.architecture}, {machine.suite}" + (", TPM" if machine.tpm else "")
    found["how"] = f"{setting(host, 'backend')}, {observe.mode(name)}"
    found["version"] = host.check_output("basename $(readlink -f /opt/edge-rotator/current)")
    if os.environ.get("RECORD"):
        before = yaml.safe_load(RECORDED.read_text())["boards"] if RECORDED.exists() else {}
        record(RECORDED, "make test-arm RECORD=1", {"boards": before | {name: found}})
    assert found["tick"]["wall_s"] < found["rotation"]["wall_s"]
    assert found["tick"]["memory_mb"] < found["rotation"]["memory_mb"]


def setting(host: Any, key: str) -> str:
    """Return a setting of the rotator."""
    found = host.check_output(f"sed -n 's/^{key} = //p' /etc/edge-rotator/config.toml")
    return str(found).strip('"')
