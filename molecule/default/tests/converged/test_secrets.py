"""Secrets are in memory, where they belong, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

LABELS = ["PIN", "secret", "token"]
# Runs on the device: a needle in a command of this test would be logged by sudo, and then be found there.
PREPARE = r"""
import json, os, re
os.umask(0o077)
os.makedirs("/run/needle", exist_ok=True)
try:
    found = json.load(open("/run/edge-rotator/credentials.json"))
    secret, token = found["SecretAccessKey"], found["SessionToken"]
except FileNotFoundError:
    text = open("/run/edge-rotator/litestream.env").read()
    secret = re.search("AWS_SECRET_ACCESS_KEY=\"?([^\"\n]+)", text)[1]
    token = re.search("AWS_SESSION_TOKEN=\"?([^\"\n]+)", text)[1]
needles = {"PIN": open("/etc/edge-token/pin").read(), "secret": secret, "token": token[:64]}
for label, needle in needles.items():
    assert len(needle) >= 8, label
    open("/run/needle/" + label, "w").write(needle)
"""


@pytest.fixture(autouse=True)
def _needles(host: Any, at_rest: None) -> Iterator[None]:
    """Put what must not be found on tmpfs: the PIN, and what is secret of the credentials."""
    host.check_output("python3 -I -c %s", PREPARE)
    yield
    host.check_output("rm -r /run/needle")


def search(host: Any, command: str, labels: list[str] = LABELS) -> list[str]:
    """Name the needles that stand in the output of a command."""
    return [label for label in labels if host.run(f"{command} | grep -aqFf /run/needle/{label}").rc == 0]


def test_the_search_finds_what_is_there(host: Any, secret_file: str) -> None:
    """The guard of this file: a search that finds nothing anywhere would prove nothing."""
    assert search(host, f"cat {secret_file}") == ["secret", "token"]
    assert search(host, "cat /etc/edge-token/pin") == ["PIN"]


def test_journal(host: Any) -> None:
    assert search(host, "journalctl --no-pager --output=export") == []


def test_command_lines(host: Any) -> None:
    forced = "systemctl start edge-rotator-force.service"
    watch = "for n in $(seq 40); do cat /proc/[0-9]*/cmdline 2>/dev/null; done"
    for _ in range(3):
        assert search(host, f"{{ {forced} & {watch}; wait; }}", ["PIN"]) == []


def test_environments(host: Any) -> None:
    """Litestream's own holds the credentials in environment mode, and no other process's ever."""
    pid = host.check_output("systemctl show --property=MainPID --value litestream.service")
    others = f"for e in /proc/[0-9]*/environ; do [ $e = /proc/{pid}/environ ] || cat $e 2>/dev/null; done"
    assert search(host, others) == []


def test_unit_properties(host: Any) -> None:
    units = "edge-rotator.service edge-rotator-force.service litestream.service sample-app.service"
    command = f"systemctl show --all {units}"
    assert search(host, command) == []


def test_flash(host: Any, name: str) -> None:
    """No file system but tmpfs holds a secret; the PIN stands in its one file, where root keeps it."""
    roots = "/etc /home /opt /root /srv /tmp /usr/local /var"
    command = f"find {roots} -xdev -type f ! -path /etc/edge-token/pin -print0 | xargs -0 cat 2>/dev/null"
    assert host.check_output("stat -f -c %T /run") == "tmpfs"
    assert search(host, command) == []
