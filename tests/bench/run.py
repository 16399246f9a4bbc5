"""Print what a tick and a rotation cost, beside other ways to do the same, measured in one run.

`python tests/bench/run.py` (about a minute). Everything but the provider on loopback is started as
on a device: isolated Python, bytecode compiled beforehand, the key in a SoftHSM token. Exits 1 when
a limit is broken.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit/rotator"))

from conftest import ROOT, SOFTHSM, THING, Device
from pki import Authority
from test_schedule import condition

from edge_rotator import schedule

HERE = Path(__file__).parent
ROUNDS = 25
TICK = 60  # s, the role's default
LIFETIME = 3600  # s, the role's default
# The version that asked Python at each tick, in starts of a bare Python, so that it scales with the machine.
BEFORE = {"tick": 1.43, "rotation": 3.73}
# Of the version before. Half of a rotation is the import of argparse, tomllib and json.
MAX_DAY = 0.3
MAX_MEMORY = 30.0  # MiB

LAUNCHER = """#!{python} -IS
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))
from edge_rotator.cli import main

sys.exit(main())
"""


def interpreter() -> str:
    """Debian's Python, which devices run, if our compiled modules fit it; else our own."""
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    debian = Path(f"/usr/bin/python{ours}")
    return str(debian) if debian.exists() else sys.executable


def install(target: Path, python: str) -> Path:
    """Lay the package out as on a device, bytecode included; return the launcher."""
    library = target / "lib"
    shutil.copytree(
        ROOT / "edge_rotator", library / "edge_rotator", ignore=shutil.ignore_patterns("__pycache__")
    )
    for module in Path(sysconfig.get_paths()["platlib"]).glob("pycurl*.so"):
        shutil.copy(module, library)
    subprocess.run([python, "-m", "compileall", "-q", library], check=True, timeout=60)
    launcher = target / "bin/edge-rotator"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.format(python=python))
    launcher.chmod(0o755)
    return launcher


def plan(device: Device, launcher: Path, python: str) -> dict[str, dict[str, object]]:
    """Say what to run."""
    provider = device.tables["provider"]
    endpoint, ca = provider["endpoint"], provider["ca_file"]
    plain = {"PATH": "/usr/bin:/bin"}
    softhsm = {**plain, "SOFTHSM2_CONF": str(device.softhsm), "PKCS11_MODULE_PATH": SOFTHSM}
    key = f"pkcs11:token=edge;object=device;type=private?pin-source={device.pin_file}"
    rotator = [str(launcher), "--config", str(device.config)]
    curl = ["/usr/bin/curl", "--silent", "--fail", "--http1.1", "--tlsv1.2", "--noproxy", "*"]
    curl += ["--engine", "pkcs11", "--key-type", "ENG", "--key", key]
    curl += ["--cert", str(device.certificate), "--cacert", ca]
    curl += ["--header", f"x-amzn-iot-thingname: {THING}"]
    curl += [f"https://{endpoint}/role-aliases/edge-litestream/credentials"]
    crt = [sys.executable, str(HERE / "awscrt_fetch.py"), *endpoint.split(":"), ca]
    crt += [str(device.certificate), SOFTHSM, str(device.pin_file)]
    commands: dict[str, tuple[list[str], dict[str, str], str, int]] = {
        "bare Python": ([python, "-IS", "-c", ""], plain, "", 0),
        "curl, engine": (curl, softhsm, "", 0),
        "rotation": ([*rotator, "rotate"], plain, str(device.credentials), 0),
        "tick, not due": (["/bin/sh", "-c", condition(device.root / "run")], plain, "", 1),
        "awscrt": (crt, softhsm, "", 0),
    }
    keys = ("argv", "env", "remove", "expected")
    return {name: dict(zip(keys, command, strict=True)) for name, command in commands.items()}


def table(samples: dict[str, list[dict[str, float]]]) -> bool:
    """Print medians and ratios; return whether every limit holds."""
    cost = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("wall", "cpu")}
        | {"memory": max(run["memory"] for run in runs)}
        for name, runs in samples.items()
    }
    bare, curl = cost["bare Python"], cost["curl, engine"]
    print(f"{'':14} {'wall ms':>8} {'CPU ms':>8} {'peak MiB':>9}   CPU/bare  wall/curl  CPU/curl")
    for name, row in cost.items():
        print(
            f"{name:14} {row['wall']:8.1f} {row['cpu']:8.1f} {row['memory']:9.1f}   "
            f"{row['cpu'] / bare['cpu']:8.2f}  {row['wall'] / curl['wall']:9.2f}  "
            f"{row['cpu'] / curl['cpu']:8.2f}"
        )
    tick, rotation = cost["tick, not due"], cost["rotation"]
    now = per_day(tick["cpu"], rotation["cpu"])
    before = per_day(BEFORE["tick"] * bare["cpu"], BEFORE["rotation"] * bare["cpu"])
    print(f"CPU seconds per device-day at the defaults: {now:.1f}, in the version before {before:.1f}")
    limits = (
        ("CPU of a day / the version before", now / before, MAX_DAY),
        ("CPU of a rotation / awscrt", rotation["cpu"] / cost["awscrt"]["cpu"], 1.0),
        ("peak of a rotation, MiB", rotation["memory"], MAX_MEMORY),
    )
    for what, value, limit in limits:
        print(f"{'ok' if value <= limit else 'BROKEN':6} {what}: {value:.2f}, at most {limit:g}")
    return all(value <= limit for _, value, limit in limits)


def per_day(tick: float, rotation: float) -> float:
    """CPU seconds of a day, from those (ms) of a tick that is not due and of a rotation."""
    rotations = 86400 / schedule.due_after(LIFETIME, "process", 300, THING)
    return (86400 / TICK * tick + rotations * rotation) / 1000


def main() -> int:
    """Set up, measure, print."""
    python = interpreter()
    with (
        tempfile.TemporaryDirectory(prefix="edge-bench-") as name,
        tempfile.TemporaryDirectory(prefix="edge-bench-", dir="/dev/shm") as memory,
    ):
        root = Path(name)
        server_ca, fleet_ca = Authority(root, "server-ca"), Authority(root, "fleet-ca")
        certificate, key = server_ca.server(root, "localhost")
        command = [sys.executable, str(HERE / "provider.py")]
        command += map(str, (certificate, key, fleet_ca.path))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout and server.stdin
            (root / "device").mkdir()
            device = Device(root / "device", server.stdout.readline().strip(), server_ca.path)
            device.enroll(fleet_ca)
            # Credentials never lie on a disk.
            (root / "device/run").rmdir()
            (root / "device/run").symlink_to(memory)
            commands = plan(device, install(root / "opt", python), python)
            measured = subprocess.run(
                [python, "-IS", str(HERE / "measure.py")],
                input=json.dumps({"rounds": ROUNDS, "commands": commands}),
                stdout=subprocess.PIPE,
                text=True,
                timeout=300,
                check=False,
            )
            server.stdin.close()
    if measured.returncode:
        return measured.returncode
    version = subprocess.run(
        [python, "-V"], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
    print(f"median of {ROUNDS}, interleaved, whole process, {python} ({version}), loopback, SoftHSM")
    return 0 if table(json.loads(measured.stdout)) else 1


if __name__ == "__main__":
    sys.exit(main())
