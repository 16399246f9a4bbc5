"""Nothing that a device makes reaches another: what all run is built, kept and pushed without them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.bundle import Plan
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import keep

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(
    [
        *ROOT.glob("roles/*/tasks/*.yml"),
        *ROOT.glob("roles/*/handlers/*.yml"),
        *ROOT.glob("playbooks/*.yml"),
        *ROOT.glob("playbooks/tasks/*.yml"),
    ]
)
# Modules that bring a file from a host to the control node, and what they bring: what a restore printed, the
# certificate and the configuration in use; these go back to the same device alone.
FROM_A_HOST = {"fetch", "slurp", "synchronize"}
ALLOWED = {
    (name, "slurp") for name in ("restore.yml", "enroll.yml", "renew.yml", "replace.yml", "current.yml")
}
BUILDS = {"edge_rotator_bundle", "debian_build"}
COMPILES = re.compile(r"\b(pip3?|gcc|g\+\+|cc|make|cmake|cython|setup\.py|git)\b")


def tasks(listed: Any) -> Iterator[dict[str, Any]]:
    """Every task below, whatever plays and blocks it is in."""
    for item in listed or []:
        yield item
        for key in ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            yield from tasks(item.get(key))


def used() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Every task with its file and its module's short name."""
    for path in FILES:
        for task in tasks(yaml.safe_load(path.read_text())):
            for key in task:
                if key.count(".") == 2:  # a full name
                    yield path, key.rsplit(".", 1)[1], task


def test_only_known_files_come_from_a_device() -> None:
    assert {(path.name, module) for path, module, _task in used() if module in FROM_A_HOST} == ALLOWED


def test_everything_is_built_on_the_build_host() -> None:
    found = [task for _path, module, task in used() if module in BUILDS]
    assert len(found) == len(BUILDS)
    for task in found:
        assert re.fullmatch(r"\{\{ \w+_build_host \}\}", task["delegate_to"]), task["name"]


def test_no_task_compiles() -> None:
    for path, module, task in used():
        if module in {"command", "shell", "pip", "git", "make"}:
            said = json.dumps(next(value for key, value in task.items() if key.endswith(f".{module}")))
            assert module in {"command", "shell"}, f"{path}: {task['name']}"
            assert not COMPILES.search(said), f"{path}: {task['name']}"


def play(tmp_path: Path, task: dict[str, Any], **known: Any) -> tuple[int, str]:
    """Run a task on edge01, one of three hosts: how it ended, and what was said."""
    inventory, file = tmp_path / "hosts.json", tmp_path / "play.yml"
    inventory.write_text(
        json.dumps(
            {
                "all": {"vars": {"ansible_connection": "local"}, "hosts": {"builder01": {}}},
                "edge_devices": {"hosts": {"edge01": {}, "edge02": {}}},
            }
        )
    )
    file.write_text(json.dumps([{"hosts": "edge01", "gather_facts": False, "vars": known, "tasks": [task]}]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), f"--inventory={inventory}", file],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def preflight(*names: str) -> dict[str, Any]:
    """Make a task of the roles' rules about these variables."""
    rules = [
        rule
        for role in ("edge_rotator", "litestream", "pkcs11")
        for task in yaml.safe_load((ROOT / f"roles/{role}/tasks/preflight.yml").read_text())
        for rule in task.get("edge_litestream.appliance.preflight", {}).get("rules", [])
        if any(name in str(rule["that"]) for name in names)
    ]
    return {"edge_litestream.appliance.preflight": {"rules": rules}}


@pytest.mark.parametrize(("user", "refused"), [("root", True), ("somebody", False)])
def test_no_user_of_a_service_is_root(tmp_path: Path, user: str, refused: bool) -> None:
    """Else what is kept from that user would be kept from nobody."""
    names = ("edge_rotator_user", "litestream_user", "pkcs11_user")
    code, said = play(tmp_path, preflight(*names), **dict.fromkeys(names, user))
    assert (code != 0) == refused, said
    for name in names:
        assert (f"{name} is '{user}'" in said) == refused


