"""The module that makes a token, with a real SoftHSM, watched for what it lets others see."""

import getpass
import json
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
CORE = 1 << 20
PINS = {
    "pin": "83c1e77a90d25f4b83c1e77a90d25f4b",
    "so-pin": "5d0e2f6b7a914c385d0e2f6b",
}  # as long as the role's, and longer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with both PINs and an empty SoftHSM store."""
    for name, pin in PINS.items():
        (tmp_path / name).write_text(pin)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    return tmp_path


def run(place: Path, label: str = "edge", check: bool = False) -> dict[str, Any]:
    """Run the module as Ansible does, in a process of its own; return its answer."""
    arguments = {
        "module": MODULE,
        "label": label,
        "user": getpass.getuser(),
        "pin_file": f"{place}/pin",
        "so_pin_file": f"{place}/so-pin",
        "environment": {"SOFTHSM2_CONF": f"{place}/softhsm2.conf"},
        "_ansible_check_mode": check,
    }
    code = (
        "import json, sys\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.edge_litestream.appliance.plugins.modules import pkcs11_token\n"
        "try:\n    with patch_module_args(json.load(sys.stdin)):\n        pkcs11_token.main()\n"
        "finally:\n    print(open('/proc/self/limits').read(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (CORE, CORE)),
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer | {"limits": done.stderr}


def tool(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOFTHSM2_CONF": f"{place}/softhsm2.conf"}
    command = ["pkcs11-tool", "--module", MODULE, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_token_is_made_once(place: Path) -> None:
    assert run(place)["changed"]
    login = tool(place, "--token-label", "edge", "--login", "--pin", PINS["pin"], "--list-objects")
    assert login.returncode == 0, login.stderr
    assert not run(place)["changed"]
    assert run(place, "other")["changed"], "another label is another token"


def test_what_an_interrupted_run_began_is_finished(place: Path) -> None:
    slot = next(
        line.partition("(")[2].partition(")")[0]
        for line in tool(place, "--list-slots").stdout.splitlines()
        if line.startswith("Slot ")
    )
    made = tool(place, "--init-token", "--slot", slot, "--label", "edge", "--so-pin", PINS["so-pin"])
    assert made.returncode == 0, made.stderr
    assert run(place)["changed"]
    assert not run(place)["changed"]


def test_a_pin_with_a_line_break_is_refused(place: Path) -> None:
    (place / "pin").write_text("12345678\n")
    done = run(place)
    assert done["failed"]
    assert "holds 9 characters, or a line break" in done["msg"]
    assert list((place / "tokens").iterdir()) == []


def test_nobody_sees_a_pin(place: Path) -> None:
    """Sample every process's argv and environment all the while, and see at least the module there."""
    seen: list[bytes] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        content = (process / name).read_bytes()
                    except OSError:
                        continue
                    if b"modules import pkcs11_token" in content or any(
                        pin.encode() in content for pin in PINS.values()
                    ):
                        seen.append(content)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run(place)
    finally:
        stop.set()
        watcher.join()
    assert done["changed"]
    assert any(b"modules import pkcs11_token" in content for content in seen), (
        "the watch saw the module at work"
    )
    assert not [content for content in seen for pin in PINS.values() if pin.encode() in content]


def test_a_crash_would_leave_no_core_with_a_pin(place: Path) -> None:
    assert CORE > 0, "the limit that the module starts with"
    assert re.search(r"^Max core file size +0 +0 ", run(place)["limits"], re.MULTILINE)


def test_check_mode_makes_none(place: Path) -> None:
    assert run(place, check=True)["changed"]
    assert list((place / "tokens").iterdir()) == []
    run(place)
    assert not run(place, check=True)["changed"]
