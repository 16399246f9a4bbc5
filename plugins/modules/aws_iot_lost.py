#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Take a thing's certificates out of use and say what closes its prefix, or take it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_iot_lost
short_description: Take a thing's certificates out of use, or take the thing back
version_added: 2.0.0
description:
  - V(lost) makes every certificate of a thing inactive and takes the thing out of its static groups. Which
    certificates were active, and which groups it was in, is remembered in the thing's attribute C(lost). That
    survives the loss of the control node, and a device cannot write it.
  - V(found) makes the certificates that were active active again, and no others, puts the thing back into its
    groups, and removes the attribute. V(replaced) does the same without the certificates.
  - Changes no policy. It makes the policy documents that close the thing's prefix, for
    M(amazon.aws.iam_policy), and says whether the role has room for them.
  - AWS gives the inline policies of a role 10,240 characters in all. Where room is needed, RV(drop) names the
    entries that refuse nobody any more. All credentials from before such an entry have expired, and either it
    refuses old sessions alone, or its thing has no active certificate.
  - Times are those of AWS' clock.
  - Needs the rights C(iot:DescribeThing), C(iot:UpdateThing), C(iot:ListThingPrincipals),
    C(iot:DescribeCertificate), C(iot:UpdateCertificate), C(iot:ListThingGroupsForThing),
    C(iot:DescribeThingGroup), C(iot:AddThingToThingGroup), C(iot:RemoveThingFromThingGroup),
    C(iot:DescribeRoleAlias), C(iam:ListRolePolicies) and C(iam:GetRolePolicy).
extends_documentation_fragment:
  - edge_litestream.appliance.aws
  - edge_litestream.appliance.aws.check_mode
options:
  thing:
    description: Name of the thing.
    type: str
    required: true
  state:
    description: What the thing is.
    type: str
    choices: [lost, found, replaced]
    required: true
  role_alias:
    description: The role alias by which the thing gets its credentials.
    type: str
    required: true
  bucket:
    description: Name of the bucket of the thing's prefix.
    type: str
    required: true
  certificates:
    description: With O(state=found), IDs of the certificates to make active, instead of those remembered.
    type: list
    elements: str
    default: []
  besides:
    description: IDs of certificates that are left alone.
    type: list
    elements: str
    default: []
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The thing gets no new credentials
  edge_litestream.appliance.aws_iot_lost:
    thing: edge-0001
    state: lost
    role_alias: edge-litestream
    bucket: example-edge-backups
  register: lost

- name: Its prefix is closed
  amazon.aws.iam_policy:
    iam_type: role
    iam_name: "{{ lost.role }}"
    policy_name: "{{ lost.policy }}"
    policy_json: "{{ lost.closure | to_json }}"
    state: present
"""

RETURN = r"""
since:
  description: When the thing was lost. In state V(found) or V(replaced), now.
  type: str
  returned: always
until:
  description: When the last credentials from before RV(since) expire.
  type: str
  returned: always
lifetime:
  description: How long credentials from before can have lived at most, in seconds.
  type: int
  returned: always
role:
  description: Name of the role behind the alias.
  type: str
  returned: always
policy:
  description: Name of the inline policy for this thing.
  type: str
  returned: always
entry:
  description: What that policy is now, V(closed), V(refused), or empty where there is none.
  type: str
  returned: always
closure:
  description: Policy document that denies everything on the thing's prefix.
  type: dict
  returned: always
refusal:
  description: Policy document that denies it to sessions from before RV(since) alone.
  type: dict
  returned: always
drop:
  description: Names of inline policies that may be deleted, and have to be for RV(closure) to have room.
  type: list
  elements: str
  returned: always
free:
  description: Characters that the role has left with either document and without RV(drop); negative where
    there is no room.
  type: int
  returned: always
room_at:
  description: When the next entry may be deleted; empty where none waits.
  type: str
  returned: always
certificates:
  description: IDs of the certificates that were active before the thing was lost.
  type: list
  elements: str
  returned: always
groups:
  description: Groups that it was in before.
  type: list
  elements: str
  returned: always
