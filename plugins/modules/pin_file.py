#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pin_file
short_description: Have a PIN in its file, without another trace of it
description:
  - Hands the PIN to a shell on the device by standard input, so that it is in no argument, no environment and
    no other file of either machine, with pipelining and without, and whatever way leads to root.
  - The file is root's, with mode 0600, and holds the PIN without a line break. It is replaced whole or not at
    all.
  - The device compares. Neither the PIN comes back nor a digest of it, which is as good as a short PIN.
options:
  path:
    description: The file. Its directory has to be there, and be writable by root alone.
    type: str
    required: true
  pin:
    description: Printable ASCII characters.
    type: str
    required: true
attributes:
  check_mode:
    description: Compares, and writes nothing.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The PIN the operator gave is on the device
  edge_litestream.appliance.pin_file:
    path: /etc/edge-token/pin
    pin: "{{ pkcs11_pin }}"
  no_log: true
"""

RETURN = r"""
held:
  description:
    - What the file was before.
    - V(same), V(access) for the same PIN with another owner or mode, V(other) or V(missing).
  returned: success
  type: str
"""
