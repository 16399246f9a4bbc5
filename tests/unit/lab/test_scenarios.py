"""Scenarios run beside each other, each in a network of its own, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.settings import REPOSITORY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's")

# In Molecule's place: each makes the same bridge, and waits until another one has it too.
MOLECULE = """#!/bin/sh
set -eu
name=$3
echo "INFO     $name > create: Executing" | sed 's/>/➜/'
mkdir -p "$EDGE_LAB_DIR"
python -c 'from lab import network, settings; network.up(settings.paths())'
ip route get 192.0.2.1 | grep -q 'via 10.83.1.'
nsenter --net="/proc/$OUTSIDE/ns/net" ip -brief address show "$CABLE" | grep -q "$GATEWAY/30"
touch "met-$name"
case $name in
one) until [ -e met-two ]; do sleep 0.1; done ;;
two) until [ -e met-three ]; do sleep 0.1; done ;;
three) until [ -e met-one ]; do sleep 0.1; done ;;
bad) echo '  │ E  assert 1 == 2'; exit 1 ;;
wordless) echo '  │ the last word'; exit 1 ;;
hollow) echo 'WARNING  Skipping, Missing playbook' ;;
long) exec sleep 60 ;;
esac
echo '==== 7 passed in 1.00s ===='
"""
LEFT = "ip -brief link | grep edge; iptables-save | grep -e MASQ -e edge; ls -d lab-*; exit $code"


def command(directory: Path, *names: str) -> tuple[list[str], dict[str, str]]:
    """Run scenarios in a throwaway network in the host's place, and then list what is left in it."""
    (directory / "bin").mkdir()
    (directory / "bin/molecule").write_text(MOLECULE)
    (directory / "bin/molecule").chmod(0o755)
    programs = [directory / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    environment = {
        **os.environ,
        "PATH": ":".join(map(str, programs)),
        "PYTHONPATH": f"{directory / 'hook'}:{REPOSITORY / 'molecule/shared'}",
        "EDGE_LAB_DIR": str(directory / "lab"),
    }
    run = 'code=0; "$0" -m lab.scenarios "$@" || code=$?'
    script = f"echo outside $(readlink /proc/self/ns/net) >&2; {run}; {LEFT}"
    return ["unshare", "--net", "sh", "-c", script, sys.executable, *names], environment


def ended(directory: Path, *names: str) -> subprocess.CompletedProcess[str]:
    words, environment = command(directory, *names)
    return subprocess.run(
        words, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_three_at_a_time_do_not_meet_and_leave_nothing(tmp_path: Path) -> None:
    done = ended(tmp_path, "one", "two", "three", "four")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    for name in ("one", "two", "three", "four"):
        assert f"{name:8} create: Executing" in done.stderr
        assert f"{name:8} 7 passed in 1.00s" in done.stderr
        assert "7 passed" in (tmp_path / f"build/molecule-{name}.log").read_text()


def test_what_failed_is_told_last_and_nothing_more_is_begun(tmp_path: Path) -> None:
    done = ended(tmp_path, "hollow", "bad", "wordless", "four")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    said = done.stderr.partition(" failed, from ")[2]
    assert "E  assert 1 == 2" in said
    assert "a step had nothing to run: WARNING  Skipping, Missing playbook" in said
    assert not (tmp_path / "met-four").exists()


def test_a_failure_of_another_form_is_told_by_the_last_lines(tmp_path: Path) -> None:
    done = ended(tmp_path, "wordless")
    assert done.returncode == 1
    assert "the last word" in done.stderr


# In the place of tests/matrix/run.py.
MATRIX = """
import os, pathlib, time
while not pathlib.Path("met-four").exists():
    time.sleep(0.1)
print("8 passed, 1 skipped in 2.00s, network", os.readlink("/proc/self/ns/net"))
raise SystemExit({code})
"""


@pytest.mark.parametrize("code", [0, 3])
def test_the_matrix_runs_beside_them_in_the_hosts_network(tmp_path: Path, code: int) -> None:
    (tmp_path / "tests/matrix").mkdir(parents=True)
    (tmp_path / "tests/matrix/run.py").write_text(MATRIX.format(code=code))
    done = ended(tmp_path, "matrix", "four")
    assert (done.returncode, done.stdout) == (min(code, 1), ""), done.stderr
    outside = next(line.split()[1] for line in done.stderr.splitlines() if line.startswith("outside "))
    assert f"matrix   8 passed, 1 skipped in 2.00s, network {outside}" in done.stderr
    assert ("matrix failed, from build/matrix.log" in done.stderr) == bool(code)
    assert "four     7 passed in 1.00s" in done.stderr


# Loaded by every Python: whoever takes a lab away says so, and is slow.
SLOW_PURGE = """
import pathlib, sys, time
if "purge" in sys.orig_argv:
    pathlib.Path("purging").touch()
    time.sleep(3)
"""


@pytest.mark.parametrize(("other", "seen"), [("one", "met-one"), ("four", "purging")])
def test_an_interrupt_leaves_nothing(tmp_path: Path, other: str, seen: str) -> None:
    """While both run, and while one that has ended is being taken away."""
    words, environment = command(tmp_path, "long", other)
    if seen == "purging":
        (tmp_path / "hook").mkdir()
        (tmp_path / "hook/sitecustomize.py").write_text(SLOW_PURGE)
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as shell:
        deadline = time.monotonic() + 30
        while not ((tmp_path / "met-long").exists() and (tmp_path / seen).exists()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (runner,) = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
        os.kill(int(runner), signal.SIGTERM)
        left, _ = shell.communicate(timeout=30)
    assert (shell.returncode, left) == (143, "")
