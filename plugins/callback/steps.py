# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Output of a playbook with a line per device and step, and a summary."""

from __future__ import annotations

DOCUMENTATION = r"""
name: steps
type: stdout
short_description: A line per device and step, and in the end one per device
version_added: 2.0.0
description:
  - A step is what a role or a file of tasks does, by the words before the C(|) in the names of its tasks. Its
    line comes when the device has done it, and says how many tasks have changed something, and how long it
    took. Steps of which all is skipped have none.
  - What failed is told as Ansible's own output does, with all its detail, and so are diffs and what is asked
    again. With C(-v) all is Ansible's own output.
  - The summary has a line for each device, and says what failed there last, also where the playbook went on
    after it (C(rescue)). What a task does once for all and fails (C(run_once)) is the run's failure, and no
    device's. It can be written for programs.
options:
  json_file:
    description:
      - File that gets the summary and every step as JSON, its owner's alone. It is replaced as a whole when
        the playbook has ended.
    type: path
    env:
      - name: EDGE_RUN_JSON
    ini:
      - section: callback_steps
        key: json_file
extends_documentation_fragment:
  - default_callback
  - result_format_callback
author:
  - Edge Litestream appliance (@edge-litestream)
"""

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from ansible import context
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.edge_litestream.appliance.plugins.module_utils.device_status import plain
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace

NAME = "edge_litestream.appliance.steps"


