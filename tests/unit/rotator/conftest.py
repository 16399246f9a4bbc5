"""A device on loopback: SoftHSM token, certificate, provider, and the real command."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cryptography.hazmat.primitives.asymmetric import ec
from faultserver import FaultServer
from pki import Authority, key_pem

from edge_rotator import cli, clock, litestream, lock, metrics, rotation, status, systemd
from edge_rotator import config as configuration

ROOT = Path(__file__).parents[3]
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "canary-pin-4711"
THING = "edge01"
TICKING = systemd.Ticks(True, True, 12.0, "", "")
TICKS = f"from edge_rotator import systemd; systemd.ticks = lambda: systemd.Ticks(*{tuple(TICKING)})"
# Children are measured too when we are.
COVERAGE = (
    f"import os; os.environ['COVERAGE_FILE'] = {str(ROOT / '.coverage')!r}\n"
    f"os.environ['COVERAGE_PROCESS_START'] = "
    f"{os.environ.get('COVERAGE_RCFILE', str(ROOT / 'pyproject.toml'))!r}\n"
    "import coverage; coverage.process_startup(force=True)"
    if "coverage" in sys.modules
    else ""
)


def toml(tables: dict[str, dict[str, Any]]) -> str:
    """Render flat TOML tables."""

    def value(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in item.items()) + "}"
        return json.dumps(item)

    return "".join(
        f"[{name}]\n" + "".join(f"{k} = {value(v)}\n" for k, v in table.items())
        for name, table in tables.items()
    )


class Device:
    """Everything one device has, below one directory."""

    server: FaultServer

    def __init__(self, root: Path, endpoint: str, server_ca: Path) -> None:
        self.root = root
        for name in ("etc", "state", "run", "tokens", "bin"):
            (root / name).mkdir()
        self.pin_file = root / "etc/pin"
        self.pin_file.write_text(PIN)
        self.softhsm = root / "etc/softhsm2.conf"
        self.softhsm.write_text(f"directories.tokendir = {root}/tokens\nobjectstore.backend = file\n")
        self.certificate = root / "etc/device.crt"
        self.credentials = root / "run/credentials.json"
        self.environment_file = root / "run/litestream.env"
        self.config = root / "etc/config.toml"
        self.tables: dict[str, dict[str, Any]] = {
            "provider": {
                "endpoint": endpoint,
                "role_alias": "edge-litestream",
                "thing_name": THING,
                "certificate_file": str(self.certificate),
                "ca_file": str(server_ca),
                "connect_timeout": 2,
                "timeout": 4,
            },
            "token": {
                "module": SOFTHSM,
                "label": "edge",
                "key_label": "device",
                "pin_file": str(self.pin_file),
                "environment": {"SOFTHSM2_CONF": str(self.softhsm)},
            },
            "schedule": {"expected_lifetime": 900, "refresh_margin": 300, "safety_margin": 60},
            "delivery": {
                "directory": str(root / "run"),
                "region": "eu-central-1",
                "group": grp.getgrgid(os.getgid()).gr_name,
                "restart_command": [str(root / "bin/restart")],
            },
            "service": {"user": "root", "state_directory": str(root / "state")},
        }
        self.fake("restart")
        self.configure()

    def fake(self, name: str, code: int = 0) -> Path:
        """An executable that logs its arguments and exits with `code`; returns the log's path."""
        log = self.root / f"{name}.log"
        program = self.root / "bin" / name
        program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit {code}\n')
        program.chmod(0o755)
        return log

    def configure(self, **sections: dict[str, Any]) -> None:
        """Write the configuration, with changes per section; None removes a key."""
        for section, changes in sections.items():
            table = self.tables.setdefault(section, {})
            table.update(changes)
            for key in [k for k, v in table.items() if v is None]:
                del table[key]
        self.config.write_text(toml(self.tables))

    def use_key_file(self, authority: Authority) -> None:
        """Have the key in a file instead of a token, so that the package can run in this process."""
        key = ec.generate_private_key(ec.SECP256R1())
        (self.root / "etc/device.key").write_bytes(key_pem(key))
        self.certificate.write_bytes(authority.sign(THING, key.public_key()))
        self.configure(provider={"backend": "file"}, token={"key_file": str(self.root / "etc/device.key")})

    @property
    def next(self) -> Path:
        """The file that says when to run next."""
        return self.root / "run/next"

    def touched(self) -> None:
        """Do what edge-rotator-due.service does when a file was changed or the clock was set."""
        self.next.unlink(missing_ok=True)

    def tick(self, *arguments: str) -> int:
        """Run the command in this process; return its exit code."""
        return cli.main(["--config", str(self.config), *(arguments or ("rotate",))])

    def command(self, *arguments: str) -> list[str]:
        """Return the command as a device would run it: isolated Python, no site directories."""
        code = (
            "import sys; sys.path[:0] = sys.argv[1:3]; sys.argv[1:3] = []\n"
            f"{COVERAGE}\n"
            f"{TICKS}\n"
            "from edge_rotator.cli import main; sys.exit(main())"
        )
        library = sysconfig.get_paths()["platlib"]
        python = [sys.executable, "-IS", "-c", code, str(ROOT), library]
        return [*python, "--config", str(self.config), *arguments]

    def run(
        self, *arguments: str, env: dict[str, str] | None = None, **given: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; `given` goes to `subprocess.run`."""
        return subprocess.run(
            self.command(*arguments),
            env={"PATH": "/usr/bin:/bin"} | (env or {}),
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given},
            text=True,
            timeout=60,
            check=False,
        )

    def lock(self, patient: bool = False) -> int:
        """Take the lock as another process would."""
        return lock.take(configuration.load(str(self.config)), patient)

    @property
    def state(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.root / "state/state.json").read_text())
        return data

    def add_token(self, label: str) -> None:
        """Initialise a token that has no key yet."""
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label]
            + ["--so-pin", "12345678", "--pin", PIN],
            env={"PATH": "/usr/bin:/bin", "SOFTHSM2_CONF": str(self.softhsm)},
            check=True,
            capture_output=True,
        )

    def enroll(self, authority: Authority) -> None:
        """Initialise the token, make the key in it, have its request signed."""
        self.add_token("edge")
        made = self.run("csr", "--create-key")
        assert made.returncode == 0, made.stderr
        self.certificate.write_bytes(authority.sign_request(made.stdout.encode()))


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A tick sets the umask of its process, which is the tests' here."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tests run there need be no systemd."""
    monkeypatch.setattr(systemd, "ticks", lambda: TICKING)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority, Path]:
    """Server CA, fleet CA and their directory."""
    directory = tmp_path_factory.mktemp("pki")
    return Authority(directory, "server-ca"), Authority(directory, "fleet-ca"), directory


