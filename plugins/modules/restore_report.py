#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_report
short_description: Keep what becomes of each device in a restore of many
version_added: 2.0.0
description:
  - Notes who is to be restored, what has become of each, and who is left, so that a run that ends in any way
    can be gone on with. Several devices may note at once.
  - Runs on the control node alone. What devices answered is data.
options:
  state:
    description:
      - V(planned) notes that devices wait, whatever was noted of them before.
      - V(noted) notes what has become of a device.
      - V(ended) sums up, and fails where a device is left, or unwell.
    type: str
    required: true
    choices: [planned, noted, ended]
  report:
    description:
      - Path of the list of who is left, one name a line, for C(--limit @PATH). Where nobody is left there is
        no such file.
      - Beside it PATH.json says of each device its verdict and reason.
      - The verdict is V(waiting), V(failed), V(vanished), V(differs), V(restored), V(newer), V(same), or
        V(unwell) where every database has its verdict and something failed afterwards. The last four are not
        left.
    type: str
    required: true
  devices:
    description: For V(planned) and V(ended), names of the devices.
    type: list
    elements: str
  device:
    description: For V(noted), name of the device.
    type: str
  results:
    description: What M(edge_litestream.appliance.litestream_restore) returned for each of its databases.
    type: raw
  failure:
    description: What failed on it, empty where nothing did.
    type: str
    default: ""
  warning:
    description: What the device warns of, empty where it is well.
    type: str
    default: ""
  confirm:
    description: For V(ended), variable that has to say a second time who is to be restored.
    type: str
    default: restore_confirm
attributes:
  check_mode:
    description: Says the same, and writes no report.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: What has become of it is known
  edge_litestream.appliance.restore_report:
    state: noted
    report: restore.report
    device: "{{ inventory_hostname }}"
    results: "{{ restored.results }}"
"""

RETURN = r"""
verdict:
  description: What has become of the device.
  returned: state is V(noted)
  type: str
left:
  description: Devices of these that are left.
  returned: state is V(ended)
  type: list
  elements: str
lines:
  description: For people.
  returned: success
  type: list
  elements: str
report:
  description: Absolute path of the list.
  returned: always
  type: str
"""
