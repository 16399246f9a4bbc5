"""A virtual machine: a processor, kernel, clock, disk and TPM of its own, emulated by QEMU.

Its power cut loses what the guest has not sent to its disk, as a pulled plug would.
"""

import ipaddress
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import network
from lab.image import ensure_kernel
from lab.settings import LabError, Machine, Paths
from lab.shell import kill, process, run, say, wait_until

DISK_SIZE = "4G"
MEMORY_MB = 1024

# Parts of the cloud kernel that are modules, and that no device tree or bus asks for early enough.
MODULES = ("virtio_net", "virtio_rng", "tpm_tis")

_BINFMT = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Board:
    """What QEMU emulates for an architecture."""

    program: str
    model: tuple[str, ...]
    kernel: str
    console: str
    tpm: str
    # By its name in binfmt_misc: what runs the architecture's programs on this host while an image is built.
    interpreter: str = ""


# The core of a Raspberry Pi 4. A 32-bit root on a 64-bit kernel is what Raspberry Pi OS has there.
_CORTEX = ("qemu-system-aarch64", ("-machine", "virt", "-cpu", "cortex-a72"), "arm64", "ttyAMA0")
BOARDS = {
    "arm64": Board(*_CORTEX, "tpm-tis-device", "qemu-aarch64"),
    "armhf": Board(*_CORTEX, "tpm-tis-device", "qemu-arm"),
    "amd64": Board("qemu-system-x86_64", ("-machine", "q35", "-cpu", "max"), "amd64", "ttyS0", "tpm-tis"),
}


def disk(directory: Path) -> Path:
    """Return a machine's disk; it exists when the machine was unpacked."""
    return directory / "disk.img"


def make_disk(paths: Paths, machine: Machine, top: Path) -> None:
    """Turn a root file system into a disk that the kernel beside it boots from."""
    directory = top.parent
    archive = ensure_kernel(paths.images, BOARDS[machine.architecture].kernel)
    members = ("./usr/lib/modules", "./boot/vmlinuz-*")
    run("tar", "--extract", f"--file={archive}", f"--directory={top}", "--wildcards", *members, timeout_s=300)
    (image,) = top.glob("boot/vmlinuz-*")
    run("depmod", "--basedir", top, image.name.removeprefix("vmlinuz-"))
    etc = top / "etc"
    (etc / "fstab").write_text("/dev/nvme0n1 / ext4 defaults,errors=remount-ro 0 1\n")
    (etc / "modules-load.d/lab.conf").write_text("".join(f"{name}\n" for name in MODULES))
    image.rename(_kernel(directory))
    partial = directory / "disk.partial"
    partial.unlink(missing_ok=True)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", top, "-L", "root", partial, DISK_SIZE, timeout_s=300)
    partial.rename(disk(directory))


def boot(paths: Paths, machine: Machine, clock: str = "") -> bool:
    """Start QEMU, and the TPM before it; False if it runs already."""
    directory = paths.machines / machine.name
    if _qemu(directory) is not None:
        return False
    board = BOARDS[machine.architecture]
    _need(board.program)
    stop(directory)
    network.make_tap(machine.name)
    if machine.tpm:
        _start_tpm(directory)
    say(f"{machine.name}: booting{f' at {clock}' if clock else ''}")
    with (directory / "console.log").open("ab") as console:
        subprocess.Popen(
            command(directory, machine, clock),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    return True


def command(directory: Path, machine: Machine, clock: str = "") -> list[str]:
    """Return QEMU's command line for a machine."""
    board = BOARDS[machine.architecture]
    # Of the range for local use, and different where the address is.
    mac = "52:54:00:" + ipaddress.ip_address(machine.address).packed[1:].hex(":")
    words = [
        *(board.program, *board.model, "-accel", "tcg", "-smp", "2", "-m", str(MEMORY_MB)),
        *("-name", machine.name, "-pidfile", _mark(directory)),
        *("-kernel", str(_kernel(directory))),
        *("-append", f"root=/dev/nvme0n1 rw console={board.console} panic=-1"),
        *("-drive", f"if=none,id=disk,file={disk(directory)},format=raw,cache=writeback,discard=unmap"),
        *("-device", "nvme,drive=disk,serial=root"),
        *("-netdev", f"tap,id=net,ifname={network.veth(machine.name)},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,netdev=net,mac={mac},romfile="),
        *("-device", "virtio-rng-pci", "-display", "none", "-monitor", "none", "-serial", "stdio"),
    ]
    if clock:
        words += ["-rtc", f"base={clock}"]
    if machine.tpm:
        words += [
            *("-chardev", f"socket,id=chip,path={directory}/tpm.sock"),
            *("-tpmdev", "emulator,id=tpm,chardev=chip", "-device", f"{board.tpm},tpmdev=tpm"),
        ]
    return words


def runs(directory: Path) -> bool:
    """Tell whether anything of a virtual machine runs."""
    return _qemu(directory) is not None or _tpm(directory) is not None


def stop(directory: Path) -> None:
    """Cut the power of the machine and its TPM."""
    for found in (_qemu, _tpm):
        if (pid := found(directory)) is not None:
            kill(pid)
    if not wait_until(lambda: not runs(directory), 10):
        raise LabError(f"{directory.name} does not stop")


def _qemu(directory: Path) -> int | None:
    programs = {board.program for board in BOARDS.values()}
    return next((pid for name in programs if (pid := process(name, _mark(directory)))), None)


def _tpm(directory: Path) -> int | None:
    return process("swtpm", f"file={_tpm_mark(directory)}")


def _mark(directory: Path) -> str:
    """Return a word that no other process has in its command line."""
    return f"{directory}/qemu.pid"


def _tpm_mark(directory: Path) -> str:
    return f"{directory}/tpm.pid"


def _kernel(directory: Path) -> Path:
    return directory / "kernel"


def _start_tpm(directory: Path) -> None:
    """Start the chip; what is in it stays in the machine's directory."""
    state = directory / "tpm"
    state.mkdir(exist_ok=True, mode=0o700)
    run(
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--daemon"),
        *("--ctrl", f"type=unixio,path={directory}/tpm.sock", "--pid", f"file={_tpm_mark(directory)}"),
    )


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise LabError(f"{program} is missing: run molecule/shared/setup_vm.sh as root")


def register(paths: Paths, machines: list[Machine]) -> None:
    """Let this host run the programs of the machines' architectures, for images and bundles."""
    wanted = {BOARDS[machine.architecture].interpreter for machine in machines if machine.vm} - {""}
    if wanted and not (_BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT)
        _remember(paths, "mount")
    for name in sorted(wanted):
        if not (_BINFMT / name).exists():
            _need("update-binfmts")
            run("update-binfmts", "--enable", name)
            _remember(paths, name)


def unregister(paths: Paths) -> None:
    """Take away what `register` made, and nothing that was there before."""
    made = _made(paths)
    for name in reversed(made.read_text().split() if made.exists() else []):
        if name == "mount":
            run("umount", _BINFMT)
        elif (_BINFMT / name).exists():
            run("update-binfmts", "--disable", name)
    made.unlink(missing_ok=True)


def _made(paths: Paths) -> Path:
    return paths.state / "binfmt.made"


def _remember(paths: Paths, word: str) -> None:
    with _made(paths).open("a") as made:
        made.write(f"{word}\n")
