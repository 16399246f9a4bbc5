"""One journal line per event, in logfmt, with stable names.

Under systemd ($JOURNAL_STREAM is set) a line starts with its sd-daemon priority, so that
`journalctl -p warning` finds it.
"""

from __future__ import annotations

import os
import sys

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6


def _quote(value: object) -> str:
    """Render one value: bare if it is one safe word, else quoted; control characters escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"
    text = str(value)
    if text and all(c.isalnum() or c in "-_./:+@," for c in text):
        return text
    body = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in body) + '"'


def event(name: str, level: int = INFO, **fields: object) -> None:
    """Write `event=NAME key=value …` to stderr; fields that are None are left out."""
    prefix = f"<{level}>" if os.environ.get("JOURNAL_STREAM") else ""
    words = [f"event={name}"]
    words += [f"{key}={_quote(value)}" for key, value in fields.items() if value is not None]
    # A closed stderr must not stop a rotation.
    try:
        sys.stderr.write(prefix + " ".join(words) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return
