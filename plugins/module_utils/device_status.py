# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What `edge-rotator status --json` says, read on the control node as data: devices are not trusted."""

from __future__ import annotations

import json
from typing import Any

LEVELS = ("ok", "warning", "critical", "unknown")
LARGEST = 4194304  # characters of an answer; 30,000 databases need them
LONGEST = 500  # characters of a text; what is longer is cut
MOST = 100  # entries of a list
HIGHEST = 1e12  # a number, in seconds 30,000 years

# What is read of an answer: a type, a list of texts, or a mapping with these keys or with any (`*`).
# The rest is dropped.
SCHEMA: dict[str, Any] = {
    "level": str,
    "problems": [str],
    "thing": str,
    "version": str,
    "mode": str,
    "endpoint": str,
    "role_alias": str,
    "last_rotation": str,
    "token": {"backend": str},
    "credentials": {"remaining_s": float},
    "certificate": {"remaining_s": float},
    "last_error": {"fix": str, "current": bool},
    "replication": {"version": str, "limit_s": float, "databases": {"*": {"age_s": float}}},
}


def parse(text: str) -> dict[str, Any]:
    """Return what an answer says: every key of SCHEMA, None (lists and mappings empty) where it says nothing.

    Raises ValueError, with a reason in words of our own, for anything that no rotator says.
    """
    if len(text) > LARGEST:
        raise ValueError(f"its status has more than {LARGEST} characters")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its status is no JSON") from None
    status: dict[str, Any] = _read(told, SCHEMA, "status")
    if status["level"] not in LEVELS:
        raise ValueError(f"its status has the level {status['level']!r}, not one of {', '.join(LEVELS)}")
    return status


def nothing() -> dict[str, Any]:
    """Return what `parse` makes of an answer that says nothing."""
    status: dict[str, Any] = _read({}, SCHEMA, "status")
    return status


def plain(text: str) -> str:
    """Return a text of a device as one line of bounded length that moves no cursor."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:LONGEST])


def _read(told: Any, wanted: Any, where: str) -> Any:
    if isinstance(wanted, dict):
        return _mapping({} if told is None else told, wanted, where)
    if isinstance(wanted, list):
        told = [] if told is None else told
        if not isinstance(told, list):
            raise ValueError(f"its {where} is no list")
        return [_read(each, wanted[0], where) for each in told[:MOST] if each is not None]
    if told is None:
        return None
    if wanted is float and isinstance(told, (int, float)) and not isinstance(told, bool):
        if not -HIGHEST < told < HIGHEST:
            raise ValueError(f"its {where} is no number that can be true")
        return float(told)
    if wanted is float or not isinstance(told, wanted):
        raise ValueError(f"its {where} is no {'number' if wanted is float else wanted.__name__}")
    return plain(told) if wanted is str else told


def _mapping(told: Any, wanted: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise ValueError(f"its {where} is no mapping")
    if "*" in wanted:
        return {plain(key): _read(value, wanted["*"], f"{where} entry") for key, value in told.items()}
    return {key: _read(told.get(key), inner, key) for key, inner in wanted.items()}