# Of the three one is in the play, one is a device that --limit left out, and one is none.
@pytest.mark.parametrize(("host", "refused"), [("edge01", True), ("edge02", True), ("builder01", False)])
def test_a_device_is_no_build_host(tmp_path: Path, host: str, refused: bool) -> None:
    names = ("edge_rotator_build_host", "pkcs11_cryptoauthlib_build_host")
    task = preflight(*names)
    code, said = play(tmp_path, task, **dict.fromkeys(names, host))
    assert (code != 0) == refused, said
    for name in names:
        assert (f"{name} is '{host}', which is a device" in said) == refused


@pytest.mark.parametrize("harmed", ["wheel", "bundle"])
def test_what_changed_in_the_cache_is_not_pushed(tmp_path: Path, harmed: str) -> None:
    platform = {"release": "bookworm", "machine": "x86_64", "python": "3.11", "debian_pycurl": False}
    plan = Plan(str(tmp_path / "cache"), **platform)
    directory = plan.own.built if harmed == "wheel" else plan.folder
    keep(directory, lambda target: (target / "part").write_bytes(b"made by the builder"))
    (directory / "part").write_bytes(b"planted")
    task = {
        "edge_litestream.appliance.edge_rotator_bundle": {"cache": str(plan.cache), "platform": platform},
        "delegate_to": "localhost",
    }
    code, said = play(tmp_path, task)
    assert code != 0
    assert f"{directory} is not as it was made: part" in said
    assert "delete the directory" in said
    assert not plan.bundle.exists()


@pytest.mark.parametrize("said", [{"release": "--customize-hook=touch PLANTED"}, {"machine": "../PLANTED"}])
def test_hostile_facts_build_nothing(tmp_path: Path, said: dict[str, str]) -> None:
    planted = tmp_path / "planted"
    platform = {"release": "bookworm", "machine": "x86_64", **said}
    build = {
        **{name: value.replace("PLANTED", str(planted)) for name, value in platform.items()},
        "packages": ["gcc"],
        "script": "true",
        "sources": str(tmp_path),
        "output": str(tmp_path / "output"),
    }
    task = {"edge_litestream.appliance.debian_build": build, "delegate_to": "localhost"}
    code, text = play(tmp_path, task)
    assert code != 0
    assert "that is no Debian" in text
    assert not planted.exists()
    assert not (tmp_path / "output.lock").exists(), "nothing was begun"


def test_every_playbook_asks_first_whether_a_device_may_set_variables() -> None:
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        plays = [play for play in yaml.safe_load(path.read_text()) if "hosts" in play]
        if plays and plays[0]["hosts"] == "edge_devices":
            assert plays[0]["tasks"][0].get("ansible.builtin.import_tasks") == "tasks/trusted.yml", path.name


@pytest.mark.timeout(300)
def test_a_device_that_answers_with_variables_stops_the_play(tmp_path: Path) -> None:
    """With Ansible's default they would stand above the inventory's."""
    evil = tmp_path / "python"
    evil.write_text("""#!/bin/sh\necho '{"ping": "pong", "ansible_facts": {"fleet_bucket": "mine"}}'\n""")
    evil.chmod(0o755)
    device = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": str(evil)}
    hosts = {"edge_devices": {"hosts": {"edge-0001": device | {"fleet_bucket": "ours"}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (tmp_path / "asked.yml").write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "edge_devices",
                    "gather_facts": False,
                    "tasks": [
                        {"ansible.builtin.ping": None},
                        {"ansible.builtin.debug": {"msg": "the bucket is {{ fleet_bucket }}"}},
                    ],
                }
            ]
        )
    )

    def play(book: Path, injected: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory=hosts.yml", str(book)],
            env={
                **os.environ,
                "ANSIBLE_INJECT_FACT_VARS": injected,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, " ".join(done.stdout.split())

    assert "the bucket is mine" in play(tmp_path / "asked.yml", "True")[1], "what this is about"
    assert "the bucket is ours" in play(tmp_path / "asked.yml", "False")[1]
    code, said = play(ROOT / "playbooks/rotate.yml", "True")
    assert code != 0
    assert "inject_facts_as_vars = False" in said
    assert "ok=0" in said
