#!/usr/bin/python
"""Stop before anything changes, and name everything that has to be corrected."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Stop before anything changes, and name everything that has to be corrected
description:
  - Like M(ansible.builtin.assert) with a message for each rule; all rules that do not hold are named at once.
  - Tells of variables of the inventory that would be ignored, or that have a new name.
  - Runs on the control node alone.
options:
  rules:
    description: Conditions and what to say where one does not hold.
    type: list
    elements: dict
    suboptions:
      that:
        description: Expression or list of expressions, as in O(ignore:when).
        type: raw
        required: true
      message:
        description: Names the variable, its value and what to do.
        type: str
        required: true
  derived:
    description: Variables that a playbook sets itself, and the variable to set instead. One set by
      C(-e) is not ignored.
    type: dict
  renamed:
    description: Variables of older versions, and their names of today.
    type: dict
  renamed_values:
    description: Variables, and values of older versions with their names of today.
    type: dict
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: preflight | The interval is a time
  edge_litestream.appliance.preflight:
    rules:
      - that: sample_app_interval >= 0.01
        message: "sample_app_interval is {{ sample_app_interval }}: give seconds, 0.01 or more."
"""

RETURN = r""" # """
