"""The lab's list of machines and the names of its images."""

from pathlib import Path

import pytest

from lab import image
from lab.settings import LabError, inventory, select


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
