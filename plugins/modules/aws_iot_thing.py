#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Have a thing of AWS IoT with its type, attributes and groups, or have none."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_iot_thing
short_description: Have a thing of AWS IoT with its type, attributes and groups
description:
  - Makes a thing, changes what differs, or removes it, and tells which certificates it has.
  - A thing to which a certificate is attached is not removed;
    M(edge_litestream.appliance.aws_iot_certificate) removes certificates.
  - Thing type and groups have to be there. They belong to the fleet, not to a device.
  - Needs the rights C(iot:DescribeThing), C(iot:CreateThing), C(iot:UpdateThing), C(iot:DeleteThing),
    C(iot:ListThingGroupsForThing), C(iot:DescribeThingType), C(iot:DescribeThingGroup),
    C(iot:AddThingToThingGroup), C(iot:RemoveThingFromThingGroup), C(iot:ListThingPrincipals) and
    C(iot:DescribeCertificate).
extends_documentation_fragment:
  - edge_litestream.appliance.aws
  - edge_litestream.appliance.aws.check_mode
options:
  name:
    description: Name of the thing.
    type: str
    required: true
  state:
    description: Whether the thing is there.
    type: str
    choices: [present, absent]
    default: present
  type:
    description: Name of the thing type. A thing keeps the one that it has where this is not set.
    type: str
    default: ""
  attributes:
    description: Attributes and their values; an empty value removes the attribute. Others are kept.
    type: dict
    default: {}
  groups:
    description: Groups that the thing joins.
    type: list
    elements: str
    default: []
  groups_exclusive:
    description: Whether the thing leaves all static groups that O(groups) does not name.
    type: bool
    default: false
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The thing has a type and is in its group
  edge_litestream.appliance.aws_iot_thing:
    name: edge-0001
    type: edge-litestream
    groups: [edge-litestream]
    attributes:
      profile: tpm2

- name: Look at a thing
  edge_litestream.appliance.aws_iot_thing:
    name: edge-0001
  check_mode: true
"""

RETURN = r"""
thing:
  description: The thing with C(name), C(type) and C(attributes), in check mode as found. Empty without one.
  type: dict
  returned: always
groups:
  description: Names of the groups that the thing is in. In check mode, as they were found.
  type: list
  elements: str
  returned: always
certificates:
  description:
    - Its certificates, the oldest first, with C(id), C(arn), C(status), C(created) and C(not_after), and with
      in seconds, their age (C(age_s)), for how long AWS has had them as they are, their status included
      (C(unchanged_s)), and how long they are still valid (C(left_s)).
  type: list
  elements: dict
  returned: always
changes:
  description: What was done, or in check mode would be done.
  type: list
  elements: str
  returned: always
"""

import contextlib
import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws

# aws.serve says what is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import ClientError

# For a detachment that AWS has accepted and not yet carried out.
DELETE_ATTEMPTS = 5
DELETE_PAUSE_S = 2


def look(iot: Any, name: str) -> dict[str, Any]:
    """Describe a thing; empty where there is none."""
    try:
        found = iot.describe_thing(thingName=name)
    except ClientError as error:
        if aws.code(error) == "ResourceNotFoundException":
            return {}
        raise
    return {
        "name": name,
        "type": found.get("thingTypeName") or "",
        "attributes": found.get("attributes") or {},
    }


def require(iot: Any, kind: str, name: str) -> None:
    """Refuse a thing type or group that is not there, before anything changes."""
    ask = iot.describe_thing_type if kind == "type" else iot.describe_thing_group
    try:
        ask(**{f"thing{kind.capitalize()}Name": name})
    except ClientError as error:
        if aws.code(error) != "ResourceNotFoundException":
            raise
        raise aws.AwsError(
            f"there is no thing {kind} '{name}' in this account and region: "
            "run edge_litestream.appliance.cloud, or correct "
            f"fleet_thing_{'type' if kind == 'type' else 'groups'}"
        ) from None


def bring_about(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    name = params["name"]
    if not re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", name):
        raise aws.AwsError(f"name is '{name}': use 1 to 128 of a-z, A-Z, 0-9, colon, underscore, hyphen")
    iot = aws.client(module, "iot")
    thing = look(iot, name)
    asked = {"thingName": name}
    groups = (
        [
            found["groupName"]
            for found in aws.pages(iot, "list_thing_groups_for_thing", "thingGroups", **asked)
        ]
        if thing
        else []
    )
    certificates = (aws.certificates(iot, name) if thing else None) or []
    told = ("id", "arn", "status", "created", "not_after", "age_s", "unchanged_s", "left_s")
    plan = absent if params["state"] == "absent" else present
    changes = plan(module, iot, thing, groups, certificates)
    if changes and not module.check_mode:
        thing, groups = after(params, thing, groups)
    return {
        "changed": bool(changes),
        "changes": changes,
        "thing": thing,
        "groups": groups,
        "certificates": [{key: one[key] for key in told} for one in certificates],
    }


def after(
    params: dict[str, Any], thing: dict[str, Any], groups: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Tell what thing and groups are after the changes."""
    if params["state"] == "absent":
        return {}, []
    attributes = thing.get("attributes", {}) | {
        key: str(value) for key, value in params["attributes"].items()
    }
    stays = [] if params["groups_exclusive"] else groups
    return {
        "name": params["name"],
        "type": params["type"] or thing.get("type", ""),
        "attributes": {key: value for key, value in attributes.items() if value},
    }, list(dict.fromkeys([*stays, *params["groups"]]))


