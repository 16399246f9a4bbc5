"""pin_file: the PIN reaches its file, and nothing else of either machine ever holds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PIN = "x7-unheard-of-92641"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the file is root's")


def tasks(file: str) -> list[dict[str, Any]]:
    """The tasks of the role that get the PIN."""
    found = yaml.safe_load((ROOT / f"roles/pkcs11/tasks/{file}.yml").read_text())
    return [task for task in found if "The PIN" in task["name"] and "directory" not in task["name"]]


class Place:
    """A device that is this machine, with a home, a /tmp and a control node's /tmp of its own."""

    def __init__(self, top: Path) -> None:
        self.top, self.file = top, top / "etc/pin"
        self.file.parent.mkdir()
        (top / "inventory.json").write_text(
            json.dumps(
                {
                    "all": {
                        "hosts": {
                            "edge01": {
                                "ansible_connection": "local",
                                "ansible_python_interpreter": sys.executable,
                                "pkcs11_pin": PIN,
                                "pkcs11_pin_file": str(self.file),
                                "pkcs11_pin_required": True,
                                "pkcs11_secure_logging": False,
                                "pkcs11_state": "present",
                                "__pkcs11_chosen": {"initialised": True},
                            }
                        }
                    }
                }
            )
        )

    def play(
        self, file: str, *options: str, pipelining: bool = False, given: list[Any] | None = None
    ) -> tuple[int, str]:
        """Run the role's tasks as an operator without pipelining would, and keep what modules leave."""
        host = {"hosts": "edge01", "gather_facts": False, "tasks": given or tasks(file)}
        (self.top / "play.yml").write_text(json.dumps([host]))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", *options]
        done = subprocess.run(
            [*command, f"--inventory={self.top}/inventory.json", str(self.top / "play.yml")],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_PIPELINING": str(pipelining),
                "ANSIBLE_KEEP_REMOTE_FILES": "1",
                "ANSIBLE_LOCAL_TEMP": str(self.top / "local"),
                "ANSIBLE_REMOTE_TEMP": str(self.top / "remote"),
                "TMPDIR": str(self.top),
                "HOME": str(self.top),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def traces(self) -> set[str]:
        """Every file that holds the PIN, but for the one and what the operator wrote."""
        found = set()
        # Not rglob, which ends where a directory is gone before it is read.
        for folder, _folders, names in os.walk(self.top):
            for path in (Path(folder, name) for name in names):
                if path.name not in {"inventory.json", self.file.name, f"{self.file.name}.new"}:
                    try:
                        if path.is_file() and PIN.encode() in path.read_bytes():
                            found.add(str(path.relative_to(self.top)))
                    except OSError:
                        continue
        return found


def in_processes() -> set[str]:
    """Where arguments or environment of a process hold the PIN."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if PIN.encode() in (process / name).read_bytes():
                    found.add(name)
            except OSError:
                continue
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def seen(place: Place) -> Iterator[set[str]]:
    """Look for the PIN all the while: files that are there for a moment count too."""
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.update(place.traces(), in_processes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield seen
    stop.set()
    watcher.join()


def held(place: Place) -> tuple[bytes, int, int]:
    info = place.file.stat()
    return place.file.read_bytes(), info.st_mode & 0o7777, info.st_uid


@pytest.mark.parametrize("pipelining", [False, True])
def test_the_pin_is_in_its_file_alone(place: Place, seen: set[str], pipelining: bool) -> None:
    code, said = place.play("configure", pipelining=pipelining)
    assert code == 0, said
    assert held(place) == (PIN.encode(), 0o600, 0)
    assert PIN not in said
    code, said = place.play("preflight", pipelining=pipelining)
    assert code == 0, said
    assert PIN not in said
    assert seen | place.traces() == set()
    assert [path.name for path in place.file.parent.iterdir()] == ["pin"]


def test_the_watch_sees_what_a_module_is_told(place: Place, seen: set[str]) -> None:
    """The guard of this file: the same by ansible.builtin.copy leaves traces."""
    task = {"ansible.builtin.copy": {"dest": str(place.file), "content": "{{ pkcs11_pin }}"}}
    code, said = place.play("configure", given=[task])
    assert code == 0, said
    assert any(trace.startswith("remote/") for trace in seen | place.traces())


def test_the_second_time_changes_nothing(place: Place) -> None:
    assert "changed=1" in place.play("configure", "--check")[1]
    assert not place.file.exists()
    assert "changed=1" in place.play("configure")[1]
    before = place.file.stat().st_ino
    assert "changed=0" in place.play("configure")[1]
    assert place.file.stat().st_ino == before


@pytest.mark.parametrize(
    ("content", "mode"),
    [(PIN, 0o644), (f"{PIN}\n", 0o600), ("another", 0o600), ("", 0o600)],
    # pytest has the name of a test in its environment.
    ids=["open to others", "with a line break", "another", "empty"],
)
def test_what_is_not_right_is_replaced(place: Place, content: str, mode: int) -> None:
    place.file.write_text(content)
    place.file.chmod(mode)
    place.file.with_name("pin.new").write_text("left by a power cut")
    assert "changed=1" in place.play("configure")[1]
    assert held(place) == (PIN.encode(), 0o600, 0)


def test_a_link_is_replaced_and_not_followed(place: Place) -> None:
    victim = place.top / "victim"
    victim.write_text("precious")
    for name in ("pin", "pin.new"):
        (place.file.parent / name).symlink_to(victim)
    assert place.play("configure")[0] == 0
    assert victim.read_text() == "precious"
    assert not place.file.is_symlink()
    assert held(place) == (PIN.encode(), 0o600, 0)


def test_another_pin_stops_in_preflight(place: Place) -> None:
    assert place.play("preflight")[0] == 0, "no file yet"
    place.file.write_text("another")
    code, said = place.play("preflight")
    assert code != 0
    assert "pkcs11_pin (value hidden) is not what" in said
    assert PIN not in said
    assert place.file.read_text() == "another"
    place.file.write_text(PIN)
    place.file.chmod(0o640)
    assert place.play("preflight")[0] == 0, "the mode is set later"


def test_a_place_that_is_not_there_is_named(place: Place) -> None:
    place.file.parent.rmdir()
    code, said = place.play("configure")
    assert code != 0
    assert f"{place.file} cannot be written" in said
