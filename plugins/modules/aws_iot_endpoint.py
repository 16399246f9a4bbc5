#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Ask AWS IoT for the endpoint of its credential provider."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_iot_endpoint
short_description: Ask AWS IoT for the endpoint of its credential provider
description:
  - Every account has one of its own in each region. There devices exchange their certificate for credentials.
  - Uses the credentials and the region that the AWS SDK finds, for instance E(AWS_PROFILE). They need
    C(iot:DescribeEndpoint).
extends_documentation_fragment:
  - edge_litestream.appliance.aws
attributes:
  check_mode:
    description: Changes nothing in either mode.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The endpoint is known
  edge_litestream.appliance.aws_iot_endpoint:
    region: eu-central-1
  register: answer
"""

RETURN = r"""
address:
  description: Name of the endpoint, as in O(ignore:edge_rotator_endpoint).
  returned: success
  type: str
region:
  description: Region that was asked.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws


def act(module: AnsibleModule) -> dict[str, Any]:
    """Ask."""
    iot = aws.client(module, "iot")
    address = iot.describe_endpoint(endpointType="iot:CredentialProvider")["endpointAddress"]
    return {"changed": False, "address": address, "region": iot.meta.region_name}


def main() -> None:
    """Run the module."""
    aws.serve(AnsibleModule(argument_spec=aws.ARGUMENTS, supports_check_mode=True), act)


if __name__ == "__main__":
    main()
