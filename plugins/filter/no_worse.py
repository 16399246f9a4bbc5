# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter that tells whether a device is what it was before its change."""

from __future__ import annotations

DOCUMENTATION = r"""
name: no_worse
short_description: Whether a device is what it was before its change
version_added: 2.0.0
description:
  - Takes what a look at a device answered, and compares it as M(edge_litestream.appliance.rollout) does.
positional: _input, before
options:
  _input:
    description: The registered result of the look.
    type: dict
    required: true
  before:
    description: What RV(edge_litestream.appliance.rollout#module:before) has for the device.
    type: dict
    required: true
  age:
    description: How many seconds ago every database has to have been replicated at most.
    type: float
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
until: __rollout_after | edge_litestream.appliance.no_worse(__rollout_begun.before[inventory_hostname])
"""

RETURN = r"""
_value:
  description: Whether it is.
  type: bool
"""

from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import rollout


def no_worse(answer: Any, before: dict[str, Any], age: float | None = None) -> bool:
    """Tell whether a device is what it was."""
    return (
        rollout.verdict(before, rollout.seen(answer), None if age is None else float(age))[0] in rollout.DONE
    )


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"no_worse": no_worse}
