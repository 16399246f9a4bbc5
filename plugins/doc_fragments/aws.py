# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What the documentation of everything that asks AWS shares."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of plugins/module_utils/aws.py."""

    DOCUMENTATION = r"""
requirements:
  - boto3
  - cryptography
options:
  region:
    description: AWS region, where the AWS SDK does not know it otherwise.
    type: str
  endpoint:
    description: URL of a service other than that of AWS.
    type: str
"""

    # All of them tell in check mode what they would do.
    CHECK_MODE = r"""
attributes:
  check_mode:
    description: Tells what would change.
    support: full
"""
