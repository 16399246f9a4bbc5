"""A command that runs as Litestream's unit would, with what a proxy asks for where there is a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils import litestream_unit

SYSTEMCTL = """#!/bin/sh
case $1 in
show) printf 'User=litestream\\nEnvironment=A=b\\nLoadCredential=[unprintable]\\n' ;;
cat) printf '[Service]\\nUser=litestream\\nLoadCredential=proxy:/etc/edge-proxy/credentials\\n' ;;
esac
"""


def test_what_a_proxy_asks_for_is_handed_over_where_there_is_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    unit = litestream_unit.unit_properties("litestream.service")
    handed = "--property=LoadCredential=proxy:/etc/edge-proxy/credentials"
    assert handed in litestream_unit.transient(unit, "/work", network=True)
    assert handed not in litestream_unit.transient(unit, "/work", network=False)
    for network in (True, False):
        command = litestream_unit.transient(unit, "/work", network)
        assert "--property=User=litestream" in command
        assert "--property=Environment=A=b" in command
