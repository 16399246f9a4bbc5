# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter by which other roles learn the patterns of litestream_config."""

from __future__ import annotations

DOCUMENTATION = r"""
name: litestream_patterns
short_description: Patterns of the databases that a configuration of Litestream looks for
version_added: 2.0.0
description:
  - One for each C(dir), whose databases only Litestream knows. C(**) stands for the directories below.
positional: _input
options:
  _input:
    description: Content of litestream.yml.
    type: dict
    required: true
author:
  - Edge Litestream appliance
"""

EXAMPLES = r"""
patterns: "{{ litestream_config | edge_litestream.appliance.litestream_patterns }}"
"""

RETURN = r"""
_value:
  description: Absolute patterns.
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_config import patterns


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"litestream_patterns": patterns}
