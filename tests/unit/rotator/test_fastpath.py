"""A tick stays cheap: what it must not import. The figures themselves are `make bench`'s."""

from __future__ import annotations

import subprocess
import sys
import sysconfig

from conftest import ROOT, Device

HEAVY = {
    "argparse", "ast", "calendar", "collections", "contextlib", "ctypes", "dataclasses", "datetime",
    "email", "enum", "functools", "http.client", "inspect", "json", "logging", "pathlib", "pkcs11",
    "random", "re", "shutil", "socket", "ssl", "subprocess", "tempfile", "threading", "tomllib",
    "typing", "urllib.parse",
}  # fmt: skip
NETWORK = {"pycurl", "edge_rotator.provider", "edge_rotator.delivery", "edge_rotator.credentials"}


def modules(device: Device, command: str) -> set[str]:
    """Run a tick in a process of its own; return what it has imported in the end."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from edge_rotator.cli import main\n"
        "main(sys.argv[3:])\n"
        "sys.stdout.write(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code, str(ROOT), sysconfig.get_paths()["platlib"]]
        + ["--config", str(device.config), command],
        env={"STATE_DIRECTORY": f"{device.root}/state"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_a_tick_that_is_not_due(device: Device) -> None:
    assert device.run("rotate").returncode == 0
    for command in ("due", "rotate"):
        loaded = modules(device, command)
        assert "edge_rotator.schedule" in loaded
        assert not loaded & (HEAVY | NETWORK)


def test_a_rotation(device: Device) -> None:
    assert device.run("rotate").returncode == 0
    device.credentials.unlink()
    loaded = modules(device, "rotate")
    assert device.credentials.exists()
    assert loaded >= NETWORK
    assert not loaded & HEAVY


def test_pycurl_itself_is_whole(device: Device) -> None:
    """Loaded without `collections` it still works, and others get the real module."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from edge_rotator import provider\n"
        "provider._load_pycurl()\n"
        "import pycurl\n"
        "assert 'collections' not in sys.modules\n"
        "import collections\n"
        "collections.OrderedDict, pycurl.Curl().close(), provider._load_pycurl()\n"
    )
    paths = [str(ROOT), sysconfig.get_paths()["platlib"]]
    subprocess.run([sys.executable, "-IS", "-c", code, *paths], check=True, timeout=60)
