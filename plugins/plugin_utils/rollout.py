# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""A change that goes through a fleet ring after ring: who is next, how each device stands, when it stops.

What is known of every device is kept in a report, so that a run that ends in any way can be gone on with.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils import device_status
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace

# How a device stands, from best to worst: the rotator's levels, and two of those who do not tell.
RANKS = {"ok": 0, "warning": 1, "critical": 2, "unknown": 2, "silent": 3, "unreachable": 4}

# What becomes of a device. Those that are done are not in the list of who is left.
DONE = ("better", "same")
BAD = ("failed", "vanished", "worse")
# Their change began: what they were before that is what they are compared with, also in a later run.
TOUCHED = (*BAD, "begun")
BEGUN = "its change began, and how it ended is not known: the connection was lost, or the run was ended"
NAMED = 3  # databases in a reason
KEYS = {"name", "size", "soak", "tolerate"}

# A number of its own in a problem's text, as the seconds that a clock is off: it changes from look to look.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?")
_NUMBER = re.compile(r"(?<![\w./-])[-+]?\d+(\.\d+)?(?![\w/-])")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,60}")


class RingError(Exception):
    """What is wrong with the rings, as one sentence with its fix."""


def amount(value: Any, whole: int, what: str) -> int:
    """Return how many of `whole` devices a number or a percentage means, rounded down. Raises RingError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"(\d{1,2}|100)%", value):
        return whole * int(value[:-1]) // 100
    raise RingError(f'{what} is {value!r}: give a number of devices, or a percentage like "10%"')


def rings_of(wanted: Any, soak: Any) -> list[dict[str, Any]]:
    """Return the rings with every key: `name`, `size` (None where it has none), `soak` (s), `tolerate`.

    Raises RingError.
    """
    if not isinstance(wanted, list) or not wanted:
        raise RingError("rollout_rings is empty or no list: give the rings in their order, each with a name")
    rings = []
    for ring in wanted:
        if not isinstance(ring, dict) or not isinstance(ring.get("name"), str) or not ring["name"]:
            raise RingError(f"rollout_rings has {ring!r}: give each ring a name")
        name = ring["name"]
        if ring.keys() - KEYS:
            raise RingError(
                f"rollout_rings gives {name} {', '.join(sorted(ring.keys() - KEYS))}, which no ring has: "
                f"there are {', '.join(sorted(KEYS))}"
            )
        full = {"name": name, "size": None, "soak": soak, "tolerate": 0, **ring}
        if full["size"] is not None:
            amount(full["size"], 0, f"the size of ring {name} in rollout_rings")
        amount(full["tolerate"], 0, f"tolerate of ring {name} in rollout_rings")
        try:
            full["soak"] = int(full["soak"])
        except (TypeError, ValueError):
            full["soak"] = -1
        if full["soak"] < 0:
            raise RingError(
                f"the soak time of ring {name} is no number of seconds: mend rollout_soak or the ring's"
            )
        rings.append(full)
    names = [ring["name"] for ring in rings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RingError(f"rollout_rings has {twice[0]} twice: give each ring a name of its own")
    return rings


def deal(rings: list[dict[str, Any]], named: dict[str, str], levels: dict[str, str]) -> dict[str, list[str]]:
    """Return the devices of each ring, all of them by rings' names, in order of the inventory.

    `named` has every device, with the ring that its variable names, or nothing. Those are dealt to the rings
    that have a size, by their `levels` the best first, and the last ring takes the rest. Raises RingError.
    """
    known = [ring["name"] for ring in rings]
    for device, name in named.items():
        if name and name not in known:
            raise RingError(
                f"rollout_ring of {device} is '{name}', which is not in rollout_rings ({', '.join(known)}): "
                "name one of those, or add it"
            )
    dealt: dict[str, list[str]] = {name: [] for name in known}
    unnamed = [device for device, name in named.items() if not name]
    # The ones that are well first: a ring of devices that are off, or ill already, would prove nothing.
    unnamed.sort(key=lambda device: RANKS[levels[device]])
    for ring in rings:
        dealt[ring["name"]] += [device for device, name in named.items() if name == ring["name"]]
        if ring["size"] is not None and unnamed:
            count = max(1, amount(ring["size"], len(named), "size"))
            dealt[ring["name"]] += unnamed[:count]
            unnamed = unnamed[count:]
    dealt[known[-1]] += unnamed
    order = list(named)
    return {name: sorted(devices, key=order.index) for name, devices in dealt.items()}


def seen(answer: Any) -> dict[str, Any]:
    """Return what one look at a device told: `level`, `problems`, `late`, `ages`, `versions`.

    `answer` is the registered result of the look; nothing in it is trusted. The level is one of RANKS.
    """
    nothing: dict[str, Any] = {"problems": [], "late": [], "ages": {}, "versions": {}}
    if not isinstance(answer, dict) or "stdout" not in answer:
        return {"level": "unreachable", **nothing}
    *lines, text = [*str(answer["stdout"]).split("\n", 2), "", "", ""][:3]
    versions = {
        program: line
        for program, line in zip(("litestream", "edge-rotator"), lines, strict=True)
        if _VERSION.fullmatch(line)
    }
    try:
        status = device_status.parse(text)
    except ValueError as error:
        return {**nothing, "level": "silent", "problems": [str(error)], "versions": versions}
    databases = status["replication"]["databases"]
    return {
        "level": status["level"],
        "problems": status["problems"],
        "late": sorted(path for path, each in databases.items() if each["age_s"] is None),
        "ages": {path: each["age_s"] for path, each in databases.items() if each["age_s"] is not None},
        "versions": versions,
    }


def kind(problem: str) -> str:
    """Return a problem without the times and numbers that change from look to look."""
    return _NUMBER.sub("N", _TIME.sub("T", problem))


def verdict(before: dict[str, Any], after: dict[str, Any], age: float | None = None) -> tuple[str, str]:
    """Compare two looks at a device: one of DONE, `worse` or `vanished`, and why.

    `age` is how many seconds ago every database has to have been replicated at most. Without it each has to
    be replicated since Litestream started, unless it was not before either.
    """
    if after["level"] == "unreachable":
        return "vanished", "it answered before its change, and does not any more"
    said = "; ".join(after["problems"])
    least, now = RANKS[before["level"]], RANKS[after["level"]]
    if before.get("mended") and now > RANKS["warning"]:
        return "worse", f"it is {after['level']}, and was to be made well: {said}"
    if before["level"] == "silent":
        # Nothing was known: a warning is no reason to stop, as after site.yml.
        if now > RANKS["warning"]:
            still = after["level"] == "silent"
            return ("same" if still else "worse"), f"it is {after['level']}{' as before' * still}: {said}"
    else:
        if now > least:
            return "worse", f"it was {before['level']} and is {after['level']}: {said}"
        known = {kind(problem) for problem in before["problems"]}
        if new := [problem for problem in after["problems"] if kind(problem) not in known]:
            return "worse", f"it is {after['level']} as before, and new is: {'; '.join(new)}"
    if late := [path for path in after["late"] if path not in before["late"]]:
        return "worse", f"not replicated since Litestream started: {some(late)}"
    if age is not None and (old := [path for path, seconds in after["ages"].items() if seconds >= age]):
        return "worse", f"last replicated more than {age:g} s ago: {some(old)}"
    better = now < least or len(after["problems"]) < len(before["problems"])
    return "better" if better else "same", " ".join([after["level"], *moves(before, after)])


def some(names: list[str]) -> str:
    """Name the first few."""
    more = names[NAMED:]
    return ", ".join(names[:NAMED]) + (f" and {len(more)} more" if more else "")


def moves(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say which program has another version than before."""
    pairs = [
        (program, before["versions"].get(program, "none"), after["versions"].get(program, "none"))
        for program in ("litestream", "edge-rotator")
    ]
    return [f"{program} {old} -> {new}" for program, old, new in pairs if old != new]


