# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""The page of the fleet: one file of HTML that asks nothing of anybody, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import fleet_status
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

PARTS = Path(__file__).resolve().parents[2] / "files/status-page"


def span(seconds: float) -> str:
    """Render a duration: `45 s`, `12 min`, `5 h`, `29 d`."""
    whole = int(abs(seconds))
    for length, unit in ((172800, 86400), (7200, 3600), (120, 60)):
        if whole >= length:
            return f"{whole // unit} {({86400: 'd', 3600: 'h', 60: 'min'})[unit]}"
    return f"{whole} s"


def life(seconds: float | None) -> str:
    """Say how long something lasts; nothing where that is not known."""
    if seconds is None:
        return ""
    return span(seconds) if seconds > 0 else "none" if seconds == 0 else f"over for {span(seconds)}"


def _source(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def render(devices: list[dict[str, Any]], gathered: str) -> str:
    """Write the page of devices that fleet_status.fleet has read, at this time.

    Every text is escaped by the template; style and script are constant, and the page names their digests.
    """
    style, script = ((PARTS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(span=span, life=life)
    rank = fleet_status.LEVELS.index
    return environment.from_string((PARTS / "page.html.j2").read_text(encoding="utf-8")).render(
        devices=sorted(devices, key=lambda device: rank(device["level"])),
        counts=fleet_status.counts(devices),
        rank=rank,
        gathered=gathered,
        policy=policy,
        # They are ours, not a device's.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )
