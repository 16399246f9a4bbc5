#!/usr/bin/python
"""Make the rotator's configuration from variables, and have the rotator judge it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rotator_config
short_description: Make the rotator's configuration from variables, and have the rotator judge it
description:
  - The rotator's own check is the only judge, so that a working configuration is never replaced by
    one it refuses.
  - What it says of a key is said of the variable that the key is made from.
  - Runs on the control node alone.
options:
  variables:
    description: Section, key and the name of the variable that the key's value is taken from.
    type: dict
    required: true
  integers:
    description: Those of the variables that are whole numbers, even where C(-e name=value) makes them texts.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: preflight | The rotator accepts its configuration
  edge_litestream.appliance.rotator_config:
    variables:
      provider:
        endpoint: edge_rotator_endpoint
"""

RETURN = r"""
toml:
  description: Text of the configuration file.
  type: str
  returned: success
"""
