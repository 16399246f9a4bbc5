"""Docs that cannot drift: generated pages are current, links and the files and targets they name exist."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment

from edge_rotator.errors import KINDS

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as a forge makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = "".join(target)
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"\b((?:playbooks|roles|files|molecule|inventory|tests)/[\w./-]*\w)", text):
        # The reader's inventory is a copy of the example; what the reader adds to it is not ours.
        own = re.sub(r"^inventory/(?=hosts|group_vars)", "inventory/production.example/", path)
        if own != "inventory/certificates" and not own.startswith("inventory/certificates/"):
            assert (ROOT / own).exists() or list(ROOT.glob(f"{own}*")), f"{page}: {path}"
    for name in re.findall(r"\bedge_litestream\.appliance\.(\w+)", text):
        kinds = ("callback", "inventory", "modules")
        homes = ("playbooks/{}.yml", "roles/{}", *(f"plugins/{kind}/{{}}.py" for kind in kinds))
        assert any((ROOT / home.format(name)).exists() for home in homes), f"{page}: {name}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, f"{page}: make {target}"


def test_every_error_class_has_its_symptom() -> None:
    """An operator who searches the page for what the journal says finds something."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    missing = [name for name in KINDS if f"`{name}`" not in text]
    assert not missing


@functools.cache
def sudoers(mode: str) -> set[str]:
    """What operators type after `sudo`, from the template of the rules."""
    template = Environment(autoescape=False).from_string(  # noqa: S701 - a sudoers file, no page
        (ROOT / "roles/edge_rotator/templates/sudoers.j2").read_text()
    )
    text = template.render(
        edge_rotator_delivery=mode,
        edge_rotator_user="edge-rotator",
        edge_rotator_operators_group="edge-operators",
        edge_rotator_command="/usr/local/bin/edge-rotator",
        edge_rotator_litestream_service="litestream.service",
        __edge_rotator_units=["edge-rotator.service", "edge-rotator.timer", "litestream.service"],
    )
    rules = re.findall(r"^%edge-operators ALL=\((\S+)\) NOPASSWD: (.+)$", text, re.MULTILINE)
    return {
        ("" if user == "root" else f"-u {user} ") + command.replace("\\=", "=").removeprefix("/usr/bin/")
        for user, command in rules
    }


def test_operators_commands_are_those_that_sudo_allows() -> None:
    """Before its last section, the troubleshooting page uses nothing that an operator may not run."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    used = set(re.findall(r"^sudo (.+?)\s*$", text.partition("## As root")[0], re.MULTILINE))
    allowed = sudoers("process") | sudoers("environment") | {"-l"}
    assert used <= allowed, used - allowed
    assert used & sudoers("process")


# What needs no rights on the device, or no device.
ANYBODY = ("timedatectl", "df -h ", "df -i ", "ls -l ", "id -nG", "aws ", "systemctl show ")
PROGRAMS = (
    "sudo",
    "systemctl",
    "journalctl",
    "litestream",
    "edge-rotator",
    "kill",
    "df",
    "systemd-tmpfiles",
    "aws",
)


def refused(command: str, before: str) -> bool:
    """Whether this command, after such words, is one that its reader cannot run."""
    words = re.sub(r"^(sudo(?: -u edge-rotator)?) edge-rotator ", r"\1 /usr/local/bin/edge-rotator ", command)
    allowed = sudoers("process") | sudoers("environment") | {"-l"}
    if words.startswith("sudo "):
        return words.removeprefix("sudo ") not in allowed
    as_root = re.search(r"[Aa]s root[^.]*$", before)
    return not (f"{words} ".startswith(ANYBODY) or as_root)


def hints() -> list[tuple[str, str]]:
    """Commands that a person is told to run, and the words before each in the same text."""
    texts = [kind.advice for kind in KINDS.values()]
    for name in ("doctor", "status", "lock", "systemd", "rotation", "cli"):
        nodes = list(ast.walk(ast.parse((ROOT / f"edge_rotator/{name}.py").read_text())))
        docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
        constants = [node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
        texts += [str(node.value) for node in constants]
    alerts = yaml.safe_load((ROOT / "files/prometheus-alerts.yml").read_text())
    texts += [rule["annotations"]["description"] for group in alerts["groups"] for rule in group["rules"]]
    operators = (ROOT / "docs/troubleshooting.md").read_text().partition("## As root")[0]
    texts += re.sub(r"```.*?```", "", operators, flags=re.DOTALL).splitlines()
    found = []
    for text in texts:
        for match in re.finditer(r"`([^`]+)`|^  (sudo .+?)(?=  |$)", text, re.MULTILINE):
            command = match[1] or match[2]
            program, *rest = command.split()
            if program in PROGRAMS and rest:
                found.append((command, text[: match.start()]))
    # Blocks of commands, with the line that introduces them.
    for line, block in re.findall(r"([^\n]*)\n\n?```sh\n(.*?)```", operators, re.DOTALL):
        found += [(command.partition("  #")[0].strip(), line) for command in block.splitlines()]
    return found


def test_every_hint_is_a_command_that_its_reader_may_run() -> None:
    """By the list of sudo, without rights, or marked as root's."""
    commands = hints()
    assert len(commands) > 40
    assert [command for command, before in commands if refused(command, before)] == []
    assert refused("sudo systemctl start edge-rotator-force.service", "")
    assert refused("systemctl status litestream", "")
    assert refused("kill -CONT 7", "As root you may do more. Run")
    assert not refused("kill -CONT 7", "as root, run")


def claims() -> list[tuple[str, str]]:
    """Rows of the tables of docs/security.md that end in a column "held by": the claim, and that column."""
    rows, held = [], False
    for line in (ROOT / "docs/security.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            held = False
        elif cells[-1] == "held by":
            held = True
        elif held and not cells[0].startswith("---"):
            rows.append((cells[0], cells[-1]))
    return rows


def test_every_promise_of_security_names_the_test_that_holds_it() -> None:
    tests = {
        f"{file.name}::{name}"
        for folder in ("molecule", "tests")
        for file in (ROOT / folder).rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(claims()) > 30
    for claim, held_by in claims():
        named = re.findall(r"`(test_\w+\.py::test_\w+)`", held_by)
        assert named, f"no test holds: {claim}"
        assert set(named) <= tests, f"no such test: {set(named) - tests}"
