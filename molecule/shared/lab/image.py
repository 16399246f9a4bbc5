"""Machine images: a bare Debian and what the lab needs on a machine, built once and cached as a tar."""

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

from lab.settings import LabError
from lab.shell import run, say

PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)

# What makes apt quick inside; the lab's disks need not survive the host's power cut.
APT_SETTINGS = ('APT::Install-Recommends "false"', 'Acquire::Languages "none"')
DPKG_SETTINGS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
)

# No host key may be shared between machines: unpacking makes a fresh one.
HOOKS = (
    "rm -f $1/etc/ssh/ssh_host_*",
    "chroot $1 systemctl enable systemd-networkd.service ssh.service",
    "chroot $1 systemctl mask systemd-networkd-wait-online.service",
)


def recipe(suite: str, packages: tuple[str, ...] = ()) -> list[str]:
    """Arguments of mmdebstrap for a suite with further packages, all but the target."""
    return [
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join((*PACKAGES, *packages))}",
        *(f"--aptopt={line}" for line in APT_SETTINGS),
        *(f"--dpkgopt={line}" for line in DPKG_SETTINGS),
        *(f"--customize-hook={hook}" for hook in HOOKS),
        suite,
    ]


def image_file(images: Path, suite: str, packages: tuple[str, ...] = ()) -> Path:
    """Return the cached image's path; a changed recipe makes a new name."""
    digest = hashlib.sha256(json.dumps(recipe(suite, packages)).encode()).hexdigest()[:12]
    return images / f"{suite}-{digest}.tar"


def ensure_image(images: Path, suite: str, packages: tuple[str, ...] = ()) -> Path:
    """Return the suite's image, building it first when the cache has none (about 20 s)."""
    image = image_file(images, suite, packages)
    if image.exists():
        return image
    images.mkdir(parents=True, exist_ok=True)
    with (images / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            _build(image, suite, packages)
    return image


def _build(image: Path, suite: str, packages: tuple[str, ...]) -> None:
    """Build under names of its own, so that an interrupted build never looks like an image."""
    say(f"building the {suite} image with mmdebstrap (about 20 s, once)")
    partial = image.with_suffix(".partial")
    work = image.parent / f"{suite}.build"
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is missing: apt-get install mmdebstrap")
    _clear(work)
    work.mkdir()
    work.chmod(0o755)
    try:
        env = {**os.environ, "TMPDIR": str(work), "LC_ALL": "C.UTF-8"}
        words = recipe(suite, packages)
        run("mmdebstrap", *words, partial, env=env, timeout_s=900)
        partial.rename(image)
    finally:
        partial.unlink(missing_ok=True)
        _clear(work)


def _clear(work: Path) -> None:
    """Remove a build's directory; a build that was killed left mounts in it."""
    mounts = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.is_relative_to(work):
            run("umount", mount)
    shutil.rmtree(work, ignore_errors=True)
