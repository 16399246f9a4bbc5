"""After playbooks/decommission.yml the appliance is gone; the data and the key are not."""

from __future__ import annotations

from typing import Any

import pytest

GONE = [
    "/etc/edge-rotator",
    "/etc/edge-identity",
    "/etc/litestream.yml",
    "/etc/litestream-aws.conf",
    "/etc/sudoers.d/edge-rotator",
    "/etc/systemd/system/edge-rotator.timer",
    "/etc/systemd/system/litestream.service",
    "/etc/systemd/system/litestream.path",
    "/etc/systemd/system/litestream-restart.path",
    "/etc/systemd/system/litestream-restart.service",
    "/etc/systemd/system/litestream-query.socket",
    "/etc/systemd/system/litestream-query@.service",
    "/etc/systemd/system/sample-app.service",
    "/opt/edge-rotator",
    "/opt/litestream",
    "/run/edge-rotator",
    "/run/litestream-query.sock",
    "/usr/local/bin/edge-rotator",
    "/usr/local/bin/litestream",
    "/usr/local/lib/litestream-query",
    "/var/lib/edge-rotator",
    "/var/lib/litestream",
]


@pytest.mark.parametrize("path", GONE)
def test_what_the_roles_wrote_is_gone(host: Any, path: str) -> None:
    assert not host.file(path).exists


def test_nothing_runs_any_more(host: Any) -> None:
    assert host.run("pgrep -u litestream,sample-app,edge-rotator").stdout == ""
    assert "edge-rotator" not in host.check_output("systemctl list-timers --all --no-pager")


def test_data_and_key_stay(host: Any) -> None:
    assert host.file("/var/lib/sample-app/sample.db").size > 0
    assert host.check_output("find /var/lib/edge-token -name '*.object'")
    assert host.file("/etc/edge-token/pin").exists
