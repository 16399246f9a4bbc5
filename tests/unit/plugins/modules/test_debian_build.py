"""The build in a Debian of its own, with an mmdebstrap that does what it is told in a plain directory."""

import hashlib
import os
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
MACHINE = os.uname().machine
# Hooks are run as mmdebstrap does; only the Debian is missing, so that nothing is changed into.
MMDEBSTRAP = f"""#!{sys.executable}
import pathlib, shlex, subprocess, sys, tempfile
pathlib.Path("CALLED").write_text(chr(10).join(sys.argv[1:]))
with tempfile.TemporaryDirectory() as root:
    for word in sys.argv[1:]:
        hook = word.removeprefix("--customize-hook=")
        if hook == word:
            continue
        name, *rest = shlex.split(hook)
        if name == "tar-in":
            subprocess.run(["tar", "-C", root + rest[1], "-xf", rest[0]], check=True)
        elif name == "upload":
            subprocess.run(["cp", rest[0], root + rest[1]], check=True)
        elif name == "tar-out":
            path = pathlib.Path(root + rest[0])
            subprocess.run(["tar", "-C", path.parent, "-cf", rest[1], path.name], check=True)
        else:
            hook = hook.replace('chroot "$1"', "").replace("--chdir=", "--chdir=" + root)
            code = subprocess.run(["sh", "-c", hook, "exec", root]).returncode
            if code:
                sys.exit(code)
"""


@pytest.fixture
def build(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build with these options changed."""
    tool = tmp_path / "bin/mmdebstrap"
    tool.parent.mkdir()
    tool.write_text(MMDEBSTRAP.replace("CALLED", str(tmp_path / "called")))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    source = tmp_path / "sources"
    source.mkdir()
    (source / "question").write_text("42")
    with tarfile.open(tmp_path / "sources.tar", "w") as packed:
        packed.add(source, "sources")

    def answer(**changed: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "release": "bookworm",
            "machine": MACHINE,
            "packages": ["gcc", "make"],
            "script": "cp sources/question out/answer",
            "sources": str(tmp_path / "sources.tar"),
            "output": str(tmp_path / "built.tar"),
        }
        return run(**{**options, **changed})

    return answer


def left() -> set[str]:
    """Working directories of builds."""
    return {path.name for path in Path("/var/tmp").glob("debian_build.*")}  # noqa: S108 - the module's


def test_what_the_script_leaves_comes_back(build: Any, tmp_path: Path) -> None:
    before = left()
    answer = build(mirrors=["http://mirror.example/debian"])
    assert answer["changed"]
    assert answer["sha256"] == hashlib.sha256((tmp_path / "built.tar").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "built.tar") as packed:
        member = packed.extractfile("out/answer")
        assert member is not None
        assert member.read() == b"42"
    called = (tmp_path / "called").read_text().splitlines()
    assert "--include=gcc,make" in called
    assert called[-3:] == ["bookworm", "-", "http://mirror.example/debian"]
    assert left() == before


def test_the_script_has_no_network_and_nothing_of_our_environment(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    answer = build(script="env > out/environment; cat /proc/net/route > out/route")
    assert "msg" not in answer
    with tarfile.open(tmp_path / "built.tar") as packed:
        found = {name: packed.extractfile(f"out/{name}") for name in ("environment", "route")}
        text = {name: file.read().decode() if file else "" for name, file in found.items()}
    assert "PIP_INDEX_URL" not in text["environment"]
    assert len(text["route"].splitlines()) <= 1, "a heading, and no way out"


def test_a_failing_script_is_told(build: Any) -> None:
    answer = build(script="echo no such header; exit 3")
    assert answer["failed"]
    assert "no such header" in answer["msg"]
    assert f"failed on {os.uname().nodename}" in answer["msg"]


def test_a_build_ends(build: Any) -> None:
    before, began = left(), time.monotonic()
    answer = build(script="sleep 60", timeout=1)
    assert time.monotonic() - began < 30
    assert f"failed on {os.uname().nodename}, ended after 1 s" in answer["msg"]
    assert left() == before


def test_missing_programs_are_named(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = "aarch64" if MACHINE != "aarch64" else "armv7l"
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "apt-get install qemu-user-static binfmt-support arch-test" in build(machine=foreign)["msg"]
    monkeypatch.setenv("PATH", str(empty))
    assert "apt-get install mmdebstrap debian-archive-keyring" in build()["msg"]


def test_check_mode_builds_nothing(build: Any, tmp_path: Path) -> None:
    assert build(check=True)["changed"]
    assert not (tmp_path / "called").exists()
