"""One machine: unpacked from an image, booted by systemd-nspawn or QEMU, stopped like by a power cut."""

import os
import shutil
import socket
import subprocess
import sysconfig
import uuid
from pathlib import Path

from lab import cgroup, network, vm
from lab.image import machine_image
from lab.settings import BRIDGE, GATEWAY, SUBNET, LabError, Machine, Paths
from lab.shell import kill, pids, process, run, say, succeeds, wait_until

# A machine that reboots itself makes systemd-nspawn end with this, for a supervisor to start it again.
REBOOT = 'while "$@"; [ $? = 133 ]; do :; done'

# What ssh gets to answer. An emulated processor is some 20 times slower than the host's.
BOOT_S = 90
VM_BOOT_S = 600

# Where a machine that is to see the control node's Python packages has them.
PYTHON = "/opt/control-node"

_NETWORK = f"""\
[Match]
# A container's, then a virtual machine's.
Name=host0 en*

[Network]
Address={{address}}/{SUBNET.prefixlen}
Gateway={GATEWAY}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

# systemd-resolved's own list comes first: its stub at 127.0.0.53 is of no use to a machine.
_RESOLVERS = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


def directory(paths: Paths, name: str) -> Path:
    """Return the directory of a machine; it exists when the machine was unpacked."""
    return paths.machines / name


def root(paths: Paths, name: str) -> Path:
    """Return the machine's root file system."""
    return directory(paths, name) / "root"


def known(paths: Paths, name: str) -> bool:
    """Tell whether a machine was unpacked."""
    return root(paths, name).exists() or vm.disk(directory(paths, name)).exists()


