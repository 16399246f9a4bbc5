"""The script that makes a token, with a real SoftHSM, watched for what it lets others see."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "roles/pkcs11/files/init_token.py"
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
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


def run(place: Path, label: str = "edge") -> subprocess.CompletedProcess[str]:
    command = ["/usr/bin/python3", str(SCRIPT), f"--module={MODULE}", f"--label={label}", "--user=root"]
    command += [f"--pin-file={place}/pin", f"--so-pin-file={place}/so-pin"]
    command += [f"--env=SOFTHSM2_CONF={place}/softhsm2.conf"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def tool(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOFTHSM2_CONF": f"{place}/softhsm2.conf"}
    command = ["pkcs11-tool", "--module", MODULE, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_token_is_made_once(place: Path) -> None:
    assert run(place).stdout == "initialised\n"
    login = tool(place, "--token-label", "edge", "--login", "--pin", PINS["pin"], "--list-objects")
    assert login.returncode == 0, login.stderr
    assert run(place).stdout == "present\n"
    assert run(place, "other").stdout == "initialised\n", "another label is another token"


def test_what_an_interrupted_run_began_is_finished(place: Path) -> None:
    slot = next(
        line.partition("(")[2].partition(")")[0]
        for line in tool(place, "--list-slots").stdout.splitlines()
        if line.startswith("Slot ")
    )
    made = tool(place, "--init-token", "--slot", slot, "--label", "edge", "--so-pin", PINS["so-pin"])
    assert made.returncode == 0, made.stderr
    assert run(place).stdout == "initialised\n"
    assert run(place).stdout == "present\n"


def test_a_pin_with_a_line_break_is_refused(place: Path) -> None:
    (place / "pin").write_text("12345678\n")
    done = run(place)
    assert done.returncode == 1
    assert "holds 9 characters, or a line break" in done.stderr
    assert list((place / "tokens").iterdir()) == []


def test_nobody_sees_a_pin(place: Path) -> None:
    """Sample every process's argv and environment all the while, and see at least the script there."""
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
                    if str(place).encode() in content or any(
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
    assert done.stdout == "initialised\n"
    assert any(b"init_token.py" in content for content in seen), "the watch saw the script at work"
    assert not [content for content in seen for pin in PINS.values() if pin.encode() in content]
