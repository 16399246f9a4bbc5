"""Argument specs are the single source: defaults, documentation and names follow them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
# What roles share is nothing an operator sets.
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.name != "common")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_specs_say_the_same(role: str) -> None:
    defaults = load(ROOT / f"roles/{role}/defaults/main.yml")
    options = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert list(options) == list(defaults)
    assert {name: option["default"] for name, option in options.items()} == defaults


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described_and_named_after_its_role(role: str) -> None:
    specs = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    for name, option in specs["main"]["options"].items():
        assert name.startswith(f"{role}_")
        assert option["description"].endswith(".")
        assert option["type"] != "list" or "elements" in option
    assert specs["preflight"]["options"] == specs["main"]["options"]


@pytest.mark.parametrize("role", ROLES)
def test_internal_variables_are_marked(role: str) -> None:
    for path in (ROOT / f"roles/{role}").rglob("tasks/*.yml"):
        for name in re.findall(r"^\s+register: (\w+)", path.read_text(), re.MULTILINE):
            assert name.startswith(f"__{role}_"), f"{path}: {name}"


def test_variables_page_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def wired(playbook: str) -> dict[str, str]:
    """What a playbook tells roles of one another."""
    play = load(ROOT / f"playbooks/{playbook}.yml")[0]
    listed = [
        one
        for task in play["tasks"]
        for one in (
            load(ROOT / "playbooks" / task["ansible.builtin.import_tasks"])
            if task.get("ansible.builtin.import_tasks") == "tasks/appliance.yml"
            else [task]
        )
    ]
    tasks = [inner for task in listed for inner in task.get("block", [task])]
    found: dict[str, str] = {}
    # It outranks the inventory, which may say none of it.
    if "vars/device_identity.yml" in play.get("vars_files", []):
        found |= load(ROOT / "playbooks/vars/device_identity.yml")
    for task in tasks:
        if "ansible.builtin.import_role" in task:
            found |= {name: value for name, value in task.get("vars", {}).items() if name != "common_derived"}
    return found


def test_wiring_names_variables_that_exist() -> None:
    wiring = wired("site")
    for role in ROLES:
        options = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
        marked = {
            name
            for name, option in options.items()
            if "Set by edge_litestream.appliance.site" in option["description"]
        }
        assert marked == {name for name in wiring if name.startswith(f"{role}_")}


def test_what_site_sets_itself_is_refused_in_the_inventory() -> None:
    shared = load(ROOT / "roles/common/vars/main.yml")
    assert shared["__common_wiring"].keys() == wired("site").keys()
    known = {name for role in ROLES for name in load(ROOT / f"roles/{role}/defaults/main.yml")}
    # The inventory's, which are of no role alone.
    fleet = {"edge_databases", "fleet_bucket"}
    assert set(shared["__common_wiring"].values()) <= known - shared["__common_wiring"].keys() | fleet
    assert set(shared["__common_renamed"].values()) <= known


@pytest.mark.parametrize("playbook", ["enroll", "renew"])
def test_a_role_is_told_everywhere_what_site_tells_it(playbook: str) -> None:
    told, by_site = wired(playbook), wired("site")
    assert told.items() <= by_site.items()
    identity = {name for name in by_site if name.startswith("device_identity_")}
    assert {name for name in told if name.startswith("device_identity_")} == identity != set()


def test_who_asks_no_device_tells_litestream_what_site_tells_it() -> None:
    tasks = load(ROOT / "playbooks/tasks/planned.yml")
    told = next(task["vars"] for task in tasks if "vars" in task)
    by_site = wired("site")
    assert told == {name: by_site[name] for name in told}
    assert "litestream_databases" in told


def test_inventories_have_the_same_shape() -> None:
    lab = load(ROOT / "inventory/lab/group_vars/edge_devices.yml")
    production = load(ROOT / "inventory/production.example/group_vars/edge_devices.yml")
    # What the playbook cloud writes is said in the lab; its bucket was not made by it.
    written = load(ROOT / "inventory/production.example/group_vars/all/aws.yml")
    assert set(lab) | {"fleet_bucket"} == set(production) | set(written)


def test_the_example_names_nothing_that_only_a_clone_has() -> None:
    for path in (ROOT / "inventory/production.example").rglob("*.yml"):
        # The operator's own secrets lie beside the inventory.
        assert "../" not in path.read_text().replace("/../secrets/", ""), path
