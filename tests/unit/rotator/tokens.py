"""Real tokens for the tests, and the interface they are watched at."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import PIN, ROOT, SOFTHSM, TICKS, Device
from pki import Authority

MODULES = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "pkcs11"
SPY = MODULES / "pkcs11-spy.so"
TPM2 = MODULES / "libtpm2_pkcs11.so"
DEBIAN_PYTHON = Path("/usr/bin/python3")


def need(package: str, *paths: Path | str) -> None:
    """Fail, naming the Debian package, unless all of it is there: a skipped test proves nothing."""
    missing = [str(p) for p in paths if not (shutil.which(p) if isinstance(p, str) else p.exists())]
    if missing:
        pytest.fail(f"missing {', '.join(missing)}: apt-get install --no-install-recommends {package}")


def spy(device: Device, module: str | Path = SOFTHSM) -> Callable[[str], int]:
    """Put a tracing module before the real one; return a counter of the calls made to it."""
    need("opensc-pkcs11", SPY)
    log = device.root / "spy.log"
    environment = dict(device.tables["token"]["environment"])
    device.configure(
        token={
            "module": str(SPY),
            "environment": environment | {"PKCS11SPY": str(module), "PKCS11SPY_OUTPUT": str(log)},
        }
    )

    def count(function: str) -> int:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return sum(line.endswith(f": {function}") for line in lines)

    return count


def use_debian_pycurl(device: Device) -> None:
    """Run with the distribution's Python and pycurl, which is linked with GnuTLS."""
    need("python3-pycurl", DEBIAN_PYTHON, *Path("/usr/lib/python3/dist-packages").glob("pycurl*.so"))
    packages = device.root / "packages"
    packages.mkdir()
    packages.chmod(0o755)
    for name in ("pkcs11", "asn1crypto"):
        (packages / name).symlink_to(Path(sysconfig.get_paths()["platlib"]) / name)
    device.configure(provider={"backend": "gnutls"})
    paths = [str(ROOT), str(packages), "/usr/lib/python3/dist-packages"]

    def run(
        *arguments: str, env: dict[str, str] | None = None, first: str = "", **given: Any
    ) -> subprocess.CompletedProcess[str]:
        code = f"{first}\nimport sys; sys.path[:0] = {paths!r}\n"
        code += f"{TICKS}\n"
        code += "from edge_rotator.cli import main; sys.exit(main())"
        return subprocess.run(
            [str(DEBIAN_PYTHON), "-IS", "-c", code, "--config", str(device.config), *arguments],
            env={"PATH": "/usr/bin:/bin", "STATE_DIRECTORY": f"{device.root}/state"} | (env or {}),
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given},
            text=True,
            timeout=60,
            check=False,
        )

    device.run = run  # type: ignore[method-assign]


def _free_ports() -> int:
    """Two free ports in a row; return the first."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    pytest.fail("no two free ports in a row")


_BUS = """\
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
"""


class Tpm:
    """A software TPM with its resource manager on a bus of its own."""

    def __init__(self, root: Path) -> None:
        need("swtpm", "swtpm")
        need("tpm2-abrmd", "tpm2-abrmd", "dbus-daemon")
        need("libtss2-tcti-tabrmd0", Path(f"{MODULES.parent}/libtss2-tcti-tabrmd.so.0"))
        need("libtpm2-pkcs11-1 libtpm2-pkcs11-tools", TPM2, "tpm2_ptool")
        need("tpm2-tools", "tpm2_dictionarylockout")
        self.store = root / "store"
        self.store.mkdir()
        (root / "state").mkdir()
        (root / "bus.conf").write_text(_BUS.format(path=root / "bus"))
        port = _free_ports()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "TPM2_PKCS11_STORE": str(self.store),
            "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={root}/bus",
        }
        tpm = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={root}/state"]
        tpm += ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
        self.start([*tpm, "--flags", "not-need-init,startup-clear"])
        self.start(["dbus-daemon", f"--config-file={root}/bus.conf", "--nofork"])
        self.wait((root / "bus").exists)
        broker = ["tpm2-abrmd", "--session", f"--tcti=swtpm:host=127.0.0.1,port={port}"]
        self.start(broker + (["--allow-root"] if os.getuid() == 0 else []))
        self.wait(lambda: self.tool("tpm2_getcap", "properties-fixed", check=False) == 0)
        self.tool("tpm2_ptool", "init", "--path", str(self.store))
        self.tool(
            *("tpm2_ptool", "addtoken", "--pid", "1", "--label", "edge", "--path", str(self.store)),
            *("--sopin", "12345678", "--userpin", PIN),
        )

    def start(self, command: list[str]) -> None:
        null = subprocess.DEVNULL
        environment = os.environ | self.environment
        self.processes.append(subprocess.Popen(command, env=environment, stdout=null, stderr=null))

    def wait(self, ready: Callable[[], bool]) -> None:
        for _ in range(100):
            if ready():
                return
            time.sleep(0.05)
        pytest.fail("the software TPM did not start")

    def tool(self, *command: str, check: bool = True) -> int:
        environment = os.environ | self.environment | {"TPM2TOOLS_TCTI": "tabrmd:bus_type=session"}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.returncode

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(10)

    def own(self, device: Device, authority: Authority) -> None:
        """Give the device this TPM instead of its SoftHSM token, and enroll it."""
        device.configure(token={"module": str(TPM2), "environment": self.environment})
        made = device.run("csr", "--create-key")
        assert (made.returncode, made.stderr.count("\n")) == (0, 1), made.stderr
        device.certificate.write_bytes(authority.sign_request(made.stdout.encode()))


@contextmanager
def software_tpm(root: Path) -> Iterator[Tpm]:
    made = Tpm(root)
    try:
        yield made
    finally:
        made.stop()
