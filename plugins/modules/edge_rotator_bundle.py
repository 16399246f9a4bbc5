#!/usr/bin/python
"""Have the bundle of a device's platform on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_rotator_bundle
short_description: Have the bundle of a device's platform on the control node
description:
  - A bundle is a tar archive per platform with the rotator, pycurl, python-pkcs11 and a launcher. It
    is named by a digest
    of all that went into it, so that an unchanged one is never made or pushed twice.
  - Runs on the control node alone. Hosts that need the same bundle wait for the first of them.
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
  state:
    description:
      - V(planned) says which bundle this is and what is missing for it.
      - V(sources) downloads, by the locks' hashes, what a build host needs to compile what is missing.
      - V(assembled) makes the bundle, once the compiled wheels are in the cache.
    type: str
    choices: [planned, sources, assembled]
    default: assembled
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
assembled:
  description: Whether the archive is there.
  type: bool
  returned: always
missing:
  description: Packages whose compiled wheel is not in the cache.
  type: list
  elements: str
  returned: always
packages:
  description: Packages that are compiled.
  type: list
  elements: str
  returned: always
built:
  description: Directory of the compiled wheels.
  type: str
  returned: always
sources:
  description: Directory of the sources.
  type: str
  returned: always
"""
