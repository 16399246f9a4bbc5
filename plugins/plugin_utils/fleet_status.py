# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What devices answer to `edge-rotator status --json`, read as a stranger's words: by a schema, cut short."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils import device_status
from ansible_collections.edge_litestream.appliance.plugins.module_utils.device_status import plain

LEVELS = ("critical", "unreachable", "no answer", "unknown", "warning", "ok")  # the worst first
MAX_PROBLEMS = 20
MAX_WORDS = 40  # of what Ansible says

# What should be as the inventory says, by this variable, or else the same on all devices.
SAME = {
    "rotator": "",
    "litestream": "litestream_version",
    "mode": "edge_rotator_delivery",
    "backend": "edge_rotator_backend",
    "endpoint": "edge_rotator_endpoint",
    "role_alias": "edge_rotator_role_alias",
}


def _load(answer: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what a rotator said, or why it cannot be understood."""
    stdout = answer.get("stdout")
    if not isinstance(stdout, str) or not stdout.strip():
        said = _words(answer.get("stderr") or answer.get("msg"))
        return {}, said or "edge-rotator status printed nothing"
    try:
        return device_status.parse(stdout), ""
    except ValueError as error:
        return {}, str(error)


def _words(said: Any) -> str:
    words: str = plain(" ".join(str(said or "").split()[:MAX_WORDS]))
    return words


def _replica(replication: dict[str, Any]) -> dict[str, Any]:
    """Return the replica's age: of the database that was replicated longest ago."""
    ages = [database["age_s"] for database in replication["databases"].values()]
    known = [age for age in ages if age is not None]
    never = len(known) < len(ages)
    return {
        "databases": len(ages),
        "replica_age_s": max(known, default=None) if not never else None,
        "never_replicated": never,
        "replica_limit_s": replication["limit_s"],
    }


def read(device: str, answer: Any) -> dict[str, Any]:
    """Read the registered result of one device's command; None stands for what the device does not tell."""
    answer = answer if isinstance(answer, dict) else {}
    told, why = _load(answer)
    level = told.get("level", "no answer")
    rotator = told.get("version") or ("older" if told else None)  # it says so since 2.0.0
    if answer.get("unreachable"):
        level, why = "unreachable", _words(answer.get("msg"))
    told = told or device_status.nothing()
    return {
        "device": plain(device),
        "thing": told["thing"],
        "level": level,
        "problems": [each for each in [*told["problems"][:MAX_PROBLEMS], why] if each],
        "fix": told["last_error"]["fix"] if told["last_error"]["current"] else None,
        "credentials_s": told["credentials"]["remaining_s"],
        "certificate_s": told["certificate"]["remaining_s"],
        "last_rotation": told["last_rotation"],
        **_replica(told["replication"]),
        "rotator": rotator,
        "litestream": told["replication"]["version"],
        "mode": told["mode"],
        "backend": told["token"]["backend"],
        "endpoint": told["endpoint"],
        "role_alias": told["role_alias"],
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
