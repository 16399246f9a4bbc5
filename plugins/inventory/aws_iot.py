# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Things of AWS IoT as hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: aws_iot
short_description: Things of AWS IoT as hosts
description:
  - Every thing of a type is a host, named like the thing. Its variables are C(thing_name), C(thing_type),
    C(thing_groups) and C(thing_attributes).
  - Hosts are in O(group), in a group for each of their thing groups, and in one for each of O(attributes),
    named C(ATTRIBUTE_VALUE). What is no letter, digit or underscore becomes an underscore in a group's name.
  - 1,000 things are eleven requests where the account has fleet indexing. Without it they are six, and one
    more for every 250 members of each thing group, those of the groups below it included.
  - Attributes are told by devices or of them, and are never templated. A thing whose name would mean
    something else to Ansible or to ssh (C(localhost), a group's name, a colon, a hyphen at the beginning) is
    left out, with a warning.
  - Uses the credentials and the region that the AWS SDK finds, for instance E(AWS_PROFILE). They need
    C(iot:GetIndexingConfiguration), and C(iot:SearchIndex) or else C(iot:ListThings), C(iot:ListThingGroups)
    and C(iot:ListThingsInThingGroup).
  - The file's name ends with C(aws_iot.yml) or C(aws_iot.yaml).
extends_documentation_fragment:
  - constructed
  - inventory_cache
  - edge_litestream.appliance.aws
options:
  plugin:
    description: Name of this plugin.
    type: str
    required: true
    choices: [edge_litestream.appliance.aws_iot]
  thing_type:
    description: Type of the things that are hosts; empty for things of every type and of none.
    type: str
    default: edge-litestream
  thing_groups:
    description: Thing groups that become groups; all of them if this is left out.
    type: list
    elements: str
  group:
    description: Group of all hosts, which the playbooks work on.
    type: str
    default: edge_devices
  attributes:
    description: Attributes by whose values there are groups.
    type: list
    elements: str
    default: [profile, region, ring]
  query:
    description: What is searched besides the type, like V(attributes.ring:1). Needs fleet indexing.
    type: str
    default: ""
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
# inventory/fleet.aws_iot.yml
plugin: edge_litestream.appliance.aws_iot
region: eu-central-1
# Asked once an hour; ansible-inventory --flush-cache asks at once.
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/edge-litestream/inventory
cache_timeout: 3600
# By the connection amazon.aws.aws_ssm, for devices that are managed nodes of Systems Manager.
compose:
  ansible_aws_ssm_instance_id: thing_attributes.instance
keyed_groups:
  - key: thing_attributes.site
    prefix: site
"""

import hashlib
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws

SEARCHED = 100  # what one answer holds at most, by the fleet index
LISTED = 250  # and by a listing
# Neither an option of ssh nor a pattern of several hosts.
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
RESERVED = {"all", "ungrouped", "localhost"}


def group_name(text: str) -> str:
    """Make a group's name of what may hold anything."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return f"_{name}" if name[:1].isdigit() else name


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """See DOCUMENTATION."""

    NAME = "edge_litestream.appliance.aws_iot"

    def verify_file(self, path: str) -> bool:
        """Take the files that are named so."""
        return bool(super().verify_file(path)) and path.endswith(("aws_iot.yml", "aws_iot.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory, from the cache where that is wanted."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        cached = bool(self.get_option("cache"))
        # What is asked otherwise is kept beside what was asked before.
        asked = [
            self.get_option(name) for name in ("region", "endpoint", "thing_type", "thing_groups", "query")
        ]
        key = f"{self.get_cache_key(path)}_{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"
        things = self._cache.get(key) if cache and cached else None
        if things is None:
            things = self._ask()
            if cached:
                self._cache[key] = things
        self._fill(things)

    def _ask(self) -> list[dict[str, Any]]:
        if aws.WITHOUT_BOTO3:
            raise AnsibleParserError(
                "the inventory plugin aws_iot needs boto3 where Ansible runs: pip install boto3"
            )
        options = {name: self.get_option(name) for name in ("region", "endpoint")}
        try:
            iot = aws.client(SimpleNamespace(params=options), "iot")
            indexing = iot.get_indexing_configuration()["thingIndexingConfiguration"]
            if indexing["thingIndexingMode"] != "OFF":
                return list(self._searched(iot))
            if self.get_option("query"):
                raise AnsibleParserError(
                    f"query is '{self.get_option('query')}', but the account has no fleet indexing: "
                    "switch it on in AWS IoT, for things, or leave query out"
                )
            return self._listed(iot)
        except (aws.AwsError, aws.ClientError, aws.BotoCoreError) as error:
            raise AnsibleParserError(f"AWS IoT does not tell its things: {aws.explain(error)}") from error

    def _searched(self, iot: Any) -> Iterator[dict[str, Any]]:
        kind, query = self.get_option("thing_type"), self.get_option("query")
        terms = [f'thingTypeName:"{kind}"' if kind else "thingName:*", *([f"({query})"] if query else [])]
        more: dict[str, str] = {}
        while True:
            page = iot.search_index(queryString=" AND ".join(terms), maxResults=SEARCHED, **more)
            for thing in page["things"]:
                yield {
                    "name": thing["thingName"],
                    "type": thing.get("thingTypeName", ""),
                    "groups": sorted(thing.get("thingGroupNames", [])),
                    "attributes": thing.get("attributes", {}),
                }
            if not page.get("nextToken"):
                return
            more = {"nextToken": page["nextToken"]}

    def _listed(self, iot: Any) -> list[dict[str, Any]]:
        kind, chosen = self.get_option("thing_type"), self.get_option("thing_groups")
        wanted = {"thingTypeName": kind} if kind else {}
        size = {"PaginationConfig": {"PageSize": LISTED}}
        things = {
            thing["thingName"]: {
                "name": thing["thingName"],
                "type": thing.get("thingTypeName", ""),
                "groups": [],
                "attributes": thing.get("attributes", {}),
            }
            for thing in aws.pages(iot, "list_things", "things", **wanted, **size)
        }
        if chosen is None:
            chosen = [
                group["groupName"] for group in aws.pages(iot, "list_thing_groups", "thingGroups", **size)
            ]
        for group in sorted(chosen):
            members = aws.pages(
                iot, "list_things_in_thing_group", "things", thingGroupName=group, recursive=True, **size
            )
            for name in members:
                if name in things:
                    things[name]["groups"].append(group)
        return list(things.values())

    def _fill(self, things: list[dict[str, Any]]) -> None:
        chosen, attributes = self.get_option("thing_groups"), self.get_option("attributes")
        common = group_name(self.get_option("group"))
        self.inventory.add_group(common)
        memberships = {
            thing["name"]: [
                common,
                *(group_name(one) for one in thing["groups"] if chosen is None or one in chosen),
                *(
                    group_name(f"{one}_{thing['attributes'][one]}")
                    for one in attributes
                    if thing["attributes"].get(one)
                ),
            ]
            for thing in things
        }
        taken = RESERVED | {group for groups in memberships.values() for group in groups}
        for thing in things:
            name = thing["name"]
            if name in taken or not HOST.fullmatch(name):
                self.display.warning(
                    f"the thing {name!r} is no host: its name would mean something else to Ansible or ssh"
                )
                continue
            self.inventory.add_host(name)
            for group in memberships[name]:
                self.inventory.add_group(group)
                self.inventory.add_host(name, group=group)
            # A device's words are data: Ansible templates what is marked as trusted, and nothing here is.
            for variable in ("name", "type", "groups", "attributes"):
                self.inventory.set_variable(name, f"thing_{variable}", thing[variable])
            self._construct(name)

    def _construct(self, host: str) -> None:
        known = self.inventory.get_host(host).get_vars()
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), known, host, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), known, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), known, host, strict=strict)
