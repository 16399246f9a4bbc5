"""What systemd says of units. Only it can tell that no tick comes any more: all else runs at one."""

from __future__ import annotations

import re
import subprocess
import time
from typing import NamedTuple

from edge_rotator.lock import LIMIT

TIMER, SERVICE = "edge-rotator.timer", "edge-rotator.service"
_PROPERTIES = (
    "LoadState,ActiveState,UnitFileState,Result,TimersMonotonic,ExecCondition,ExecMainStatus,"
    "ActiveEnterTimestampMonotonic,ConditionTimestampMonotonic"
)
_TIMEOUT = 10.0  # s
_SECONDS = {"h": 3600, "min": 60, "s": 1}
_LONGEST_TICK = 14400  # s; a third of the longest life time
_SYSTEMDS_OWN = range(200, 256)  # exit codes of what it could not even start, such as 243/CREDENTIALS


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


class Ticks(NamedTuple):
    """What systemd tells."""

    known: bool  # whether systemd answers
    runs: bool  # whether ticks do what they should; True if not known
    ago: float | None  # s since the last tick of this boot, as far as systemd remembers
    error: str  # class of what speaks against it, or empty
    detail: str


def ticks() -> Ticks:
    """Ask whether the timer ticks."""
    try:
        timer, service = show(_PROPERTIES, TIMER, SERVICE)
        return _judge(timer, service, time.monotonic())
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as exc:
        return Ticks(False, True, None, "", f"systemctl show {TIMER}: {type(exc).__name__}")


def _judge(timer: dict[str, str], service: dict[str, str], now: float) -> Ticks:
    last = int(service["ConditionTimestampMonotonic"]) / 1e6
    ago = now - last if last else None
    since = now - max(last, int(timer["ActiveEnterTimestampMonotonic"]) / 1e6)
    every = re.search(r"OnUnitInactiveUSec=([^;]*)", timer.get("TimersMonotonic", ""))
    parts = re.findall(r"(\d+)(h|min|s)\b", every[1]) if every else []
    tick = sum(int(number) * _SECONDS[unit] for number, unit in parts) or _LONGEST_TICK

    enabled = timer["UnitFileState"].startswith("enabled")
    states = [timer["LoadState"], timer["ActiveState"], "enabled" if enabled else timer["UnitFileState"]]
    wrong = [word for word in states if word not in ("loaded", "active", "enabled", "")]
    # A timer fails where its unit cannot be loaded: then that is what has to be repaired.
    unloaded = timer["ActiveState"] == "failed" and service["LoadState"] != "loaded"
    if (timer["LoadState"] != "loaded" or timer["ActiveState"] != "active") and not unloaded:
        return Ticks(True, False, ago, "timer_stopped", f"{TIMER} is {' and '.join(dict.fromkeys(wrong))}")
    broken = _broken(service)
    if broken:
        return Ticks(True, False, ago, "unit_broken", f"{SERVICE} {broken}")
    if since > tick + 2 * LIMIT:  # a run that has to be killed takes longer than one LIMIT
        detail = f"{TIMER} has not ticked for {since:.0f} s; {SERVICE} is {service['ActiveState']}"
        return Ticks(True, False, ago, "timer_stopped", detail)
    if wrong:
        return Ticks(True, True, ago, "timer_stopped", f"{TIMER} is {wrong[0]}: a reboot ends it")
    return Ticks(True, True, ago, "", "")


def _broken(service: dict[str, str]) -> str:
    """Say why systemd cannot start the rotator; empty if it can."""
    if service["LoadState"] != "loaded":
        return f"is {service['LoadState']}"
    if service["Result"] == "resources":
        return "could not be started: resources"
    # To systemd a condition that could not be started is one that is not met: the unit does not fail.
    condition = re.search(r"code=exited ; status=(\d+)", service.get("ExecCondition", ""))
    for code in (int(condition[1]) if condition else 0, int(service.get("ExecMainStatus") or 0)):
        if code in _SYSTEMDS_OWN:
            return f"could not be started: exit code {code}"
    return ""
