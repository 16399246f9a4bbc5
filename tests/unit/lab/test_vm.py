"""Virtual machines of the lab: what QEMU is told, what is found and ended, what a host gets back."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from lab import __main__ as command_line
from lab import image, machine, network, pki, vm
from lab.settings import ARCHITECTURES, REPOSITORY, LabError, Machine, Paths, inventory
from lab.shell import kill, wait_until

BOARD = Machine("edge77", frozenset(), "bookworm", "10.83.0.77", (), vm=True, architecture="arm64", tpm=True)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    state = tmp_path / "lab"
    state.mkdir()
    return Paths(state, tmp_path)


@pytest.fixture
def directory(paths: Paths) -> Path:
    """A machine that was unpacked."""
    directory = machine.directory(paths, BOARD.name)
    directory.mkdir(parents=True)
    vm.disk(directory).touch()
    return directory


def hosts(directory: Path, variables: str) -> Path:
    file = directory / "hosts.yml"
    host = f"a: {{lab_suite: bookworm, ansible_host: 10.83.0.9, {variables}}}"
    file.write_text(f"all: {{children: {{cloud: {{hosts: {{{host}}}}}}}}}")
    return file


def test_a_machine_is_a_container_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert not any(found.vm for found in inventory().values())
    chosen = inventory(hosts(tmp_path, "lab_kind: vm, lab_architecture: armhf, lab_tpm: true"))["a"]
    assert (chosen.vm, chosen.architecture, chosen.tpm) == (True, "armhf", True)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ("lab_kind: vm", "lab_architecture is ''"),
        ("lab_kind: vm, lab_architecture: aarch64", "lab_architecture is 'aarch64'"),
        ("lab_architecture: arm64", "a container has none"),
        ("lab_kind: docker", "lab_kind is 'docker'"),
        ("lab_tpm: true", "lab_tpm needs lab_kind: vm"),
    ],
)
def test_a_machine_that_nobody_can_emulate_is_named(tmp_path: Path, variables: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        inventory(hosts(tmp_path, variables))


def test_every_architecture_has_a_board() -> None:
    assert set(ARCHITECTURES) == set(vm.BOARDS)


# Debian's package of each emulator that a board names.
EMULATORS = {"qemu-system-aarch64": "qemu-system-arm", "qemu-system-x86_64": "qemu-system-x86"}


@pytest.mark.parametrize("program", sorted({board.program for board in vm.BOARDS.values()}))
def test_every_emulator_is_set_up(program: str) -> None:
    script = (REPOSITORY / "molecule/shared/setup_vm.sh").read_text()
    assert EMULATORS[program] in re.findall('^packages="(.*)"$', script, re.MULTILINE)[0].split()


def test_every_architecture_has_an_image_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[str, list[str]] = {}

    def ensure(_images: Path, name: str, words: list[str], _mirrors: object = ()) -> Path:
        built[name] = words
        return Path(name)

    monkeypatch.setattr(image, "_ensure", ensure)
    image.machine_image(Path(), BOARD)
    image.machine_image(Path(), Machine("c", frozenset(), "bookworm", "10.83.0.9", ()))
    assert "--arch=arm64" in built["bookworm-arm64"]
    (packages,) = [word for word in built["bookworm-arm64"] if word.startswith("--include=")]
    assert {"kmod", "udev"} <= set(packages.split(","))
    assert not [word for word in built["bookworm"] if word.startswith("--arch")]


def test_an_image_is_made_from_the_mirrors_that_a_machine_names(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = "deb http://mirror.test/debian bookworm main"
    asked: list[tuple[str, ...]] = []

    def mmdebstrap(*words: object, **_options: object) -> str:
        asked.append(tuple(map(str, words)))
        next(word for word in words if isinstance(word, Path)).touch()
        return ""

    monkeypatch.setattr(image, "run", mmdebstrap)
    monkeypatch.setattr(shutil, "which", Mock(return_value="mmdebstrap"))
    made = {image.machine_image(paths.images, replace(BOARD, mirrors=chosen)) for chosen in ((), (mirror,))}
    assert len(made) == 2
    assert [mirror in words for words in asked] == [False, True]
    assert asked[1][-1] == mirror


def words_after(command: list[str], option: str) -> list[str]:
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def test_boards_have_cables_and_addresses_of_their_own(directory: Path) -> None:
    other = Machine("edge78", frozenset(), "bookworm", "10.83.0.78", (), vm=True, architecture="arm64")
    cards = {
        next(word for word in words_after(vm.command(directory, board), "-device") if "mac=" in word)
        for board in (BOARD, other)
    }
    assert len(cards) == 2
    assert f"ifname={network.veth('edge77')}," in str(words_after(vm.command(directory, BOARD), "-netdev"))


@pytest.mark.parametrize("clock", ["", "2020-01-01T00:00:00"])
def test_a_clock_is_wrong_only_where_it_is_asked_for(directory: Path, clock: str) -> None:
    assert words_after(vm.command(directory, BOARD, clock), "-rtc") == ([f"base={clock}"] if clock else [])


def test_a_container_has_no_clock_of_its_own(paths: Paths) -> None:
    (machine.root(paths, "c") / "etc").mkdir(parents=True)
    with pytest.raises(LabError, match="the host's clock"):
        machine.boot(paths, Machine("c", frozenset(), "bookworm", "10.83.0.9", ()), "2020-01-01T00:00:00")


def test_what_is_missing_is_named_with_its_mend(
    paths: Paths, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert directory.exists()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match=r"qemu-system-aarch64 is missing: run molecule/shared/setup_vm\.sh"):
        vm.boot(paths, BOARD)


def test_a_chip_is_there_only_where_it_is_asked_for(directory: Path) -> None:
    bare = Machine("edge78", frozenset(), "bookworm", "10.83.0.78", (), vm=True, architecture="arm64")
    assert words_after(vm.command(directory, BOARD), "-tpmdev")
    assert not words_after(vm.command(directory, bare), "-tpmdev")


@pytest.mark.skipif(not Path("/usr/bin/qemu-system-aarch64").exists(), reason="no QEMU here")
def test_qemu_takes_its_command_line(directory: Path) -> None:
    """It starts, here with an empty disk and no cable, and is found until its power is cut."""
    vm.disk(directory).write_bytes(bytes(2**20))
    (directory / "kernel").write_bytes(bytes(2**12))
    command = vm.command(directory, BOARD, "2020-01-01T00:00:00")
    at = command.index("-netdev")
    command[at + 1] = "user,id=net"
    vm._start_tpm(directory)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as qemu:
        try:
            assert wait_until(lambda: (directory / "qemu.pid").exists() or qemu.poll() is not None, 30)
            assert qemu.poll() is None, qemu.communicate()[1].decode()
            assert vm.runs(directory)
            vm.stop(directory)
            assert qemu.wait(timeout=5) == -9
            assert not vm.runs(directory)
        finally:
            qemu.kill()
            if (chip := vm._tpm(directory)) is not None:
                kill(chip)


@pytest.fixture
def chip(directory: Path) -> Iterator[None]:
    vm._start_tpm(directory)
    yield
    if (chip := vm._tpm(directory)) is not None:
        kill(chip)


@pytest.mark.usefixtures("chip")
def test_a_chip_that_lost_its_board_is_ended_and_deleted(paths: Paths, directory: Path) -> None:
    """As after a QEMU that failed to start."""
    assert machine.runs(paths, BOARD.name)
    machine.stop(paths, BOARD.name)
    assert not machine.runs(paths, BOARD.name)
    machine.delete(paths, BOARD.name)
    assert not directory.exists()


@pytest.mark.usefixtures("chip")
def test_another_labs_board_of_the_same_name_is_left_alone(paths: Paths, directory: Path) -> None:
    elsewhere = Paths(paths.state / "elsewhere", paths.cache)
    machine.directory(elsewhere, BOARD.name).mkdir(parents=True)
    assert not machine.runs(elsewhere, BOARD.name)
    machine.stop(elsewhere, BOARD.name)
    assert vm.runs(directory)


class Host:
    """A host's binfmt_misc, and the commands that change it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.top.mkdir()

    def run(self, program: str, *words: object) -> str:
        name = str(words[-1])
        if program == "mount":
            (self.top / "register").touch()
        elif program == "umount":
            (self.top / "register").unlink()
        elif "--enable" in words:
            assert (self.top / "register").exists()
            (self.top / name).touch()
        else:
            assert "--disable" in words
            (self.top / name).unlink()
        return ""

    def entries(self) -> set[str]:
        return {entry.name for entry in self.top.iterdir()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "binfmt_misc")
    monkeypatch.setattr(vm, "_BINFMT", host.top)
    monkeypatch.setattr(vm, "run", host.run)
    monkeypatch.setattr(vm, "_need", Mock())
    return host