class Report:
    """What is known of every device, in a JSON file, and beside it the names of those that are left."""

    def __init__(self, path: str, done: tuple[str, ...] = DONE, keys: tuple[str, ...] = ("rings",)) -> None:
        """Read the file PATH.json, if there is one; PATH is for --limit. Raises RingError.

        `done` are the verdicts of those who are not left, `keys` mappings that it has beside that of devices.
        """
        self.done = done
        self.list = Path(path)
        self.file = Path(f"{path}.json")
        self.content: dict[str, Any] = {key: {} for key in ("devices", *keys)} | {"stopped": None}
        try:
            told = json.loads(self.file.read_text())
            self.content = {key: told[key] for key in self.content}
            if not all(each["verdict"] for each in self.devices.values()):
                raise ValueError("a device without a verdict")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RingError(f"{self.file} cannot be read ({error}): remove it to begin anew") from error

    @property
    def devices(self) -> dict[str, dict[str, Any]]:
        """What is known of each device: ring, verdict, reason, at, before, after."""
        known: dict[str, dict[str, Any]] = self.content["devices"]
        return known

    @property
    def left(self) -> list[str]:
        """Devices that a next run has to do with."""
        return [device for device, known in self.devices.items() if known["verdict"] not in self.done]

    def note(self, device: str, judged: str, reason: str, **more: Any) -> None:
        """Note what has become of a device."""
        known = self.devices.setdefault(device, {"ring": None, "before": None, "after": None})
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        known.update(verdict=judged, reason=reason, at=at, **more)

    def baseline(self, device: str, now: dict[str, Any]) -> dict[str, Any]:
        """Return what a device is compared with: what it was before its change began, in whichever run.

        Else the next run would take for normal what this one broke. One that is well again is as it is now.
        """
        known = self.devices.get(device, {})
        before: dict[str, Any] | None = known.get("before")
        broken = before and known["verdict"] in TOUCHED and verdict(before, now)[0] not in DONE
        return before if before and broken else now

    def line(self, device: str) -> str:
        """Return one line on a device, for people."""
        known = self.devices[device]
        return f"{device:16} {known['ring'] or '-':10} {known['verdict']:9} {known['reason']}".rstrip()

    def write(self) -> None:
        """Write both files whole. The list is removed when nobody is left: an empty one would mean all."""
        replace(str(self.file), json.dumps(self.content, indent=2, sort_keys=True) + "\n", 0o644)
        if self.left:
            replace(str(self.list), "".join(f"{device}\n" for device in self.left), 0o644)
        else:
            self.list.unlink(missing_ok=True)
