"""One device becomes Debian 13, though its connection is lost meanwhile; the other is not fit for it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from conftest import INSTALLING, REPORT, lab, release, report, upgrade

from experiment import observe
from experiment.phases import Played, assert_lossless

pytestmark = pytest.mark.timeout(1200)
INSTALLED_FOR = "/opt/edge-rotator/current/complete"
SOURCES = "find /etc/apt/sources.list* -type f | sort | xargs cat; cat /etc/debian_version"
FOREIGN = "Types: deb\\nURIs: https://packages.example/debian\\nSuites: bookworm\\nComponents: main\\n"


def lose_the_connection() -> None:
    """For half a minute, while packages are exchanged."""
    lab("cut", "edge01")
    time.sleep(30)
    lab("heal", "edge01")


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    observe.run("edge02", "sudo apt-mark hold dash")
    observe.run("edge02", f"printf '{FOREIGN}' | sudo tee /etc/apt/sources.list.d/x.sources")
    return {device: observe.run(device, SOURCES) for device in ("edge01", "edge02")}


@pytest.fixture(scope="module")
def looked(before: dict[str, str]) -> Played:
    return upgrade("--check", "--diff")


@pytest.fixture(scope="module")
def upgraded(before: dict[str, str], looked: Played) -> Played:
    return upgrade(at=INSTALLING, event=lose_the_connection)


def test_check_mode_says_who_is_fit_and_changes_nothing(looked: Played, before: dict[str, str]) -> None:
    assert re.search(r"-deb \S+ bookworm main .*\+deb \S+ trixie main", looked.text), looked.text
    assert "packages are held: dash" in looked.text
    assert "https://packages.example/debian bookworm" in looked.text
    assert {device: observe.run(device, SOURCES) for device in before} == before
    assert not REPORT.exists()


def test_it_ends_with_the_one_that_was_refused(upgraded: Played) -> None:
    assert upgraded.code != 0
    assert "edge02 rest refused not fit for the upgrade: packages are held: dash" in upgraded.text
    told = report()
    assert [told[device]["verdict"] for device in ("edge01", "edge02")] == ["same", "refused"], told
    assert REPORT.read_text().split() == ["edge02"]


def test_the_one_that_was_refused_is_what_it_was(upgraded: Played, before: dict[str, str]) -> None:
    assert observe.run("edge02", SOURCES) == before["edge02"]


def test_the_device_runs_the_new_debian_and_its_program(host: Any, upgraded: Played) -> None:
    assert release("edge01") == "trixie"
    assert host.check_output("dpkg --audit") == ""
    assert host.file(INSTALLED_FOR).content_string.startswith("trixie-")
    assert not host.file("/var/lib/edge-debian-upgrade").exists
    assert "edge-rotator 2.0.0" in upgraded.text


def test_the_connection_was_lost(upgraded: Played) -> None:
    """Guard: while packages were exchanged, and for long enough to be told."""
    assert re.search(r"edge01: upgrade, \d+ s: no connection", upgraded.text)


def test_libcurl_is_the_new_debians(host: Any, upgraded: Played) -> None:
    """Under its old name apt would leave the old one, which gets no fixes, in the new one's place."""
    assert host.package("libcurl4t64").is_installed
    assert not host.package("libcurl4").is_installed


def test_the_boot_fetched_at_once(host: Any, upgraded: Played) -> None:
    """By the program that was installed for the old Debian: the converge came later."""
    booted = float(host.check_output("stat -c %Y /proc/1"))
    assert observe.events("edge01", "rotated", booted - 1)[0].fields["reason"] == "missing"
    assert observe.events("edge01", "failed", booted - 1) == []


def test_nothing_is_lost(host: Any, upgraded: Played) -> None:
    """Not of what was written before the upgrade, during it, or since the boot."""
    began, booted = (
        host.check_output(f"date --utc --reference={path} '+%F %T'")
        for path in ("/etc/apt/sources.list", "/proc/1")
    )
    written = [row.split("|")[1] for row in assert_lossless(host, "edge01")]
    assert written[0] < began
    assert any(began < at < booted for at in written)
    assert written[-1] > booted


def test_doctor_reaches_the_key(host: Any, upgraded: Played) -> None:
    """By python-pkcs11, which a rotation that succeeds does without."""
    said = host.run("runuser -u edge-rotator -- edge-rotator doctor").stdout
    for link in ("pycurl", "module", "token", "key", "match"):
        assert re.search(rf"^ok +{link} ", said, re.MULTILINE), said


def test_a_second_run_changes_nothing(upgraded: Played) -> None:
    again = upgrade("--limit=edge01")
    assert again.code == 0, again.text
    assert re.search(r"edge01 : ok=\d+ changed=0 ", again.text), again.text