@pytest.mark.parametrize(
    "before", [set(), {"register"}, {"register", "qemu-arm"}, {"register", "qemu-aarch64"}]
)
def test_a_host_gets_back_what_it_could_run_before(host: Host, paths: Paths, before: set[str]) -> None:
    for name in before:
        (host.top / name).touch()
    vm.register(paths, [BOARD])
    vm.register(paths, [BOARD])  # a second `up`
    assert host.entries() == before | {"register", "qemu-aarch64"}
    vm.unregister(paths)
    assert host.entries() == before
    vm.unregister(paths)


def test_a_lab_of_containers_changes_nothing_of_that(host: Host, paths: Paths) -> None:
    vm.register(paths, list(inventory().values()))
    assert host.entries() == set()


def test_purge_gives_it_back(host: Host, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "down", Mock())
    monkeypatch.setattr(sys, "argv", ["lab", "purge"])
    vm.register(paths, [BOARD])
    command_line.Lab(paths, {}).run(command_line._parser().parse_args())
    assert host.entries() == set()


def test_an_up_that_fails_gives_it_back(host: Host, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "up", Mock())
    monkeypatch.setattr(network, "down", Mock())
    monkeypatch.setattr(pki, "ensure", Mock())
    monkeypatch.setattr(machine, "unpack", Mock(side_effect=LabError("no space left")))
    with pytest.raises(LabError, match="no space"):
        command_line.Lab(paths, {BOARD.name: BOARD}).up([BOARD])
    assert host.entries() == set()


def test_the_boards_of_the_scenario_make_sense() -> None:
    boards = inventory(REPOSITORY / "molecule/board/inventory/hosts.yml")
    devices = [found for found in boards.values() if "edge_devices" in found.groups]
    assert devices
    assert all(found.vm for found in devices)
    assert not boards["cloud01"].vm
