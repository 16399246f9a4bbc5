"""Machine images: a bare Debian and what the lab needs on a machine, built once and cached as a tar."""

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

from lab.settings import LabError, Machine
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

# What a container has from its host: device nodes, names of network cards, modules of the kernel.
VM_PACKAGES = ("kmod", "udev")
# Newer than Debian 12's, and the cloud flavour: it finds its root on NVMe without an initramfs.
KERNEL_SUITE = "trixie"
BUILD_S = 3600

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


def recipe(suite: str, packages: tuple[str, ...] = (), architecture: str = "") -> list[str]:
    """Arguments of mmdebstrap for a suite with further packages, all but the target."""
    return [
        *([f"--arch={architecture}"] if architecture else []),
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join((*PACKAGES, *packages))}",
        *(f"--aptopt={line}" for line in APT_SETTINGS),
        *(f"--dpkgopt={line}" for line in DPKG_SETTINGS),
        *(f"--customize-hook={hook}" for hook in HOOKS),
        suite,
    ]


def kernel_recipe(architecture: str) -> list[str]:
    """Arguments of mmdebstrap for Debian's cloud kernel: unpacked, and none of its programs run."""
    return [
        f"--arch={architecture}",
        "--variant=extract",
        "--format=tar",
        f"--include=linux-image-cloud-{architecture}",
        *(f"--aptopt={line}" for line in APT_SETTINGS),
        KERNEL_SUITE,
    ]


def image_file(images: Path, suite: str, packages: tuple[str, ...] = ()) -> Path:
    """Return the cached image's path; a changed recipe makes a new name."""
    return _file(images, suite, recipe(suite, packages))


def ensure_image(images: Path, suite: str, packages: tuple[str, ...] = ()) -> Path:
    """Return the suite's image, building it first when the cache has none (about 20 s)."""
    return _ensure(images, suite, recipe(suite, packages))


def machine_image(images: Path, machine: Machine) -> Path:
    """Return a machine's image, building it first when the cache has none (3 minutes when emulated)."""
    if not machine.vm:
        return ensure_image(images, machine.suite, machine.packages)
    words = recipe(machine.suite, (*VM_PACKAGES, *machine.packages), machine.architecture)
    return _ensure(images, f"{machine.suite}-{machine.architecture}", words, machine.mirrors)


def ensure_kernel(images: Path, architecture: str) -> Path:
    """Return the archive with the kernel for virtual machines, fetching it first when the cache has none."""
    return _ensure(images, f"kernel-{architecture}", kernel_recipe(architecture))


def _file(images: Path, name: str, words: list[str]) -> Path:
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
    return images / f"{name}-{digest}.tar"


def _ensure(images: Path, name: str, words: list[str], mirrors: tuple[str, ...] = ()) -> Path:
    image = _file(images, name, [*words, *mirrors])
    if image.exists():
        return image
    images.mkdir(parents=True, exist_ok=True)
    with (images / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            _build(image, name, words, mirrors)
    return image


def _build(image: Path, name: str, words: list[str], mirrors: tuple[str, ...]) -> None:
    """Build under names of its own, so that an interrupted build never looks like an image."""
    say(f"building the {name} image with mmdebstrap (about 20 s, emulated 3 to 10 minutes, once)")
    partial = image.with_suffix(".partial")
    work = image.parent / f"{name}.build"
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is missing: apt-get install mmdebstrap")
    _clear(work)
    work.mkdir()
    work.chmod(0o755)
    try:
        env = {**os.environ, "TMPDIR": str(work), "LC_ALL": "C.UTF-8"}
        run("mmdebstrap", *words, partial, *mirrors, env=env, timeout_s=BUILD_S)
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
