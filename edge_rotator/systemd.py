"""What systemd says of units."""

from __future__ import annotations

import re
import subprocess

_TIMEOUT = 10.0  # s


def show(properties: str, *units: str) -> list[dict[str, str]]:
    """Return the properties of each unit by name; those of a timer's several triggers become one text.

    Raises OSError or SubprocessError where systemd does not answer.
    """
    text = subprocess.run(  # noqa: S603 (the configuration is root's)
        ["/usr/bin/systemctl", "show", f"--property={properties}", *units],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    ).stdout
    return [_unit(block) for block in text.strip().split("\n\n")]


def _unit(block: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in block.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]} {value}" if name in found else value
    return found


def restarts(service: str) -> int | None:
    """How often systemd has started a service again by itself; None where it does not say."""
    try:
        return int(show("NRestarts", service)[0]["NRestarts"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None


def environment(service: str, variable: str) -> str:
    """Return a variable that a service's unit sets; empty where it sets none, or systemd does not answer."""
    try:
        text = show("Environment", service)[0].get("Environment", "")
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(rf"(?:^|\s){variable}=(\S+)", text)
    return found[1] if found else ""
