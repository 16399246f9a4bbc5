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

# What becomes of a database, and of a device, whose verdict is the first of its databases' in this order.
DONE = ("restored", "newer", "same")
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


def planned(report: Report, devices: list[str], request: str, again: bool) -> list[str]:
    """Note who waits; return the devices for which the same was done before.

    Where nobody was left, the restore of before is over, and this is another one.
    """
    done, again = [], again or not report.left
    for device in devices:
        known = report.devices.get(device, {})
        if not again and known.get("verdict") in DONE and known.get("request") == request:
            done.append(device)
        else:
            report.note(device, "waiting", WAITING, request=request)
    return done


def verdict(results: Any, failure: str) -> tuple[str, str]:
    """Return what has become of a device, and its reason, by what each database's restore returned.

    What a device returned is data: of it a known word and paths are taken, made plain.
    """
    if failure:
        return "failed", plain(" ".join(str(failure).split()))
    each = results if isinstance(results, list) else []
    if not each or not all(isinstance(one, dict) and one.get("verdict") in DONE for one in each):
        return "vanished", LOST
    words = [
        f"{plain(str(one.get('database')))}: {one['verdict']}"
        + (f" (the old one is in {plain(str(one['aside']))})" if one.get("aside") else "")
        for one in each
    ]
    return min((one["verdict"] for one in each), key=DONE.index), ", ".join(words)


def summary(report: Report, devices: list[str], confirm: str) -> list[str]:
    """Sum up, for people: how many of which verdict, who is left, and how to go on by which variable."""
    verdicts = [report.devices[device]["verdict"] for device in devices if device in report.devices]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in sorted(set(verdicts)))
    left = [line(report, device) for device in devices if device in report.left]
    lines = [f"{len(devices)} devices: {counts}", *left]
    if report.left:
        lines += [f"left: {len(report.left)}; go on with --limit @{report.list} -e {confirm}=@{report.list}"]
    return lines
