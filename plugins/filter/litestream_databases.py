# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter by which other roles learn the databases of litestream_config."""

from __future__ import annotations

DOCUMENTATION = r"""
name: litestream_databases
short_description: Paths of the databases that a configuration of Litestream names
version_added: 2.0.0
description:
  - Those of a C(dir) are left out, since only Litestream knows them.
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
databases: "{{ litestream_config | edge_litestream.appliance.litestream_databases }}"
"""

RETURN = r"""
_value:
  description: Absolute paths.
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_config import databases


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"litestream_databases": databases}
