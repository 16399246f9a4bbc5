# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter by which the rotator learns how often they are synced."""

from __future__ import annotations

DOCUMENTATION = r"""
name: litestream_sync_interval
short_description: Longest interval at which a configuration of Litestream has a database synced
version_added: 2.0.0
description:
  - Litestream's own default where none is given.
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
seconds: "{{ litestream_config | edge_litestream.appliance.litestream_sync_interval }}"
"""

RETURN = r"""
_value:
  description: Seconds.
  type: float
"""

from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_config import sync_interval


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"litestream_sync_interval": sync_interval}
