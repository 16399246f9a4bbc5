"""The repository is a collection: what its archive holds, and that clone and installed one are the same."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import edge_rotator
from experiment.installed import NAME, ROOT, Operator, build, tool

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.name != "common")
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("[a-z]*.py"))
INVENTORIES = sorted(path.stem for path in (ROOT / "plugins/inventory").glob("[a-z]*.py"))
CALLBACKS = sorted(path.stem for path in (ROOT / "plugins/callback").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the archive of this work tree."""
    return build(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a git repository with what this work tree would commit."""
    git = tmp_path_factory.mktemp("git") / ".git"
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    command += [f"--git-dir={git}", f"--work-tree={ROOT}"]
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "Work tree"]):
        subprocess.run([*command, *words], check=True, timeout=60)
    return git


@pytest.fixture(scope="module")
def operator(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Give an operator the archive and an inventory with one device, which is this machine."""
    operator = Operator(tmp_path_factory.mktemp("operator"))
    operator.install(archive)
    inventory = operator.directory / "inventory"
    shutil.copytree(operator.collection / "inventory/production.example", inventory)
    (inventory / "hosts.yml").write_text(
        yaml.safe_dump({"edge_devices": {"hosts": {"edge-0001": {"ansible_connection": "local"}}}})
    )
    return operator


def digests(top: Path) -> dict[str, str]:
    """Name every file below a directory, with its digest."""
    files = (path for path in top.rglob("*") if path.is_file())
    return {str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_archive_holds_what_a_control_node_runs(archive: Path, repository: Path) -> None:
    with tarfile.open(archive) as packed:
        files = {member.name for member in packed.getmembers() if member.isfile()}
    tops = {name.split("/")[0] for name in files} - {"MANIFEST.json", "FILES.json"}
    assert tops == {
        *("CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"),
        *("execution-environment.yml", "pyproject.toml"),
        *(
            "changelogs",
            "docs",
            "edge_rotator",
            "files",
            "inventory",
            "meta",
            "playbooks",
            "plugins",
            "roles",
        ),
    }
    assert {name for name in files if name.startswith("inventory/")} == {
        "inventory/production.example/group_vars/all/aws.yml",
        "inventory/production.example/group_vars/all/connection.yml",
        "inventory/production.example/group_vars/edge_devices.yml",
        "inventory/production.example/hosts.yml",
    }
    listed = subprocess.run(
        ["git", f"--git-dir={repository}", "ls-files"], capture_output=True, text=True, check=True
    )
    assert files - {"MANIFEST.json", "FILES.json"} <= set(listed.stdout.splitlines()), "nothing git ignores"
    assert archive.stat().st_size < 600_000


def test_a_release_has_one_version() -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert edge_rotator.__version__ == version
    for name in ("README.md", "execution-environment.yml"):
        assert f"edge_litestream-appliance-{version}.tar.gz" in (ROOT / name).read_text()


def test_git_url_installs_the_same_files(operator: Operator, repository: Path, tmp_path: Path) -> None:
    other = Operator(tmp_path)
    other.install(f"git+file://{repository}")
    made = {"MANIFEST.json", "FILES.json"}
    ours, theirs = digests(operator.collection), digests(other.collection)
    assert ours.keys() - theirs.keys() <= made
    assert theirs.keys() - ours.keys() <= made
    assert {name for name in ours if name not in made and ours[name] != theirs[name]} == set()


def test_clone_and_installed_collection_have_the_same_tasks(operator: Operator) -> None:
    """All playbooks at once; a device in the inventory is not asked anything."""
    installed = operator.run(
        "ansible-playbook",
        *("-i", "inventory", "--list-tasks", "--list-tags"),
        *(f"{NAME}.{name}" for name in PLAYBOOKS),
    )
    assert installed.returncode == 0, installed.stderr
    cloned = subprocess.run(
        [
            *(tool("ansible-playbook"), f"--inventory={operator.directory / 'inventory'}"),
            *("--list-tasks", "--list-tags", *(f"playbooks/{name}.yml" for name in PLAYBOOKS)),
        ],
        cwd=ROOT,
        env={**operator.environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    names = [line for line in installed.stdout.splitlines() if line.startswith("playbook: ")]
    assert names == [f"playbook: {operator.collection}/playbooks/{name}.yml" for name in PLAYBOOKS]
    assert installed.stdout.replace(f"{operator.collection}/", "") == cloned.stdout
    assert installed.stdout.count("TAGS: [") > 50


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("abacus", "value of pkcs11_profile must be one of"),
        ("", "pkcs11_profile is not set for edge-0001: say where its key is"),
    ],
)
def test_preflight_of_the_installed_collection_refuses_a_bad_value(
    operator: Operator, profile: str, said: str
) -> None:
    """In check mode, for the one device of this inventory is this machine."""
    done = operator.run(
        "ansible-playbook",
        *("-i", "inventory", "--check", "-e", f"pkcs11_profile={profile}"),
        f"{NAME}.site",
    )
    assert done.returncode != 0
    text = " ".join((done.stdout + done.stderr).split())
    assert said in text, text
    assert "changed=0 unreachable=0 failed=1" in text, text


@pytest.mark.parametrize(
    ("kind", "names"),
    [("role", ROLES), ("module", MODULES), ("inventory", INVENTORIES), ("callback", CALLBACKS)],
)
def test_documentation_prints(operator: Operator, kind: str, names: list[str]) -> None:
    if not names:
        pytest.skip(f"there is no {kind}")
    done = operator.run("ansible-doc", "-t", kind, "--json", *(f"{NAME}.{name}" for name in names))
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert sorted(printed) == [f"{NAME}.{name}" for name in names]
    for name, page in printed.items():
        described = page["entry_points"].values() if kind == "role" else [page["doc"]]
        assert all(entry["short_description"] for entry in described), name


def test_execution_environment_can_be_made(archive: Path, tmp_path: Path) -> None:
    """Its build context: the engine that would build an image of it is not needed."""
    for name in ("execution-environment.yml", "galaxy.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "build").mkdir()
    shutil.copy(archive, tmp_path / "build")
    done = subprocess.run(
        [tool("ansible-builder"), "create", "--context=context", "--output-filename=Containerfile"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    context = tmp_path / "context"
    wanted = yaml.safe_load((context / "_build/requirements.yml").read_text())["collections"]
    files = [entry for entry in wanted if entry.get("type") == "file"]
    assert [(context / "_build" / entry["name"]).is_file() for entry in files] == [True]
    listed = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert [entry for entry in wanted if entry not in files] == listed
    made = (context / "Containerfile").read_text()
    core = next(
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if "ansible-core==" in line
    )
    assert core.split()[0] in made, "the version that the tests run"


def test_messages_name_playbooks_as_a_clone_and_an_installed_collection_call_them() -> None:
    files = [ROOT / "edge_rotator/errors.py"]
    files += [path for top in ("playbooks", "roles", "plugins") for path in (ROOT / top).rglob("*")]
    told = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if path.suffix in (".py", ".yml")
        for line in path.read_text().splitlines()
        if re.search(r"playbooks/\w+\.yml", line) and not line.lstrip().startswith("#")
    ]
    assert not told


def test_requirements_name_the_version_that_the_tests_run(operator: Operator) -> None:
    """And an operator's own installation finds it, though the collection does not depend on it."""
    done = operator.run("ansible-galaxy", "collection", "list", "--format=json")
    found = {name: one["version"] for path in json.loads(done.stdout).values() for name, one in path.items()}
    (listed,) = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert found[listed["name"]] == listed["version"]


def test_without_aws_modules_a_fleet_whose_aws_side_is_made_by_hand_has_its_playbooks(
    operator: Operator,
) -> None:
    """Ansible wants every module of a playbook there when it reads it; some do nothing but ask AWS."""
    asking = {"cloud", "found", "lost", "replace"}
    names = [f"{NAME}.{name}" for name in PLAYBOOKS if name not in asking]
    operator.environment["ANSIBLE_COLLECTIONS_SCAN_SYS_PATH"] = "false"
    try:
        done = operator.run("ansible-playbook", "-i", "inventory", "--syntax-check", *names)
        refused = operator.run("ansible-playbook", "-i", "inventory", "--syntax-check", f"{NAME}.cloud")
    finally:
        del operator.environment["ANSIBLE_COLLECTIONS_SCAN_SYS_PATH"]
    assert done.returncode == 0, done.stderr
    assert "amazon.aws.cloudformation" in refused.stderr


def test_changelog_is_made_from_its_source(tmp_path: Path) -> None:
    for name in ("galaxy.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "changelogs", tmp_path / "changelogs")
    subprocess.run([tool("antsibull-changelog"), "generate"], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "CHANGELOG.md").read_text() == (ROOT / "CHANGELOG.md").read_text(), (
        "antsibull-changelog generate"
    )
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert version in yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text())["releases"]
