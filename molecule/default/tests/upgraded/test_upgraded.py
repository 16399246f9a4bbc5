"""After an upgrade of Debian 12 to 13 all goes on without a converge, and a converge is clean."""

from __future__ import annotations

import re
from typing import Any

import pytest

from experiment import observe
from experiment.phases import assert_lossless, play

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("only_one")]
INSTALLED_FOR = "/opt/edge-rotator/current/complete"


def test_nobody_converged(host: Any) -> None:
    """Guard: it is another Debian, with the program that was installed before."""
    assert host.check_output("python3 -I -c 'import sys; print(*sys.version_info[:2])'") == "3 13"
    assert "VERSION_CODENAME=trixie" in host.file("/etc/os-release").content_string
    assert host.file(INSTALLED_FOR).content_string.startswith("bookworm-")


def test_libcurl_is_the_new_debians(host: Any) -> None:
    """Under its old name apt would leave the old one, which gets no fixes, in the new one's place."""
    assert host.package("libcurl4t64").is_installed
    assert not host.package("libcurl4").is_installed


def test_the_boot_fetched_at_once(host: Any, name: str) -> None:
    booted = float(host.check_output("stat -c %Y /proc/1"))
    assert observe.events(name, "rotated", booted - 1)[0].fields["reason"] == "missing"
    assert observe.events(name, "failed", booted - 1) == []


def test_nothing_is_lost(host: Any, name: str) -> None:
    """Not of what was written before the upgrade, during it, or since the boot."""
    began, booted = (
        host.check_output(f"date --utc --reference={path} '+%F %T'")
        for path in ("/etc/apt/sources.list", "/proc/1")
    )
    written = [row.split("|")[1] for row in assert_lossless(host, name)]
    assert written[0] < began
    assert any(began < at < booted for at in written)
    assert written[-1] > booted


def test_doctor_reaches_the_key(host: Any) -> None:
    """By python-pkcs11, which a rotation that succeeds does without."""
    said = host.run("runuser -u edge-rotator -- edge-rotator doctor").stdout
    for link in ("pycurl", "module", "token", "key", "match"):
        assert re.search(rf"^ok +{link} ", said, re.MULTILINE), said


def test_converge_brings_the_new_debians_program(host: Any, name: str) -> None:
    done = play("site", name)
    assert done.code == 0, done.text
    assert host.file(INSTALLED_FOR).content_string.startswith("trixie-")


def test_second_converge_changes_nothing(name: str) -> None:
    again = play("site", name)
    assert re.search(rf"{name} : ok=\d+ changed=0 unreachable=0 failed=0", again.text), again.text
