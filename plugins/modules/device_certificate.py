#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_certificate
short_description: Sign a device's request with the fleet CA, or keep it for somebody else to sign
description:
  - A device is not trusted with what its certificate says. Of its request only the key is used, which has to
    be the one that the token showed, EC P-256 or RSA of 2048 bits or more. The request's own signature is
    checked.
  - The certificate has the name O(common_name), a random serial number and the extensions of a TLS client,
    and is valid from five minutes ago. It ends with the CA's certificate at the latest.
  - With O(request_dest) the request is written to the control node, after it was also checked that it asks
    for O(common_name) alone and for no extension, since another CA may sign what it asks for.
  - Runs on the control node alone, in Ansible's own process. The CA's key is read there and goes nowhere.
options:
  request:
    description: Certificate signing request as PEM, 16384 characters at most.
    type: str
    required: true
  public_key:
    description: Public key as PEM, as the token showed it.
    type: str
    required: true
  common_name:
    description: The thing's name, the inventory's and not the device's.
    type: str
    required: true
  ca_certificate:
    description: Path of the fleet CA's certificate, PEM.
    type: path
  ca_key:
    description: Path of the fleet CA's private key, PEM, without a passphrase.
    type: path
  validity_days:
    description: Validity of the certificate, in days.
    type: int
    default: 365
  request_dest:
    description: Path on the control node where the request is written. Nothing is signed then.
    type: path
attributes:
  check_mode:
    description: Checks everything, signs nothing and writes nothing.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The fleet CA has signed the request
  edge_litestream.appliance.device_certificate:
    request: "{{ key.request }}"
    public_key: "{{ key.public_key }}"
    common_name: edge-0001
    ca_certificate: secrets/fleet-ca.crt
    ca_key: secrets/fleet-ca.key
  register: signed
"""

RETURN = r"""
certificate:
  description: The certificate as PEM.
  returned: when signed, not in check mode
  type: str
request_dest:
  description: Where the request is.
  returned: with O(request_dest)
  type: str
"""
