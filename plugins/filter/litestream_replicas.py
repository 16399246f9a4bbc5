# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Filter by which the rotator learns where the replicas are."""

from __future__ import annotations

DOCUMENTATION = r"""
name: litestream_replicas
short_description: Places in S3 of the replicas that a configuration of Litestream names
version_added: 2.0.0
description:
  - One for each path, then one for each C(dir).
positional: region
options:
  _input:
    description: Content of litestream.yml.
    type: dict
    required: true
  region:
    description: AWS region of the replicas that name neither region nor endpoint.
    type: str
    required: true
author:
  - Edge Litestream appliance
"""

EXAMPLES = r"""
replicas: "{{ litestream_config | edge_litestream.appliance.litestream_replicas('eu-central-1') }}"
"""

RETURN = r"""
_value:
  description: Pairs of the bucket's URL and the path in it.
  type: list
  elements: list
"""

from typing import Any

from ansible_collections.edge_litestream.appliance.plugins.module_utils.litestream_config import (
    replica_places,
)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Name under which templates reach the function."""
        return {"litestream_replicas": replica_places}
