"""Secrets are in memory, where they belong, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def needles(host: Any, credentials: dict[str, str]) -> dict[str, str]:
    """Collect what must not be found: the PIN, and what is secret of the current credentials."""
    return {
        "PIN": host.file("/etc/edge-token/pin").content_string,
        "secret": credentials["AWS_SECRET_ACCESS_KEY"],
        "token": credentials["AWS_SESSION_TOKEN"][:64],
    }


def search(host: Any, command: str, needles: dict[str, str]) -> list[str]:
    """Names of the needles in the output of a command; they go by a file on tmpfs, not by argv."""
    found = []
    for label, needle in needles.items():
        assert len(needle) >= 8, label
        host.check_output(f"umask 077; mkdir -p /run/needle; printf %s '{needle}' > /run/needle/{label}")
        if host.run(f"{command} | grep -aqFf /run/needle/{label}").rc == 0:
            found.append(label)
    host.check_output("rm -r /run/needle")
    return found


def test_the_search_finds_what_is_there(host: Any, needles: dict[str, str], secret_file: str) -> None:
    """The guard of this file: a search that finds nothing anywhere would prove nothing."""
    assert search(host, f"cat {secret_file}", needles) == ["secret", "token"]
    assert search(host, "cat /etc/edge-token/pin", needles) == ["PIN"]


def test_journal(host: Any, needles: dict[str, str]) -> None:
    # The shell of these tests names needles to sudo and sshd; what the appliance logs is what counts.
    units = "edge-rotator.service edge-rotator-force.service edge-rotator.timer litestream.service"
    command = "journalctl --no-pager --output=export " + " ".join(f"--unit={unit}" for unit in units.split())
    assert search(host, command, needles) == []


def test_process_lists(host: Any, needles: dict[str, str], mode: str) -> None:
    for _ in range(3):
        host.check_output("systemctl start --no-block edge-rotator-force.service")
        command = (
            "for n in $(seq 40); do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' "
            "| grep -v -e needle -e printf; done"
        )
        assert search(host, command, {"PIN": needles["PIN"]}) == []
    # The environment of Litestream holds the credentials in environment mode, and of no other process.
    pid = host.check_output("systemctl show --property=MainPID --value litestream.service")
    others = f"for e in /proc/[0-9]*/environ; do [ $e = /proc/{pid}/environ ] || cat $e 2>/dev/null; done"
    assert search(host, others, needles) == []


def test_unit_properties(host: Any, needles: dict[str, str]) -> None:
    units = "edge-rotator.service edge-rotator-force.service litestream.service health-check.service"
    command = f"systemctl show --all {units}"
    assert search(host, command, needles) == []


def test_flash(host: Any, needles: dict[str, str], name: str) -> None:
    """No file system but tmpfs holds a secret; the PIN stands in its one file, where root keeps it."""
    roots = "/etc /home /opt /root /srv /tmp /usr/local /var"
    command = f"find {roots} -xdev -type f ! -path /etc/edge-token/pin -print0 | xargs -0 cat 2>/dev/null"
    assert host.check_output("stat -f -c %T /run") == "tmpfs"
    assert search(host, command, needles) == []
