"""The device that was set up by hand is taken over by the same converge; no row is lost, no old key left."""

from __future__ import annotations

from typing import Any

import pytest

from experiment import observe

BY_HAND_DEVICE = "edge04"
ASIDE = "/var/backups/edge-litestream"
OLD_KEYS = ("/etc/litestream.env", "/root/.aws/credentials")


@pytest.fixture(autouse=True)
def _only_the_one_set_up_by_hand(name: str) -> None:
    if name != BY_HAND_DEVICE:
        pytest.skip("another device was set up by hand")


def test_no_row_is_lost_and_the_database_is_the_same_file(host: Any, name: str) -> None:
    """What is in the replica is compared in test_chain.py."""
    now = observe.rows(name, observe.DATABASE)
    assert now.integrity == "ok"
    numbers = [int(row.partition("|")[0]) for row in now.rows]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > int(host.file("/root/by-hand.rows").content_string)
    inode = host.check_output(f"stat --format=%i {observe.DATABASE}")
    assert inode == host.check_output("cat /root/by-hand.inode")


def test_what_ran_by_hand_is_gone(host: Any) -> None:
    assert "/opt/litestream/" in host.check_output("readlink --canonicalize /usr/local/bin/litestream")
    assert "/run/edge-rotator/" in host.file("/etc/systemd/system/litestream.service").content_string
    for unit in ("rotate-credentials.timer", "rotate-credentials.service"):
        assert host.run(f"systemctl cat {unit}").rc != 0
    assert host.check_output("cat /etc/cron.d/rotate-credentials").splitlines() == [
        'MAILTO=""',
        "17 * * * * root /bin/true",
    ]
    assert host.check_output("pgrep --count --exact litestream") == "1"


def test_old_keys_are_where_root_alone_reads_them(host: Any) -> None:
    for path in OLD_KEYS:
        assert not host.file(path).exists
        assert host.run(f"grep -qi key {ASIDE}/*{path}").rc == 0
    assert host.check_output(f"find {ASIDE} -type f -perm /077 -or -not -user root") == ""
    assert host.run("grep -rIl HUSHHUSH /etc /root /run /var/lib /home").stdout == ""
    assert host.file("/etc/by-hand/device.key").exists, "a private key is left alone"