remembered:
  description: Whether the thing was known as lost before this run.
  type: bool
  returned: always
warning:
  description: What could not be remembered, and what to do. Empty as a rule.
  type: str
  returned: always
changes:
  description: What was done, or in check mode would be done.
  type: list
  elements: str
  returned: always
"""

import contextlib
import datetime
import email.utils
import json
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws

# Where it is missing, aws.serve says so.
with contextlib.suppress(ImportError):
    from botocore.exceptions import ClientError

ATTRIBUTE = "lost"
ATTRIBUTE_CHARACTERS = 800  # what AWS IoT takes as an attribute's value
POLICY_CHARACTERS = 10240  # of all inline policies of a role, blanks not counted
LONGEST = datetime.timedelta(hours=12)  # what a role alias can give credentials at most
ISO = "%Y-%m-%dT%H:%M:%SZ"
COMPACT = "%Y%m%dT%H%M%SZ"
PREFIX = "lost-"


def clock(answer: dict[str, Any]) -> datetime.datetime:
    """AWS' time, by one of its answers."""
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return email.utils.parsedate_to_datetime(told).astimezone(datetime.UTC)
    except ValueError:
        return datetime.datetime.now(datetime.UTC)


def lifetime(alias: dict[str, Any], now: datetime.datetime) -> datetime.timedelta:
    """How long credentials can live that the alias has given until now."""
    changed = alias["lastModifiedDate"]
    if changed != alias["creationDate"] and now - changed < LONGEST:
        return LONGEST  # it may have given longer ones before it was changed
    return datetime.timedelta(seconds=alias["credentialDurationSeconds"])


