# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""A restore of many devices: what has become of each is kept, so that it can be gone on with."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils.device_status import plain
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.rollout import Report

# What becomes of a database, and of a device, whose verdict is the last of its databases' in this order.
VERDICTS = ("same", "newer", "restored", "differs")
# Who is not left: to be restored again would do harm. One that is unwell is mended by hand.
DONE = ("restored", "newer", "same", "unwell")
KEPT = {
    "newer": "the replica lacks rows that it has",
    "differs": (
        "it stays, and lacks rows that the replica has, which may have been deleted or changed here: "
        "look at both, and say restore_over=true to have the replica's, with this one moved aside"
    ),
}
WAITING = "its turn has not come, or it dropped out of the play: look above"
LOST = "the connection to it was lost: what went on there may have ended well, and the next run finds out"


def line(report: Report, device: str) -> str:
    """Return one line on a device, for people."""
    known = report.devices[device]
    return f"{device:16} {known['verdict']:9} {known['reason']}".rstrip()


@contextlib.contextmanager
def opened(path: str) -> Iterator[Report]:
    """Report that nobody else has; several devices end at once, each in a process of its own."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield Report(path, DONE, ())
    finally:
        os.close(directory)


def planned(report: Report, devices: list[str]) -> None:
    """Note who waits: whoever the run is limited to, whatever was noted before.

    A run that goes on with an earlier one is limited by the list of who is left, where nobody is who is done.
    """
    for device in devices:
        report.note(device, "waiting", WAITING)


def verdict(results: Any, failure: str, warning: str = "") -> tuple[str, str]:
    """Return what has become of a device, and its reason, by what each database's restore returned.

    What failed after the last of them makes it unwell; a warning is told. What a device returned is data: of
    it a known word and paths are taken, made plain.
    """
    each = results if isinstance(results, list) else []
    told = [one for one in each if isinstance(one, dict) and one.get("verdict") in VERDICTS]
    words = [
        f"{plain(str(one.get('database')))}: {one['verdict']}"
        + (f" (the old one is in {plain(str(one['aside']))})" if one.get("aside") else "")
        + (f" ({KEPT[one['verdict']]})" if one["verdict"] in KEPT else "")
        for one in told
    ]
    whole = bool(each) and len(told) == len(each)
    said = plain(" ".join(str(failure or warning).split()))
    if failure:
        words.insert(0, said)
    elif not whole:
        words.insert(0, LOST)
    elif said:
        words.append(said)
    word = max((one["verdict"] for one in told), key=VERDICTS.index, default="")
    if not whole:
        word = "failed" if failure else "vanished"
    elif failure and word != "differs":
        word = "unwell"
    return word, ", ".join(words)


def unfinished(report: Report, devices: list[str]) -> list[str]:
    """Devices that are left, and those that are unwell: what somebody has to look at."""
    left = set(report.left)
    known = report.devices
    return [each for each in devices if each in left or known.get(each, {}).get("verdict") == "unwell"]


def summary(report: Report, devices: list[str], confirm: str) -> list[str]:
    """Sum up, for people: how many of which verdict, who is left, and how to go on by which variable."""
    verdicts = [report.devices[device]["verdict"] for device in devices if device in report.devices]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in sorted(set(verdicts)))
    lines = [
        f"{len(devices)} devices: {counts}",
        *(line(report, device) for device in unfinished(report, devices)),
    ]
    if report.left:
        lines += [f"left: {len(report.left)}; go on with --limit @{report.list} -e {confirm}=@{report.list}"]
    return lines
