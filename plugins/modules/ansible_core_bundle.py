#!/usr/bin/python
"""Have ansible-core for devices that pull."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ansible_core_bundle
short_description: Have ansible-core for devices that pull
version_added: 2.0.0
description:
  - An archive with the version of ansible-core that the tests run, from PyPI by its hash, and a launcher.
    It has no compiled parts, so that it is the same for every device; Jinja2 and PyYAML are Debian's.
  - It is named by a digest of all that went into it, so that an unchanged one is never made or pushed twice.
  - Runs on the control node alone; nothing is asked of the device.
options:
  cache:
    description: Directory on the control node.
    type: path
    required: true
extends_documentation_fragment: edge_litestream.appliance.artifacts
attributes:
  check_mode:
    description: Nothing is made in check mode.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The control node has ansible-core for devices
  edge_litestream.appliance.ansible_core_bundle:
    cache: ~/.cache/edge-litestream/bundle
"""

RETURN = r"""
version:
  description: Version and digest, which is the name of its directory on the device.
  type: str
  returned: always
bundle:
  description: Path of the archive.
  type: str
  returned: always
artifact:
  description: Name of the archive among those that devices fetch.
  type: str
  returned: always
assembled:
  description: Whether the archive is there.
  type: bool
  returned: always
"""
