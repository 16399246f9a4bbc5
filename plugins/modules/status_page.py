#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status_page
short_description: Write a page of the fleet, and its data
version_added: 2.0.0
description:
  - Makes one HTML file of what C(edge-rotator status --json) answered on each device, and a JSON file of the
    same beside it. The page needs no network and no server. Its owner alone may read the two.
  - Nothing that a device answers is trusted. It is read by a schema, its texts are cut short and escaped, and
    an answer that is too long, too deep or none of the rotator's is a row that says so.
  - A device drifts where it differs from what the inventory says (C(litestream_version),
    C(edge_rotator_delivery), C(edge_rotator_backend), C(edge_rotator_endpoint), C(edge_rotator_role_alias)),
    or else from most devices, and where its rotator is another one than that of this collection.
  - Runs on the control node alone. In check mode nothing is written.
options:
  answers:
    description: For each device the registered result of the command; an empty mapping where there is none.
    type: dict
    required: true
  path:
    description:
      - File of the page, whose name ends in V(.html), on the control node. What is there is replaced.
      - A relative path begins at the directory in which the playbook was started.
    type: str
    required: true
attributes:
  check_mode:
    description: Writes nothing.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The page is written
  edge_litestream.appliance.status_page:
    answers: "{{ {'edge-0001': answer} }}"
    path: status.html
"""

RETURN = r"""
page:
  description: File of the page.
  type: str
  returned: always
data:
  description: File of its data.
  type: str
  returned: always
"""