@pytest.fixture
def server(pki: tuple[Authority, Authority, Path]) -> Iterator[FaultServer]:
    server_ca, fleet_ca, directory = pki
    certificate, key = server_ca.server(directory, "localhost")
    running = FaultServer(certificate, key, fleet_ca.path)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory, pki: tuple[Authority, Authority, Path]) -> Device:
    """The device whose token and certificate all others copy: enrolling takes half a second."""
    made = Device(tmp_path_factory.mktemp("enrolled"), "localhost", pki[0].path)
    made.enroll(pki[1])
    return made


@pytest.fixture
def device(
    tmp_path: Path, server: FaultServer, pki: tuple[Authority, Authority, Path], enrolled: Device
) -> Device:
    made = Device(tmp_path, server.endpoint, pki[0].path)
    made.server = server
    shutil.copytree(enrolled.root / "tokens", tmp_path / "tokens", dirs_exist_ok=True)
    shutil.copy(enrolled.certificate, made.certificate)
    return made


class Time:
    """The clocks that the package and the server see; they stand still unless advanced."""

    def __init__(self) -> None:
        self.wall = time.time()
        self.boot = 1000.0
        self.server = 0.0  # what the server's clock is ahead of ours

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds

    def reboot(self, device: Device) -> None:
        """Power off and on again at once: what is on tmpfs is gone."""
        self.boot = 10.0
        for path in (device.root / "run").iterdir():
            path.unlink()

    def rule(self, patch: pytest.MonkeyPatch) -> None:
        """Be the clock of the package."""
        for module in (clock, cli, lock, rotation, litestream, metrics, status):
            patch.setattr(module, "read_clock", self.read)

    def read(self) -> clock.Clock:
        return clock.Clock(self.wall, self.boot)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> Time:
    """Take the clocks over, the server's too."""
    made = Time()
    made.rule(monkeypatch)
    server.now = lambda: made.wall + made.server
    return made


@pytest.fixture
def local(
    tmp_path: Path,
    server: FaultServer,
    pki: tuple[Authority, Authority, Path],
    world: Time,
) -> Device:
    """A device with a key file and a clock of ours, to be run in this process."""
    made = Device(tmp_path, server.endpoint, pki[0].path)
    made.server = server
    made.use_key_file(pki[1])
    return made
