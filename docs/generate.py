#!/usr/bin/env python3
"""Write docs/variables.md from the roles' argument specs; with --check, fail where it has drifted."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs/variables.md"
ROLES = ["pkcs11", "device_identity", "litestream", "edge_rotator", "health_check"]


def plain(text: str) -> str:
    """Ansible's markup as Markdown, fit for a table cell."""
    text = re.sub(r"[OV]\(([^)]*)\)", r"`\1`", text)
    return text.replace("|", "\\|").replace("\n", " ")


def shown(value: Any) -> str:
    """Show a default as it is written in YAML; what is computed is only said to be so."""
    if isinstance(value, str) and "{{" in value:
        return "`inventory_hostname`" if "inventory_hostname" in value else "derived"
    if value in ("", [], {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(role: str) -> list[str]:
    """Heading, purpose and variables of one role."""
    spec = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    main = spec["argument_specs"]["main"]
    lines = [f"## {role}", "", *main["description"], ""]
    lines += ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in main["options"].items():
        kind = option["type"]
        if "choices" in option:
            kind = ", ".join(f"`{choice}`" for choice in option["choices"])
        elif kind == "list":
            kind = f"list of {option['elements']}"
        meaning = plain(str(option["description"]))
        lines.append(f"| `{name}` | {kind} | {shown(option['default'])} | {meaning} |")
    return [*lines, ""]


def page() -> str:
    """Put the whole page together."""
    lines = [
        "# Variables",
        "",
        "Made by `make docs` from `roles/*/meta/argument_specs.yml`; a test fails where it drifts.",
        "Variables marked *Set by playbooks/site.yml* follow another role's: set that one instead",
        "(`playbooks/vars/appliance.yml` shows which).",
        "",
    ]
    for role in ROLES:
        lines += table(role)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if not TARGET.is_file() or TARGET.read_text() != page():
            print(f"{TARGET} does not show the argument specs any more: run make docs", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
