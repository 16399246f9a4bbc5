"""One variable takes a device to another backend; key, certificate and data stay."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import switched_at

from experiment import observe
from experiment.impostor import assert_provider_refused
from experiment.phases import assert_lossless, wait_for


def test_it_rotates_with_debians_pycurl(host: Any, name: str) -> None:
    since = switched_at(host)
    wait_for(lambda: len(observe.events(name, "rotated", since)) >= 2, 120)
    # The play changes link and configuration one after the other; a tick in between fixes itself.
    assert len(observe.events(name, "failed", since)) <= 1
    # A Litestream that was restarted this second has not synced yet, and the doctor says so.
    wait_for(lambda: host.run("edge-rotator doctor --login").rc == 0, 30)
    assert "gnutls by libcurl" in host.run("edge-rotator doctor").stdout


def test_nothing_was_compiled_for_it(host: Any) -> None:
    assert host.package("python3-pycurl").is_installed
    assert "pycurl" not in host.check_output("ls /opt/edge-rotator/current/lib")
    assert host.run("command -v gcc cc pip3 curl-config").stdout == ""


def test_replication_goes_on(host: Any, name: str) -> None:
    assert_lossless(host, name)


@pytest.mark.usefixtures("at_rest")
def test_a_false_provider_is_sent_nothing(host: Any) -> None:
    assert_provider_refused(host)