def statements(bucket: str, thing: str, sid: str, condition: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Deny everything on a thing's prefix, listing included."""
    listing = {"StringLike": {"s3:prefix": [thing, f"{thing}/*"]}}
    everything = {"Sid": sid, "Effect": "Deny", "Action": "s3:*", "Resource": f"{bucket}/{thing}/*"}
    return {
        "Version": "2012-10-17",
        "Statement": [
            everything | ({"Condition": condition} if condition else {}),
            {
                "Effect": "Deny",
                "Action": "s3:ListBucket",
                "Resource": bucket,
                "Condition": listing | condition,
            },
        ],
    }


def size(document: Any) -> int:
    """Characters of a policy as IAM counts them."""
    return len(document if isinstance(document, str) else json.dumps(document, separators=(",", ":")))


def kind(document: Any) -> str:
    """Tell what one of our policies does."""
    return "refused" if "aws:TokenIssueTime" in json.dumps(document) else "closed"


def over(document: Any) -> datetime.datetime | None:
    """When all credentials that one of our policies refuses have expired; None where it is not ours."""
    found = re.search(r"DropAfter(\d{8}T\d{6}Z)", json.dumps(document))
    return datetime.datetime.strptime(found[1], COMPACT).replace(tzinfo=datetime.UTC) if found else None


class Thing:
    """A thing, what is remembered of it, and what changes about it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.params, self.dry = module.params, module.check_mode
        self.iot, self.iam = aws.client(module, "iot"), aws.client(module, "iam")
        self.name: str = module.params["thing"]
        self.changes: list[str] = []
        self.warning = ""
        self.attached = self.look()
        found = self.iot.describe_thing(thingName=self.name)
        self.now = clock(found)
        self.memory = self.recall(found.get("attributes", {}).get(ATTRIBUTE, ""))

    def look(self) -> list[dict[str, Any]]:
        """Describe the certificates. Refuses a thing that is not there."""
        if not re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", self.name):
            raise aws.AwsError(
                f"thing is '{self.name}': use 1 to 128 of a-z, A-Z, 0-9, colon, underscore, hyphen"
            )
        found: list[dict[str, Any]] | None = aws.certificates(self.iot, self.name)
        if found is None:
            raise aws.AwsError(
                f"AWS IoT has no thing '{self.name}' in this account and region: correct its name, "
                "or look at AWS_PROFILE and the region"
            )
        return found

    def recall(self, text: str) -> dict[str, list[str]]:
        """Read what the thing's attribute says; empty where it is not lost."""
        parts = (part.partition("=") for part in text.split("#") if part)
        return {key: [one for one in values.split(",") if one] for key, _unused, values in parts}

    def remember(self, certificates: list[str], groups: list[str], since: str) -> bool:
        """Write it down. What cannot be written is told, and keeps nobody from closing the rest."""
        memory = {"since": [since], "certificates": certificates, "groups": groups}
        if memory == self.memory:
            return True
        self.memory = memory
        text = "#".join(f"{key}={','.join(values)}" for key, values in memory.items())
        why = f"it has {len(text)} characters, and AWS takes {ATTRIBUTE_CHARACTERS}"
        if len(text) <= ATTRIBUTE_CHARACTERS:
            try:
                payload = {"attributes": {ATTRIBUTE: text}, "merge": True}
                self.change(f"attribute {ATTRIBUTE}={text}", "update_thing", attributePayload=payload)
                return True
            except ClientError as error:
                if aws.code(error) != "InvalidRequestException":
                    raise
                why = str(error)
        self.warning = (
            f"The attribute '{ATTRIBUTE}' of thing '{self.name}' cannot be written: {why}. The thing stays "
            f"in its groups. Write down what was active, for edge_litestream.appliance.found: "
            f"{', '.join(certificates)}"
        )
        return False

    def change(self, what: str, operation: str, **args: Any) -> None:
        """Carry out one change of the thing or a certificate, or in check mode only tell it."""
        if not self.dry:
            whose = {} if "certificateId" in args else {"thingName": self.name}
            self.now = clock(getattr(self.iot, operation)(**whose, **args))
        self.changes.append(what)

    def set_status(self, certificate: str, status: str) -> None:
        """Have a certificate active or inactive."""
        if status not in (one["status"] for one in self.attached if one["id"] == certificate):
            args = {"certificateId": certificate, "newStatus": status}
            self.change(f"certificate {certificate} {status}", "update_certificate", **args)

    def groups(self) -> list[str]:
        """Name the groups that the thing is in; a dynamic one cannot be left."""
        named = [
            one["groupName"]
            for one in aws.pages(self.iot, "list_thing_groups_for_thing", "thingGroups", thingName=self.name)
        ]
        return [
            name
            for name in named
            if not self.iot.describe_thing_group(thingGroupName=name).get("queryString")
        ]

    def active(self) -> list[str]:
        """Name the active certificates but for those that are left alone."""
        besides = self.params["besides"]
        return [one["id"] for one in self.attached if one["status"] == "ACTIVE" and one["id"] not in besides]

    def lose(self) -> None:
        """Take certificates and groups away. What was there is written down before."""
        active, groups = self.active(), self.groups()
        since = [] if active else self.memory.get("since", [])
        known = {
            key: sorted({*self.memory.get(key, []), *more})
            for key, more in (("certificates", active), ("groups", groups))
        }
        written = self.remember(known["certificates"], known["groups"], *(since or [self.now.strftime(ISO)]))
        for certificate in active:
            self.set_status(certificate, "INACTIVE")
        if active and written and not self.dry:
            self.remember(known["certificates"], known["groups"], self.now.strftime(ISO))
        for group in groups if written else []:
            self.change(f"group {group} left", "remove_thing_from_thing_group", thingGroupName=group)

    def regain(self, certificates: list[str]) -> None:
        """Give certificates and groups back. What is remembered is forgotten last."""
        if missing := set(certificates) - {one["id"] for one in self.attached}:
            raise aws.AwsError(
                f"thing '{self.name}' has no certificate {', '.join(sorted(missing))} any more: "
                "have a new one made, by edge_litestream.appliance.replace"
            )
        if certificates and (others := set(self.active()) - set(certificates)):
            raise aws.AwsError(
                f"thing '{self.name}' has another active certificate, {', '.join(sorted(others))}: another "
                "device has its name. Make that one inactive first (edge_litestream.appliance.lost), "
                "or leave it as it is"
            )
        for certificate in certificates:
            self.set_status(certificate, "ACTIVE")
        for group in set(self.memory.get("groups", [])) - set(self.groups()):
            self.change(f"group {group} joined", "add_thing_to_thing_group", thingGroupName=group)
        if self.memory:
            payload = {"attributes": {ATTRIBUTE: ""}, "merge": True}
            self.change(f"attribute {ATTRIBUTE} removed", "update_thing", attributePayload=payload)

    def alias(self) -> dict[str, Any]:
        """Describe the role alias."""
        name = self.params["role_alias"]
        try:
            return dict(self.iot.describe_role_alias(roleAlias=name)["roleAliasDescription"])
        except ClientError as error:
            if aws.code(error) != "ResourceNotFoundException":
                raise
            raise aws.AwsError(
                f"AWS IoT has no role alias '{name}' in this account and region: "
                "correct edge_rotator_role_alias"
            ) from None

    def spent(self, name: str, document: Any) -> bool:
        """Whether a policy is one of ours that refuses nobody any more."""
        end = over(document)
        if end is None or end > self.now:
            return False
        owner = name.removeprefix(PREFIX).replace(".", ":")
        others = aws.certificates(self.iot, owner) or []
        return kind(document) == "refused" or all(one["status"] != "ACTIVE" for one in others)


def room(thing: Thing, role: str, policy: str, wanted: int) -> dict[str, Any]:
    """Look whether the role's inline policies have room for ours, and what may go for it."""
    listed = aws.pages(thing.iam, "list_role_policies", "PolicyNames", RoleName=role)
    documents = {
        name: thing.iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in listed
    }
    own = documents.pop(policy, None)
    free = POLICY_CHARACTERS - wanted - sum(size(document) for document in documents.values())
    drop = []
    ours = [name for name in documents if name.startswith(PREFIX) and over(documents[name])]
    for name in ours:
        if free < 0 and thing.spent(name, documents[name]):
            drop.append(name)
            free += size(documents[name])
    waiting = [end for name in ours if (end := over(documents[name])) and end > thing.now]
    return {
        "entry": kind(own) if own else "",
        "drop": drop,
        "free": free,
        "room_at": min(waiting).strftime(ISO) if waiting else "",
    }


def bring_about(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    thing = Thing(module)
    alias = thing.alias()
    remembered, certificates = bool(thing.memory), params["certificates"]
    if params["state"] == "lost":
        thing.lose()
    else:
        certificates = certificates or thing.memory.get("certificates", [])
        thing.regain(certificates if params["state"] == "found" else [])
    since = thing.now
    if params["state"] == "lost" and thing.memory:
        since = datetime.datetime.strptime(thing.memory["since"][0], ISO).replace(tzinfo=datetime.UTC)
    lasts = lifetime(alias, since)
    # The second in which the last certificate became inactive counts as before.
    before = since + datetime.timedelta(seconds=1)
    _unused, partition, _unused, _unused, _unused, resource = alias["roleArn"].split(":", 5)
    role = resource.rpartition("/")[2]
    policy = PREFIX + thing.name.replace(":", ".")
    place = (f"arn:{partition}:s3:::{params['bucket']}", thing.name, f"DropAfter{before + lasts:{COMPACT}}")
    closure = statements(*place, {})
    refusal = statements(*place, {"DateLessThan": {"aws:TokenIssueTime": before.strftime(ISO)}})
    return {
        "changed": bool(thing.changes),
        "changes": thing.changes,
        "warning": thing.warning,
        "since": since.strftime(ISO),
        "until": (before + lasts).strftime(ISO),
        "lifetime": int(lasts.total_seconds()),
        "role": role,
        "policy": policy,
        "closure": closure,
        "refusal": refusal,
        "certificates": thing.memory.get("certificates", []),
        "groups": thing.memory.get("groups", []),
        "remembered": remembered,
        **room(thing, role, policy, size(refusal)),
    }


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "thing": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["lost", "found", "replaced"], "required": True},
            "role_alias": {"type": "str", "required": True},
            "bucket": {"type": "str", "required": True},
            "certificates": {"type": "list", "elements": "str", "default": []},
            "besides": {"type": "list", "elements": "str", "default": []},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    aws.serve(module, bring_about)


if __name__ == "__main__":
    main()
