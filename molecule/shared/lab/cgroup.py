"""A control group per machine.

systemd-nspawn puts the machine's units below the group it is started in. Two machines started
in the same group would share `payload/system.slice/ssh.service` and kill each other's processes.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from lab.settings import paths

_TOP = Path("/sys/fs/cgroup")


def _groups(machine: str) -> list[Path]:
    """Return the machine's group in the unified hierarchy, and systemd's own on a hybrid host.

    The second one is made by systemd-nspawn, which keeps both hierarchies alike.
    """
    mounts = [_TOP / "unified", _TOP / "systemd"] if (_TOP / "unified").exists() else [_TOP]
    # Another lab beside this one, in a network namespace of its own, has machines of the same names.
    lab = hashlib.sha256(str(paths().state).encode()).hexdigest()[:8]
    return [mount / f"edgelab-{lab}-{machine}" for mount in mounts if (mount / "cgroup.procs").exists()]


def enter(machine: str) -> None:
    """Move the calling process into the machine's group."""
    for group in _groups(machine)[:1]:
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text("0")


def remove(machine: str) -> bool:
    """Remove what a stopped machine left; False while a dying process still keeps it."""
    for group in _groups(machine):
        inner = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        with suppress(OSError):
            for directory in [*inner, group]:
                directory.rmdir()
    return not any(group.exists() for group in _groups(machine))
