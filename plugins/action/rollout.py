# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Judges a roll-out on the control node; module rollout has the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.module_utils.device_status import plain
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import rollout
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.rollout import Report, RingError

OFF = "it did not answer before its change, and nothing was changed"
SILENT = "it does not answer, and its change has begun in an earlier run"


class ActionModule(ActionBase):
    """What Ansible loads."""

    _requires_connection = False

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module's documentation lists."""
        super().run(tmp, task_vars)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "required": True, "choices": [*STEPS]},
                "report": {"type": "str", "required": True},
                "answers": {"type": "dict", "default": {}},
                "rings": {"type": "list", "elements": "dict"},
                "soak": {"type": "int"},
                "named": {"type": "dict"},
                "fleet": {"type": "list", "elements": "str", "default": []},
                "mends": {"type": "bool", "default": False},
                "ring": {"type": "dict"},
                "before": {"type": "dict"},
                "failures": {"type": "dict", "default": {}},
                "refused": {"type": "dict", "default": {}},
                "age": {"type": "float"},
            },
            required_if=[
                ("state", "planned", ["rings", "soak", "named"]),
                ("state", "begun", ["ring"]),
                ("state", "judged", ["ring", "before"]),
            ],
        )
        path = str(Path(args["report"]).expanduser().absolute())
        try:
            report = Report(path)
            result = STEPS[args["state"]](args, report)
            if not self._task.check_mode:
                report.write()
        except (RingError, OSError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        return {"changed": False, "report": path, **result}


def planned(args: dict[str, Any], report: Report) -> dict[str, Any]:
    """Deal the devices to the rings."""
    named = {device: str(name or "") for device, name in args["named"].items()}
    levels = {device: rollout.seen(args["answers"].get(device))["level"] for device in named}
    reachable = {device for device, level in levels.items() if level != "unreachable"}
    if not reachable:
        raise RingError("no device answers, so none was changed: see the connection, docs/reach.md")
    rings = rollout.rings_of(args["rings"], args["soak"])
    dealt = rollout.deal(rings, named, levels)
    report.content.update(stopped=None, rings={})
    for device in report.devices.keys() - args["fleet"] if args["fleet"] else []:
        del report.devices[device]
    for ring in rings:
        ring["devices"] = dealt.pop(ring["name"])
        # Whether somebody is next who would be changed on this ring's word.
        ring["answered"] = bool(reachable.intersection(ring["devices"]))
        ring["followed"] = any(reachable.intersection(devices) for devices in dealt.values())
        for device in ring["devices"]:
            if report.devices.get(device, {}).get("verdict") in rollout.TOUCHED:
                report.devices[device]["ring"] = ring["name"]
            else:
                report.note(
                    device, "waiting", "its ring has not begun", ring=ring["name"], before=None, after=None
                )
    rings = [ring for ring in rings if ring["devices"]]
    lines = [f"ring {ring['name']}: {', '.join(ring['devices'])}" for ring in rings]
    return {"rings": rings, "lines": lines}


def begun(args: dict[str, Any], report: Report) -> dict[str, Any]:
    """Note what the devices of a ring are before their change, and who of them is off."""
    ring = args["ring"]
    before, refused = {}, False
    for device in ring["devices"]:
        now = rollout.seen(args["answers"].get(device))
        if now["level"] != "unreachable" and (why := args["refused"].get(device)):
            # One whose change began in an earlier run is still to be compared with what it was before that.
            known = report.devices.get(device, {}).get("verdict")
            refused = True
            judged_as = known if known in rollout.BAD else "failed" if known == "begun" else "refused"
            report.note(device, judged_as, plain(" ".join(str(why).split())), ring=ring["name"])
        elif now["level"] != "unreachable":
            before[device] = {**report.baseline(device, now), "mended": args["mends"]}
            report.note(device, "begun", rollout.BEGUN, ring=ring["name"], before=before[device], after=None)
        elif report.devices.get(device, {}).get("verdict") in rollout.TOUCHED:
            report.note(device, "vanished", SILENT, ring=ring["name"])
        else:
            report.note(device, "off", OFF, ring=ring["name"])
    lines = [report.line(device) for device in ring["devices"] if device not in before]
    if before or not (ring["followed"] or (ring["answered"] and not refused)):
        return {"before": before, "lines": lines}
    report.content["stopped"] = (
        f"no device of ring {ring['name']} answers and is fit for the change, so nothing would be "
        "known of it: "
        f"give another device this ring (rollout_ring), or leave it out, --limit 'all:!{ring['devices'][0]}'"
    )
    return {"failed": True, "msg": [report.content["stopped"], *lines]}


def judged(args: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compare the devices of a ring with what they were; fail where too many are not what they were."""
    ring, before = args["ring"], args["before"]
    for device, was in before.items():
        failure, answer = args["failures"].get(device), args["answers"].get(device)
        # Who was dropped has the result of an earlier ring, where it was skipped.
        after = rollout.seen(answer) if answer and not answer.get("skipped") else None
        if failure:
            found = "failed", plain(" ".join(str(failure).split()))
        elif after is None:
            found = "vanished", "the connection to it, or to the host that builds for it, was lost"
        else:
            found = rollout.verdict(was, after, args["age"])
        report.note(device, *found, ring=ring["name"], before=was, after=after)
    bad = [device for device in before if report.devices[device]["verdict"] in rollout.BAD]
    allowed = rollout.amount(ring["tolerate"], len(before), "tolerate")
    report.content["rings"][ring["name"]] = {"changed": len(before), "bad": len(bad), "tolerated": allowed}
    lines = [report.line(device) for device in ring["devices"] if device in report.devices]
    if len(bad) <= allowed:
        return {"bad": bad, "lines": lines}
    stop = (
        f"ring {ring['name']} stops the roll-out: of {len(before)} devices {len(bad)} failed, vanished or are"
        f" worse than before their change, and {allowed} may"
    )
    report.content["stopped"] = stop
    return {"failed": True, "bad": bad, "msg": [stop, *lines, *how(report)]}


def ended(args: dict[str, Any], report: Report) -> dict[str, Any]:
    """Sum the roll-out up; fail where a device that was changed is not what it was."""
    devices = [device for ring in args["rings"] for device in ring["devices"] if device in report.devices]
    verdicts = [report.devices[device]["verdict"] for device in devices]
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in sorted(set(verdicts)))
    left = [report.line(device) for device in devices if device in report.left]
    lines = [f"the roll-out has ended: {counts}", *left, *how(report)]
    failed = any(each in (*rollout.BAD, "refused") for each in verdicts)
    if not failed and not any(each in rollout.DONE for each in verdicts):
        return {"failed": True, "msg": ["no device was changed", *lines]}
    return {"failed": True, "msg": lines} if failed else {"lines": lines}


def how(report: Report) -> list[str]:
    """Say how to go on."""
    if not report.left:
        return []
    return [
        f"left: {len(report.left)}; why stands in {report.file}",
        f"go on when what is wrong is mended: --limit @{report.list}",
    ]


STEPS = {"planned": planned, "begun": begun, "judged": judged, "ended": ended}
