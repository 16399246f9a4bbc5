"""The lab's list of machines, the names of its images, its commands, and a machine that reboots."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import moto
import pytest
import yaml

from lab import __main__ as command_line
from lab import image, machine
from lab.settings import REPOSITORY, LabError, Paths, inventory, select
from lab.shell import wait_until


def write(directory: Path, host: str) -> Path:
    file = directory / "hosts.yml"
    file.write_text(f"all: {{children: {{cloud: {{hosts: {{{host}}}}}}}}}")
    return file


def test_the_inventory_names_every_machine() -> None:
    machines = inventory()
    assert {"edge01", "edge02"} <= set(machines)
    assert len({machine.address for machine in machines.values()}) == len(machines)


def test_machines_are_chosen_by_name_or_group() -> None:
    machines = inventory()
    assert {m.name for m in select(machines, ["edge_devices"])} >= {"edge01", "edge02"}
    assert [m.name for m in select(machines, ["edge02"])] == ["edge02"]
    assert select(machines, []) == list(machines.values())
    with pytest.raises(LabError, match="'edge99'"):
        select(machines, ["edge99"])


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("a: {lab_suite: bookworm, ansible_host: 10.0.0.1}", "not in"),
        ("a: {ansible_host: 10.83.0.9}", "no lab_suite"),
        ("much-too-long-for-a-veth: {lab_suite: b, ansible_host: 10.83.0.9}", "at most 12"),
    ],
)
def test_a_machine_that_cannot_work_is_named(tmp_path: Path, host: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        inventory(write(tmp_path, host))


def test_another_recipe_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.image_file(Path("/images"), "trixie")
    assert before == image.image_file(Path("/images"), "trixie")
    assert before != image.image_file(Path("/images"), "bookworm")
    assert before != image.image_file(Path("/images"), "trixie", ("swtpm",))
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "sqlite3"))
    assert before != image.image_file(Path("/images"), "trixie")


@pytest.mark.parametrize("words", [["--help"], ["set-lifetime", "--alias", "other", "900"], []])
def test_words_for_cloudctl_reach_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    ssh = Mock(return_value=0)
    lab = command_line.Lab(Paths(tmp_path, tmp_path), inventory())
    monkeypatch.setattr(lab, "ssh", ssh)
    monkeypatch.setattr(sys, "argv", ["lab", "cloud", *words])
    assert lab.run(command_line._parser().parse_args()) == 0
    ssh.assert_called_once_with("cloud01", [" ".join(["sudo cloudctl", *(words or ["--help"])])])


@pytest.mark.parametrize("host", ["edge01", "operator@edge01"])
def test_others_than_the_admin_log_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    paths = Paths(tmp_path, tmp_path)
    paths.ssh.mkdir()
    paths.ssh_config.touch()
    ran = Mock(return_value=Mock(returncode=3))
    monkeypatch.setattr(subprocess, "run", ran)
    lab = command_line.Lab(paths, inventory())
    assert lab.ssh(host, ["id"]) == 3
    ran.assert_called_once_with(["ssh", "-F", str(paths.ssh_config), host, "id"], check=False)
    with pytest.raises(LabError, match="'elsewhere'"):
        lab.ssh("operator@elsewhere", [])


def test_credentials_live_as_long_as_the_devices_expect() -> None:
    variables = REPOSITORY / "inventory/lab/group_vars"
    assert yaml.safe_load((variables / "all.yml").read_text())["lab_lifetime_s"] == 60
    devices = yaml.safe_load((variables / "edge_devices.yml").read_text())
    assert devices["edge_rotator_expected_lifetime"] == "{{ lab_lifetime_s }}"
    (cloud,) = yaml.safe_load((REPOSITORY / "molecule/shared/cloud.yml").read_text())
    assert "lab_lifetime_s" not in cloud["vars"], "a play's variable outranks the inventory's"


@pytest.mark.parametrize(("codes", "boots"), [("133 133 0 133", 3), ("0", 1), ("137 133", 1)])
def test_machine_is_booted_again_after_its_own_reboot_only(tmp_path: Path, codes: str, boots: int) -> None:
    guest = f'echo >>boots; set -- {codes}; shift $(($(wc -l <boots) - 1)); exit "$1"'
    subprocess.run(
        ["sh", "-c", machine.REBOOT, "lab", "sh", "-c", guest], cwd=tmp_path, check=False, timeout=20
    )
    assert (tmp_path / "boots").read_text().count("\n") == boots


def test_machine_that_reboots_for_ever_is_stopped_for_good(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path)
    top = machine.root(paths, "edge77")
    top.mkdir(parents=True)
    guest = "sleep 0.02; exit 133"
    command = ["sh", "-c", machine.REBOOT, "lab", "bash", "-c", guest, "guest", f"--directory={top}"]
    with subprocess.Popen(command, start_new_session=True) as rebooting:
        try:
            assert wait_until(lambda: machine.runs(paths, "edge77"), 5)
            machine.stop(paths, "edge77")
            assert rebooting.wait(timeout=5) == -9
            assert not machine.runs(paths, "edge77")
        finally:
            rebooting.kill()


@pytest.mark.parametrize(("name", "sees"), [("cloud01", True), ("edge01", False)])
def test_the_cloud_machine_alone_sees_the_control_nodes_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, sees: bool
) -> None:
    """Of which one is moto; they cannot be changed from there."""
    paths = Paths(tmp_path, tmp_path)
    (machine.root(paths, name) / "etc").mkdir(parents=True)
    started = Mock()
    monkeypatch.setattr(subprocess, "Popen", started)
    assert machine.boot(paths, inventory()[name])
    packages = Path(moto.__file__).parents[1]
    assert (f"--bind-ro={packages}:{machine.PYTHON}" in started.call_args.args[0]) == sees


def test_the_life_of_a_device_is_told_where_the_control_plane_is() -> None:
    scenario = yaml.safe_load((REPOSITORY / "molecule/life/molecule.yml").read_text())
    variables = yaml.safe_load((REPOSITORY / "inventory/lab/group_vars/all.yml").read_text())
    address = f"http://{inventory()['cloud01'].address}:{variables['lab_control_port']}"
    for environment in (scenario["ansible"]["env"], scenario["verifier"]["env"]):
        assert environment["AWS_ENDPOINT_URL"] == address
        assert environment["AWS_DEFAULT_REGION"] == variables["lab_region"]
