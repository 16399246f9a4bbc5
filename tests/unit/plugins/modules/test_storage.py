"""storage: a root file system that a reboot takes away, and swap that is in the clear."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils import restoring
from ansible_collections.edge_litestream.appliance.plugins.modules import storage

from tests.unit.aws_iot import Run

UPPER = "lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay,workdir=/media/root-rw/overlay-workdir/_"
ROOT_RO = "/dev/mmcblk0p2 /media/root-ro ext4 ro,relatime 0 0"
DOCKER = "lowerdir=/var/lib/docker/l/A,upperdir=/var/lib/docker/overlay2/a/diff,workdir=/var/lib/docker/a/w"
DEVICES = {"/dev/mmcblk0p3": "179:3", "/dev/zram0": "252:0", "/dev/dm-1": "254:1", "/var/swap": "179:2"}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A device with an ext4 root and no swap; tests write into its /proc and /sys."""
    monkeypatch.setattr(storage, "PROC", tmp_path / "proc")
    monkeypatch.setattr(storage, "SYS", tmp_path / "sys")
    (tmp_path / "proc/self").mkdir(parents=True)
    mounts(tmp_path, "/dev/mmcblk0p2 / ext4 rw,noatime 0 0")
    for number, name in {
        "179:2": "mmcblk0p2",
        "179:3": "mmcblk0p3",
        "252:0": "zram0",
        "254:1": "dm-1",
    }.items():
        (tmp_path / "sys/block" / name).mkdir(parents=True)
        (tmp_path / "sys/dev/block").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/dev/block" / number).symlink_to(tmp_path / "sys/block" / name)
    real = os.stat

    def stat(path: str, **more: Any) -> Any:
        if path not in DEVICES:
            return real(path, **more)
        number = os.makedev(*map(int, DEVICES[path].split(":")))
        of_device = path.startswith("/dev/")
        return SimpleNamespace(st_rdev=number if of_device else 0, st_dev=0 if of_device else number)

    monkeypatch.setattr(storage.os, "stat", stat)
    monkeypatch.setattr(storage.os.path, "exists", lambda path: path in DEVICES)
    return tmp_path


def mounts(device: Path, *lines: str) -> None:
    (device / "proc/self/mounts").write_text("".join(f"{line}\n" for line in lines))


def swaps(device: Path, *names: str) -> None:
    lines = [
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority",
        *(f"{name} file 99996 0 -2" for name in names),
    ]
    (device / "proc/swaps").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("lines", "volatile"),
    [
        (["/dev/mmcblk0p2 / ext4 rw,noatime 0 0", "tmpfs /run tmpfs rw 0 0"], ""),
        (
            ["tmpfs /media/root-rw tmpfs rw 0 0", ROOT_RO, f"overlayroot / overlay rw,{UPPER} 0 0"],
            "/media/root-rw",
        ),
        ([ROOT_RO, f"overlayroot / overlay rw,{UPPER} 0 0"], "/media/root-rw"),
        (
            ["overlay / overlay rw,lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work 0 0"],
            "/upper/data",
        ),
        (
            [
                "tmpfs /cow tmpfs rw 0 0",
                "overlay / overlay rw,lowerdir=/l,upperdir=/cow/up,workdir=/cow/w 0 0",
            ],
            "/cow/up",
        ),
        (["tmpfs / tmpfs rw 0 0"], "tmpfs at /"),
        (["/dev/sda1 / ext4 rw 0 0", "tmpfs / tmpfs rw 0 0"], "tmpfs at /"),
        # Changes on a disk: overlayroot that was told to, and a container.
        (["/dev/sda3 /media/root-rw ext4 rw 0 0", ROOT_RO, f"overlayroot / overlay rw,{UPPER} 0 0"], ""),
        ([f"overlay / overlay rw,{DOCKER} 0 0"], ""),
    ],
)
def test_an_overlay_in_memory_is_told(device: Path, run: Run, lines: list[str], volatile: str) -> None:
    mounts(device, *lines)
    answer = run(check=True)
    assert (volatile in answer["volatile"]) if volatile else (answer["volatile"] == "")
    assert answer["changed"] is False


def test_swap_on_a_disk_is_told(device: Path, run: Run) -> None:
    assert run()["swap"] == []
    swaps(device, "/dev/mmcblk0p3", "/var/swap", "/dev/elsewhere")
    assert run()["swap"] == ["/dev/mmcblk0p3", "/var/swap"]


def test_zram_is_memory_unless_it_writes_back(device: Path, run: Run) -> None:
    swaps(device, "/dev/zram0")
    backing = device / "sys/block/zram0/backing_dev"
    assert run()["swap"] == []
    backing.write_text("none\n")
    assert run()["swap"] == []
    backing.write_text("/dev/loop0\n")
    assert run()["swap"] == ["/dev/zram0"]


def test_encrypted_swap_is_fine(device: Path, run: Run) -> None:
    swaps(device, "/dev/dm-1")
    uuid = device / "sys/block/dm-1/dm/uuid"
    uuid.parent.mkdir()
    uuid.write_text("LVM-abc")
    assert run()["swap"] == ["/dev/dm-1"]
    # A logical volume on an encrypted disk, and on two of which one is not.
    crypt, plain = device / "sys/block/dm-0", device / "sys/block/mmcblk0p3"
    (crypt / "dm").mkdir(parents=True)
    (crypt / "dm/uuid").write_text("CRYPT-LUKS2-abc")
    (device / "sys/block/dm-1/slaves").mkdir()
    (device / "sys/block/dm-1/slaves/dm-0").symlink_to(crypt)
    assert run()["swap"] == []
    (device / "sys/block/dm-1/slaves/mmcblk0p3").symlink_to(plain)
    assert run()["swap"] == ["/dev/dm-1"]
    uuid.write_text("CRYPT-PLAIN-abc")
    assert run()["swap"] == []


def test_a_restore_that_goes_on_is_told(device: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not one that has ended, whose file is still there."""
    monkeypatch.setattr(restoring, "LOCK", str(device / "lock"))
    assert run()["restoring"] == ""
    with (device / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run()["restoring"] == "it begins"
        lock.write("/var/lib/app/app.db, since T, process 7\n")
        lock.flush()
        assert run(check=True)["restoring"] == "/var/lib/app/app.db, since T, process 7"
    assert run()["restoring"] == ""
