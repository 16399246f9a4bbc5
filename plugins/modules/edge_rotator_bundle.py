#!/usr/bin/python
"""Have the bundle of a device's platform on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_rotator_bundle
short_description: Have the bundle of a device's platform on the control node
description:
  - A bundle is a tar archive per platform with the rotator, pycurl, python-pkcs11 and a launcher. It
    is named by a digest of all that went into it, so that an unchanged one is never made or pushed twice.
  - What has to be compiled is compiled on the host that the task is delegated to, as module
    M(edge_litestream.appliance.debian_build) does. Delegate it to a host that you trust, like V(localhost),
    never to a device.
  - A bundle may serve two Debian releases, so that the rotator still runs when the device has been upgraded.
  - The archive is checked against its recorded digest every time. Hosts that need the same bundle wait for
    the first of them.
options:
  cache:
    description: Directory on the control node.
    type: path
    required: true
  platform:
    description: The device.
    type: dict
    required: true
    suboptions:
      release:
        description: Its Debian release, like V(bookworm).
        type: str
        required: true
      machine:
        description: Its architecture, like V(aarch64).
        type: str
        required: true
      python:
        description: Its Python, like V(3.11).
        type: str
        required: true
      debian_pycurl:
        description: Leave pycurl out, because the device uses Debian's (GnuTLS). Common platforms
          need no compiler then.
        type: bool
        required: true
      upgrade:
        description: The release that the device may be upgraded to. The bundle runs there too. Where its
          parts cannot be made the bundle goes without them, with a warning.
        type: dict
        suboptions:
          release:
            description: Its name, like V(trixie).
            type: str
            required: true
          python:
            description: Its Python, like V(3.13).
            type: str
            required: true
  mirrors:
    description: Mirrors of Debian, see M(edge_litestream.appliance.debian_build).
    type: list
    elements: str
    default: []
extends_documentation_fragment: edge_litestream.appliance.artifacts
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The bundle is on the control node
  edge_litestream.appliance.edge_rotator_bundle:
    cache: ~/.cache/edge-litestream/bundle
    platform:
      release: bookworm
      machine: aarch64
      python: "3.11"
      debian_pycurl: false
  delegate_to: localhost
"""

RETURN = r"""
version:
  description: Version and digest, which is the name of its directory on the device.
  type: str
  returned: always
platform:
  description: Release, architecture and Python.
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
