"""Docs that cannot drift: generated pages are current, links and the files and targets they name exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
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
        homes = ("playbooks/{}.yml", "roles/{}", "plugins/modules/{}.py", "plugins/filter/{}.yml")
        assert any((ROOT / home.format(name)).exists() for home in homes), f"{page}: {name}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, f"{page}: make {target}"


def test_every_error_class_has_its_symptom() -> None:
    """An operator who searches the page for what the journal says finds something."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    missing = [name for name in KINDS if f"`{name}`" not in text]
    assert not missing


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
