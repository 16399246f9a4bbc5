#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Judge a change that goes through a fleet ring after ring
version_added: 2.0.0
description:
  - Deals devices to rings, notes what each is before its change, compares it with what it is afterwards, and
    fails where too many of a ring have failed, vanished or become worse.
  - A device is worse where its level is higher than before, where it has a problem that it did not have, or
    where a database is not replicated that was before. A problem that was there before is nobody's fault.
  - Devices that do not answer before their change are off. They are not changed, and do not stop anything.
    Nor do those that are refused, since a gate found them unfit; but in the end there is a failure.
  - All that is known is kept in a report, so that a next run compares a device with what it was before its
    change began in an earlier one.
  - Runs on the control node alone. What devices answered is data, read by a strict parser and bounded.
options:
  state:
    description:
      - V(planned) deals the devices to the rings.
      - V(begun) notes what the devices of a ring are, right before their change.
      - V(judged) compares them, and fails where more than the ring tolerates are bad.
      - V(ended) sums up, and fails where a device is bad.
    type: str
    required: true
    choices: [planned, begun, judged, ended]
  report:
    description:
      - Path of the list of who is left, one name a line, for C(--limit @PATH). Where nobody is left there is
        no such file.
      - Beside it PATH.json says of each device its ring, verdict, reason, and what it was before and after.
      - The verdict is V(waiting), V(off), V(refused), V(begun), V(failed), V(vanished), V(worse),
        V(better) or V(same).
    type: str
    required: true
  answers:
    description:
      - What each device answered. Two lines name the versions in use of Litestream and of the rotator, empty
        where there is none, and the rest is what C(edge-rotator status --json) prints.
      - For V(judged), a device without an answer lost its connection during its change.
    type: dict
  rings:
    description:
      - The rings in their order. For V(ended) those that V(planned) returned.
      - C(name) is what a device names; C(size) is how many of the devices that name no ring it gets, a number
        or a percentage of all; C(soak) is a time in seconds; C(tolerate) is how many of the devices that were
        changed may be bad, a number or a percentage.
      - The last ring takes the devices that are left.
    type: list
    elements: dict
  soak:
    description: Seconds for a ring that does not say C(soak).
    type: int
  named:
    description: Every device, with the name of its ring or nothing.
    type: dict
  fleet:
    description: Every device of the inventory. The report forgets others; empty forgets none.
    type: list
    elements: str
    default: []
  mends:
    description: For V(begun), whether the change is to make devices well, so that one that is not is worse.
    type: bool
    default: false
  ring:
    description: One of the rings that V(planned) returned.
    type: dict
  before:
    description: What V(begun) returned.
    type: dict
  refused:
    description: For V(begun), why a device is not to be changed, empty where it is.
    type: dict
  failures:
    description: What failed on each device, empty where nothing did.
    type: dict
  age:
    description:
      - How many seconds ago every database has to have been replicated at most.
      - Without it, it has to have been replicated since Litestream started.
    type: float
attributes:
  check_mode:
    description: Judges all the same, and writes no report.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The ring is what it was before
  edge_litestream.appliance.rollout:
    state: judged
    report: upgrade.report
    ring: "{{ ring }}"
    before: "{{ begun.before }}"
    answers: "{{ answers }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
rings:
  description:
    - The rings that have devices, each with C(devices), C(answered) where one of them does, and
      C(followed) where others come after it.
  returned: state is V(planned)
  type: list
  elements: dict
before:
  description: The devices to change, and what each was before.
  returned: state is V(begun)
  type: dict
bad:
  description: Devices that failed, vanished or are worse.
  returned: state is V(judged)
  type: list
  elements: str
lines:
  description: For people.
  returned: success
  type: list
  elements: str
report:
  description: Absolute path of the list.
  returned: always
  type: str
"""