def absent(
    module: AnsibleModule,
    iot: Any,
    thing: dict[str, Any],
    _groups: list[str],
    certificates: list[dict[str, Any]],
) -> list[str]:
    """Remove a thing that has no certificate."""
    name = module.params["name"]
    if not thing:
        return []
    if certificates:
        raise aws.AwsError(
            f"thing '{name}' has the certificate {certificates[0]['id']} ({certificates[0]['status']}): "
            "remove its certificates first, with the module aws_iot_certificate and state absent"
        )
    for attempt in range(0 if module.check_mode else DELETE_ATTEMPTS):
        try:
            iot.delete_thing(thingName=name)
            break
        except ClientError as error:
            if aws.code(error) != "InvalidRequestException" or attempt == DELETE_ATTEMPTS - 1:
                raise
            time.sleep(DELETE_PAUSE_S)
    return [f"thing {name} removed"]


def present(
    module: AnsibleModule,
    iot: Any,
    thing: dict[str, Any],
    groups: list[str],
    _certificates: list[dict[str, Any]],
) -> list[str]:
    """Make a thing, or change what differs."""
    params = module.params
    name, kind = params["name"], params["type"]
    wanted = {key: str(value) for key, value in params["attributes"].items()}
    had = thing.get("attributes", {})
    differing = {key: value for key, value in wanted.items() if had.get(key, "") != value}
    join = [group for group in dict.fromkeys(params["groups"]) if group not in groups]
    leave = [group for group in groups if group not in params["groups"]] if params["groups_exclusive"] else []
    retyped = bool(kind) and kind != thing.get("type", "")
    if retyped:
        require(iot, "type", kind)
    for group in join:
        require(iot, "group", group)
    more: dict[str, Any] = {"thingTypeName": kind} if retyped else {}
    if differing:
        more["attributePayload"] = {"attributes": differing, "merge": True}
    changes = [] if thing else [f"thing {name} made"]
    if thing:
        changes += [f"type {kind}"] if retyped else []
        changes += [f"attribute {key}={value}" for key, value in sorted(differing.items())]
    changes += [f"group {group} joined" for group in join] + [f"group {group} left" for group in leave]
    if module.check_mode:
        return changes
    if not thing:
        iot.create_thing(thingName=name, **more)
    elif more:
        iot.update_thing(thingName=name, **more)
    for group in join:
        iot.add_thing_to_thing_group(thingName=name, thingGroupName=group)
    for group in leave:
        iot.remove_thing_from_thing_group(thingName=name, thingGroupName=group)
    return changes


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "type": {"type": "str", "default": ""},
            "attributes": {"type": "dict", "default": {}},
            "groups": {"type": "list", "elements": "str", "default": []},
            "groups_exclusive": {"type": "bool", "default": False},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    aws.serve(module, bring_about)


if __name__ == "__main__":
    main()