def unpack(paths: Paths, machine: Machine, machines: dict[str, Machine]) -> None:
    """Make the machine's root file system from its suite's image, unless there is one."""
    if known(paths, machine.name):
        return
    image = machine_image(paths.images, machine)
    say(f"{machine.name}: unpacking {image.name}")
    partial = directory(paths, machine.name) / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        run(
            *("tar", "--extract", f"--file={image}", f"--directory={partial}"),
            *("--numeric-owner", "--xattrs", "--xattrs-include=*"),
            timeout_s=300,
        )
        _personalise(paths, machine, machines, partial)
        if machine.vm:
            vm.make_disk(paths, machine, partial)
        else:
            partial.rename(root(paths, machine.name))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _personalise(paths: Paths, machine: Machine, machines: dict[str, Machine], top: Path) -> None:
    """Give a fresh root its name, keys, address and the admin user."""
    etc = top / "etc"
    (etc / "hostname").write_text(f"{machine.name}\n")
    hosts = ["127.0.0.1 localhost", f"127.0.1.1 {machine.name}"]
    for other in machines.values():
        names = other.names if other is machine else (other.name, *other.names)
        if names:
            hosts.append(f"{other.address} {' '.join(names)}")
    (etc / "hosts").write_text("\n".join(hosts) + "\n")
    _resolve(top)
    # A fixed machine id keeps the first boot from enabling every unit there is.
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (etc / "systemd/network/10-host0.network").write_text(_NETWORK.format(address=machine.address))
    host_key = etc / "ssh/ssh_host_ed25519_key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", machine.name, "-f", host_key)

    # Who logs in: `admin` may everything, `operator` what the roles allow the people on call.
    public_key = (paths.ssh / "id_ed25519.pub").read_text()
    for user in ("admin", "operator"):
        # From outside: what is in there may be another architecture's.
        run("useradd", "--prefix", top, "--create-home", "--no-user-group", "--shell", "/bin/bash", user)
        home = top / "home" / user
        ssh = home / ".ssh"
        ssh.mkdir(mode=0o700)
        (ssh / "authorized_keys").write_text(public_key)
        for path in (ssh, ssh / "authorized_keys"):
            os.chown(path, home.stat().st_uid, home.stat().st_gid)
    sudoers = etc / "sudoers.d/010_admin-nopasswd"
    sudoers.write_text("admin ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)


def _resolve(top: Path) -> None:
    """Let a machine ask the host's name servers."""
    resolvers = next((path for path in _RESOLVERS if path.exists()), None)
    if resolvers is not None:
        inside = top / "etc/resolv.conf"
        inside.unlink(missing_ok=True)
        inside.write_text(resolvers.read_text())


def boot(paths: Paths, machine: Machine, clock: str = "") -> bool:
    """Start the machine; False if it runs already. `wait_for_ssh` tells when it is up.

    A virtual machine's clock starts at `clock`, UTC like 2020-01-01T00:00:00; without it at the host's time.
    """
    name = machine.name
    if not known(paths, name):
        raise LabError(f"{name} is not there yet: run `up {name}`")
    if machine.vm:
        return vm.boot(paths, machine, clock)
    if clock:
        raise LabError(f"{name} is a container, which has the host's clock")
    top = root(paths, name)
    if supervisor(top) is not None or loop(top) is not None:
        return False
    if init(top) is not None:
        say(f"{name}: its systemd-nspawn was killed, so it has to go down first")
        stop(paths, name)
    _resolve(top)
    binds = [f"--bind-ro={sysconfig.get_path('purelib')}:{PYTHON}"] if machine.python else []
    say(f"{name}: booting")
    with (directory(paths, name) / "console.log").open("ab") as console:
        subprocess.Popen(
            [
                *("sh", "-c", REBOOT, "lab", "systemd-nspawn"),
                *("--quiet", "--settings=no", f"--directory={top}"),
                *(f"--machine={name}", f"--hostname={name}"),
                *("--boot", "--register=no", "--keep-unit", "--link-journal=no"),
                *(f"--network-bridge={BRIDGE}", "--resolv-conf=off", "--timezone=off"),
                *binds,
            ],
            # Where the host's cgroups are hybrid, a guest of today wants the unified ones.
            env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            preexec_fn=lambda: cgroup.enter(name),  # noqa: PLW1509 - no threads yet
        )
    return True


def wait_for_ssh(paths: Paths, machine: Machine) -> None:
    """Return when the admin user can log in; LabError with the console's last words if never."""
    timeout_s = VM_BOOT_S if machine.vm else BOOT_S

    def answers() -> bool:
        if not runs(paths, machine.name):
            raise LabError(f"{machine.name} stopped while booting{_console(paths, machine.name)}")
        try:
            socket.create_connection((machine.address, 22), timeout=1).close()
        except OSError:
            return False
        return succeeds("ssh", "-F", paths.ssh_config, machine.name, "true", timeout_s=timeout_s / 6)

    if not wait_until(answers, timeout_s):
        raise LabError(f"{machine.name}: no ssh after {timeout_s:.0f} s{_console(paths, machine.name)}")


def _console(paths: Paths, name: str) -> str:
    log = directory(paths, name) / "console.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "".join(f"\n  {line}" for line in [f"{log}:", *lines[-8:]])


def stop(paths: Paths, name: str) -> None:
    """Cut the machine's power: kill QEMU, or its init, and wait until systemd-nspawn has cleaned up.

    Killing systemd-nspawn itself would leave the machine running and its veth behind.
    """
    hang_up(paths, name)
    vm.stop(directory(paths, name))
    top = root(paths, name)
    # A second round for a machine caught between systemd-nspawn's start and its init's.
    for _attempt in range(2):
        # First of all, or it would boot again a machine that is just rebooting.
        if (rebooter := loop(top)) is not None:
            kill(rebooter)
        if (first := init(top)) is not None:
            kill(first)
        if wait_until(lambda: not runs(paths, name), 5):
            break
        if (orphan := supervisor(top)) is not None and init(top) is None:
            kill(orphan)
    else:
        raise LabError(f"{name} does not stop")
    if network.exists(network.veth(name)):
        succeeds("ip", "link", "delete", network.veth(name))
    wait_until(lambda: cgroup.remove(name), 5)


def hang_up(paths: Paths, name: str) -> None:
    """End ssh's shared connection, which would hang once the other side is gone."""
    if paths.ssh_config.exists():
        succeeds("ssh", "-F", paths.ssh_config, "-O", "exit", name, timeout_s=10)


def delete(paths: Paths, name: str) -> None:
    """Remove a stopped machine's directory."""
    if directory(paths, name).exists():
        shutil.rmtree(directory(paths, name))


def runs(paths: Paths, name: str) -> bool:
    """Tell whether anything of a machine runs."""
    top = root(paths, name)
    return vm.runs(directory(paths, name)) or any(
        found(top) is not None for found in (loop, supervisor, init)
    )


def supervisor(top: Path) -> int | None:
    """Return the pid of the systemd-nspawn that runs the machine in `top`, if any."""
    return process("systemd-nspawn", f"--directory={top}")


def loop(top: Path) -> int | None:
    """Return the pid of what starts that systemd-nspawn again when the machine reboots, if any."""
    return process("sh", f"--directory={top}")


def init(top: Path) -> int | None:
    """Return the host's pid of the init that runs in `top`, if any, even without supervisor."""
    try:
        place = top.stat()
    except FileNotFoundError:
        return None
    for pid in pids():
        entry = Path("/proc", str(pid))
        try:
            status = (entry / "status").read_text()
            numbers = next(x for x in status.splitlines() if x.startswith("NSpid:")).split()
            inside_as_first = len(numbers) > 2 and numbers[-1] == "1"
            if inside_as_first and os.path.samestat((entry / "root").stat(), place):
                return pid
        except (OSError, StopIteration):
            continue
    return None
