# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What devices answer to `edge-rotator status --json`, read as a stranger's words: by a schema, cut short."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

LEVELS = ("critical", "unreachable", "no answer", "unknown", "warning", "ok")  # the worst first
MAX_ANSWER = 1048576  # characters; a device with a thousand databases says a fifth of that
MAX_TEXT = 300  # characters
MAX_PROBLEMS = 20
MAX_NUMBER = 1e11  # s; more than 3,000 years

# What should be as the inventory says, by this variable, or else the same on all devices.
SAME = {
    "rotator": "",
    "litestream": "litestream_version",
    "mode": "edge_rotator_delivery",
    "backend": "edge_rotator_backend",
    "endpoint": "edge_rotator_endpoint",
    "role_alias": "edge_rotator_role_alias",
}


def text(value: Any) -> str | None:
    """Return a text without control characters, not too long; None where it is none."""
    if not isinstance(value, str) or not value:
        return None
    cut = value[:MAX_TEXT]
    return "".join(sign if sign.isprintable() else "?" for sign in cut) + ("…" if value != cut else "")


def number(value: Any) -> float | None:
    """Return a number that can be an amount of seconds; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MAX_NUMBER < value < MAX_NUMBER:
        return None
    return float(value)


def below(told: Any, *names: str) -> Any:
    """Return what is found by these names, one in another; None where it is missing."""
    for name in names:
        told = told.get(name) if isinstance(told, dict) else None
    return told


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _load(answer: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what a rotator said, or why it cannot be understood."""
    stdout = answer.get("stdout")
    if not isinstance(stdout, str) or not stdout.strip():
        said = text(" ".join(str(answer.get("stderr") or answer.get("msg") or "").split()[:40]))
        return {}, said or "edge-rotator status printed nothing"
    if len(stdout) > MAX_ANSWER:
        return {}, f"the answer has more than {MAX_ANSWER} characters"
    try:
        told = json.loads(stdout, parse_constant=_refuse)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or told.get("level") not in LEVELS[-3:] + LEVELS[:1]:
        return {}, "the answer is none of edge-rotator's"
    return told, ""


def _replica(told: dict[str, Any]) -> dict[str, Any]:
    """Return the replica's age: of the database that was replicated longest ago; infinite, never."""
    databases = below(told, "replication", "databases")
    ages = []
    for each in databases.values() if isinstance(databases, dict) else []:
        age = below(each, "age_s")
        if age is None and isinstance(each, dict):
            ages.append(math.inf)
        elif (seconds := number(age)) is not None:
            ages.append(seconds)
    oldest = max(ages, default=None)
    return {
        "databases": len(ages),
        "replica_age_s": None if oldest is None or math.isinf(oldest) else oldest,
        "never_replicated": oldest == math.inf,
        "replica_limit_s": number(below(told, "replication", "limit_s")),
    }


def read(device: str, answer: Any) -> dict[str, Any]:
    """Read the registered result of one device's command; None stands for what the device does not tell."""
    answer = answer if isinstance(answer, dict) else {}
    told, why = _load(answer)
    problems = told.get("problems")
    found = [text(each) for each in problems[:MAX_PROBLEMS]] if isinstance(problems, list) else []
    current = below(told, "last_error", "current") is True
    level = told.get("level", "no answer")
    if answer.get("unreachable"):
        level, why = "unreachable", text(" ".join(str(answer.get("msg") or "").split()[:40])) or ""
    return {
        "device": text(device),
        "thing": text(told.get("thing")),
        "level": level,
        "problems": [each for each in [*found, why] if each],
        "fix": text(below(told, "last_error", "fix")) if current else None,
        "credentials_s": number(below(told, "credentials", "remaining_s")),
        "certificate_s": number(below(told, "certificate", "remaining_s")),
        "last_rotation": text(told.get("last_rotation")),
        **_replica(told),
        # It says so since 2.0.0.
        "rotator": text(told.get("version")) or ("older" if told else None),
        "litestream": text(below(told, "replication", "version")),
        "mode": text(told.get("mode")),
        "backend": text(below(told, "token", "backend")),
        "endpoint": text(told.get("endpoint")),
        "role_alias": text(told.get("role_alias")),
    }


def drift(devices: list[dict[str, Any]], wanted: dict[str, dict[str, str]]) -> None:
    """Tell of every device in what it differs from what is wanted of it, or else from most of the fleet."""
    most = {}
    for name in SAME:
        counted = Counter(device[name] for device in devices if device[name])
        # Of equally many the last by name, so that two runs say the same.
        most[name] = max(counted, key=lambda value: (counted[value], value), default=None)
    for device in devices:
        asked = wanted.get(device["device"], {})
        device["drift"] = [
            {"what": name, "is": device[name], "wanted": goal}
            for name in SAME
            if device[name] and device[name] != (goal := asked.get(name, most[name]))
        ]


def fleet(answers: dict[str, Any], wanted: dict[str, dict[str, str]] | None = None) -> list[dict[str, Any]]:
    """Read all answers, in the order in which they are given."""
    devices = [read(device, answer) for device, answer in answers.items()]
    drift(devices, wanted or {})
    return devices


def counts(devices: list[dict[str, Any]]) -> dict[str, int]:
    """Count the devices by level, the worst first; levels of none are left out."""
    counted = Counter(device["level"] for device in devices)
    return {level: counted[level] for level in LEVELS if counted[level]}