class Step:
    """What a device does until it comes to the next step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = time.monotonic()
        self.tasks = self.changed = 0
        self.bad = ""

    @property
    def told(self) -> str:
        """How it went, in a word or two."""
        return self.bad or (f"changed {self.changed}" if self.changed else "ok")


class CallbackModule(Default):
    """What Ansible loads."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = NAME
    # Their answers are for people.
    SAYING: ClassVar = ("ansible.builtin.debug", "debug")

    def __init__(self) -> None:
        """Begin the account of a run."""
        super().__init__()
        self.began = time.monotonic()
        self.playbook = ""
        self.now: dict[str, Step] = {}
        self.steps: dict[str, list[dict[str, Any]]] = {}
        self.bad: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        # What Ansible books to the first device, and is the run's.
        self.once: Counter[str] = Counter()
        self.reason = ""

    @property
    def loud(self) -> bool:
        """Whether all is to be shown."""
        return bool(self._display.verbosity)

    def close(self, devices: Iterable[str]) -> None:
        """Tell how their steps went."""
        for device in devices:
            step = self.now.pop(device, None)
            if step is None or not (step.tasks or step.bad):
                continue
            seconds = time.monotonic() - step.began
            self.steps.setdefault(device, []).append(
                {
                    "step": step.name,
                    "result": step.told.split()[0],
                    "tasks": step.tasks,
                    "changed": step.changed,
                    "seconds": round(seconds, 1),
                }
            )
            if not self.loud:
                self._display.display(f"{device:16} {step.name:34} {step.told:12} {seconds:7.1f} s")

    def done(self, result: Any, bad: str = "") -> None:
        """Count a task of a device."""
        device = result.host.get_name()
        step = self.now.setdefault(device, Step(step_of(result.task, self._play)))
        step.tasks += 1
        step.changed += bool(result.result.get("changed"))
        if bad:
            message = result.result.get("msg", "")
            text = "; ".join(map(str, message)) if isinstance(message, list) else str(message)
            reason = plain(f"{result.task.get_name().strip()}: {' '.join(text.split())}")
            if bad == "failed" and result.task.run_once:
                self.once[device] += 1
                self.reason = reason
                return
            step.bad, self.reasons[device] = bad, reason
            if self.bad.get(device) != "failed":
                self.bad[device] = bad

    def say(self, device: str, task: Any, told: dict[str, Any]) -> None:
        """Print what a task has to say to people."""
        message = told.get("msg", "")
        for line in message if isinstance(message, list) else str(message).splitlines():
            self._display.display(str(line) if task.run_once else f"{device}: {line}")

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Note what is played."""
        self.playbook = Path(playbook._file_name).stem
        super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """End the steps of the play before."""
        self.close(list(self.now))
        super().v2_playbook_on_play_start(play)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        if self.loud:
            super()._task_start(task, prefix)
        else:
            # Its banner is shown where it fails.
            self._task_type_cache[task._uuid] = prefix
            self._last_task_name = task.get_name().strip()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """End a device's step where another one begins."""
        device, name = host.get_name(), step_of(task, self._play)
        if device in self.now and self.now[device].name != name:
            self.close([device])
        self.now.setdefault(device, Step(name))

    def v2_runner_on_ok(self, result: Any) -> None:
        """Count it; show what is said."""
        if not isinstance(result.task, TaskInclude):
            self.done(result)
        if self.loud:
            super().v2_runner_on_ok(result)
            return
        self._handle_warnings_and_exception(result)
        if result.task.action in self.SAYING and not result.task.loop:
            self.say(result.host.get_name(), result.task, result.result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Show what is said."""
        if self.loud:
            super().v2_runner_item_on_ok(result)
        elif result.task.action in self.SAYING:
            self.say(result.host.get_name(), result.task, result.result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show all of it, unless it is ignored."""
        self.done(result, "" if ignore_errors else "failed")
        if self.loud or not ignore_errors:
            super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Show all of it, unless it is ignored."""
        if self.loud or not result.task.ignore_errors:
            super().v2_runner_item_on_failed(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show it, unless it is ignored."""
        ignored = bool(result.task.ignore_unreachable)
        self.done(result, "" if ignored else "unreachable")
        if self.loud or not ignored:
            super().v2_runner_on_unreachable(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Show it where all is shown."""
        if self.loud:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Show it where all is shown."""
        if self.loud:
            super().v2_runner_item_on_skipped(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Show it where all is shown."""
        if self.loud:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Sum up, one line per device, the worst last; where it is wanted, for programs."""
        self.close(list(self.now))
        devices = {
            device: self.summary(device, stats.summarize(device)) for device in sorted(stats.processed)
        }
        if self.loud:
            super().v2_playbook_on_stats(stats)
        else:
            self._display.display("")
            order = ["ok", "changed", "unreachable", "failed"]
            for device, told in sorted(devices.items(), key=lambda each: order.index(each[1]["result"])):
                line = f"{device:16} {told['result']:12} {told['changed']:4} changed {told['seconds']:7.1f} s"
                self._display.display(f"{line}  {told['reason']}".rstrip())
            results = [told["result"] for told in devices.values()]
            counts = ", ".join(f"{results.count(each)} {each}" for each in order if each in results)
            check = " (--check: nothing was changed)" if context.CLIARGS["check"] else ""
            self._display.display(f"{self.playbook}: {counts or 'no device'}{check}")
            if self.reason:
                self._display.display(f"{self.playbook}: failed once for all: {self.reason}")
        if path := self.get_option("json_file"):
            content = {
                "playbook": self.playbook,
                "check": bool(context.CLIARGS["check"]),
                "seconds": round(time.monotonic() - self.began, 1),
                "failed": self.reason,
                "devices": devices,
            }
            try:
                replace(str(Path(path).expanduser()), json.dumps(content, indent=2) + "\n", 0o600)
            except OSError as error:
                self._display.warning(f"{path} is not written: {error}")

    def summary(self, device: str, counts: dict[str, int]) -> dict[str, Any]:
        """Return what became of a device: Ansible's counts know nothing of what was rescued."""
        steps = self.steps.get(device, [])
        result = self.bad.get(device) or ("changed" if counts["changed"] else "ok")
        if counts["failures"] > self.once[device]:
            result = "failed"
        return {
            "result": result,
            "changed": counts["changed"],
            "seconds": round(sum(step["seconds"] for step in steps), 1),
            "reason": self.reasons.get(device, "") if result in ("failed", "unreachable") else "",
            "steps": steps,
        }


def step_of(task: Any, play: Any) -> str:
    """Return the step that a task belongs to: its role and the words before the bar, else its play."""
    role = task._role.get_name().rpartition(".")[2] if task._role else ""
    before, found, _unused = (task.name or "").partition(" | ")
    return " ".join(filter(None, [role, before if found else ""])) or (
        play.get_name().strip() if play else ""
    )
