#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Have a thing's certificate in AWS IoT: signed or registered, attached, active or not, or removed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aws_iot_certificate
short_description: Have a thing's certificate in AWS IoT, active, inactive or removed
description:
  - Makes a certificate out of a request that AWS signs, or registers one that another CA has signed, attaches
    it to its thing and policy, and makes it active last. Interrupted anywhere, a next run goes on; there are
    never two certificates for one request that are active.
  - Interrupted between AWS' signature and the attachment to the thing, a certificate stays that nobody finds
    again. It is inactive and attached to nothing.
  - Refuses a thing that has another active certificate which has not expired, a certificate of another thing
    or another account, and one that was revoked.
  - Makes and registers no first certificate of a key over what another device has left, unless told O(over),
    a certificate with another key or objects in O(bucket) below the thing's name. A new device would begin
    with an empty database there.
  - Changes nothing where thing or policy do not exist.
  - Needs the rights C(iot:ListThingPrincipals), C(iot:ListPrincipalThings), C(iot:ListAttachedPolicies),
    C(iot:GetPolicy), C(iot:DescribeCertificate), C(iot:CreateCertificateFromCsr),
    C(iot:RegisterCertificateWithoutCA), C(iot:AttachThingPrincipal), C(iot:AttachPolicy),
    C(iot:UpdateCertificate), and to remove one C(iot:DetachPolicy), C(iot:DetachThingPrincipal) and
    C(iot:DeleteCertificate), and for O(bucket) C(s3:ListBucket).
extends_documentation_fragment:
  - edge_litestream.appliance.aws
  - edge_litestream.appliance.aws.check_mode
options:
  thing:
    description: Name of the thing. Needed for O(request), O(certificate), O(state=active).
    type: str
    default: ""
  policy:
    description: Name of the IoT policy. Needed where O(thing) is.
    type: str
    default: ""
  request:
    description:
      - A certificate signing request as PEM, for AWS to sign. A certificate of the thing with the same public
        key is taken for the answer, an active one first, then the newest.
    type: str
  certificate:
    description: A certificate as PEM, signed by a CA that AWS does not know.
    type: str
  id:
    description: ID of a certificate that AWS has. With O(thing) it is attached where it is not.
    type: str
  state:
    description:
      - V(absent) makes the certificate inactive, detaches it from all policies and things and deletes it. It
        goes with O(id) or O(certificate).
    type: str
    choices: [active, inactive, absent]
    default: active
  besides:
    description: IDs of certificates that may be active beside this one, and that are no answer to O(request).
    type: list
    elements: str
    default: []
  bucket:
    description:
      - Bucket of the replicas, in which nothing may be below the thing's name yet; empty looks nowhere.
    type: str
    default: ""
  over:
    description: Whether a first certificate is made over what another device has left.
    type: bool
    default: false
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: AWS has signed the request, and the certificate is active
  edge_litestream.appliance.aws_iot_certificate:
    thing: edge-0001
    policy: edge-litestream-credentials
    request: "{{ lookup('ansible.builtin.file', 'enrollment/edge-0001.csr') }}"

- name: AWS knows the certificate that the fleet CA has signed
  edge_litestream.appliance.aws_iot_certificate:
    thing: edge-0001
    policy: edge-litestream-credentials
    certificate: "{{ lookup('ansible.builtin.file', 'certificates/edge-0001.crt') }}"

- name: A certificate gets no credentials any more
  edge_litestream.appliance.aws_iot_certificate:
    id: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    state: inactive
"""

RETURN = r"""
id:
  description: ID of the certificate; empty where there is none, and in check mode where it is to be made.
  type: str
  returned: always
arn:
  description: ARN of the certificate.
  type: str
  returned: always
status:
  description: C(ACTIVE) or C(INACTIVE) as it is after the run; empty where there is none.
  type: str
  returned: always
certificate:
  description: The certificate as PEM.
  type: str
  returned: always
created:
  description: When AWS got to know it.
  type: str
  returned: always
not_after:
  description: Until when it is valid.
  type: str
  returned: always
age_s:
  description: For how many seconds AWS has known it.
  type: int
  returned: always
unchanged_s:
  description: For how many seconds AWS has had it as it was found, its status included.
  type: int
  returned: always
left_s:
  description: For how many seconds it is still valid.
  type: int
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
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

# Who stands in a certificate that AWS IoT has signed.
AWS_ISSUER = "Amazon Web Services O=Amazon.com Inc."
NOTHING = dict.fromkeys(("id", "arn", "status", "certificate", "created", "not_after"), "") | {
    "age_s": 0,
    "unchanged_s": 0,
    "left_s": 0,
}
# For a detachment that AWS has accepted and not yet carried out.
DELETE_ATTEMPTS = 5
DELETE_PAUSE_S = 2


class Certificates:
    """A thing's certificates in AWS IoT, and what changes about them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.params, self.dry = module.params, module.check_mode
        self.iot = aws.client(module, "iot")
        self.s3 = aws.client(module, "s3") if module.params["bucket"] else None
        self.thing: str = module.params["thing"]
        self.policy: str = module.params["policy"]
        self.changes: list[str] = []
        self.request = ""

    def attached(self) -> list[dict[str, Any]]:
        """Describe the thing's certificates. Refuses a thing or a policy that is not there."""
        try:
            self.iot.get_policy(policyName=self.policy)
        except ClientError as error:
            if aws.code(error) != "ResourceNotFoundException":
                raise
            raise aws.AwsError(
                f"there is no IoT policy '{self.policy}' in this account and region: "
                "run edge_litestream.appliance.cloud, or correct fleet_policy"
            ) from None
        found = aws.certificates(self.iot, self.thing)
        if found is None and not self.dry:
            raise aws.AwsError(
                f"there is no thing '{self.thing}' in this account and region: "
                "the module aws_iot_thing makes it, or correct edge_rotator_thing_name"
            )
        return found or []

    def for_request(self, text: str, attached: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Find the thing's certificate with a request's public key."""
        try:
            request = x509.load_pem_x509_csr(text.encode())
            # What was read, and nothing else that the device has written around it.
            self.request = request.public_bytes(serialization.Encoding.PEM).decode()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise aws.AwsError(f"the request cannot be read: {error}") from None
        key = aws.public_key(request)
        same = [
            one
            for one in attached
            if one["id"] not in self.params["besides"]
            and one["status"] in ("ACTIVE", "INACTIVE")
            and aws.public_key(aws.read_certificate(one["certificate"])) == key
        ]
        best: dict[str, Any] | None = max(
            same, key=lambda one: (one["status"] == "ACTIVE", one["created"]), default=None
        )
        return best

    def for_certificate(self, text: str) -> dict[str, Any] | None:
        """Find what AWS knows of a certificate. Refuses one that AWS has signed and does not know here."""
        read = aws.read_certificate(text)
        found: dict[str, Any] | None = aws.describe(self.iot, aws.fingerprint(read))
        if found is None and AWS_ISSUER in read.issuer.rfc4514_string() and self.params["state"] != "absent":
            raise aws.AwsError(
                f"certificate {aws.fingerprint(read)} was signed by AWS IoT, but not in this account "
                "and region: it is of another account or region, or was deleted. Look at AWS_PROFILE and the "
                "region; to have the request signed here, remove the file that device_identity_certificate "
                "names"
            )
        return found

    def refuse(self, found: dict[str, Any], attached: list[dict[str, Any]]) -> None:
        """Refuse a certificate that is not this thing's or cannot be active, and a thing that has another."""
        if found and found["owner"] and f":{found['owner']}:" not in found["arn"]:
            raise aws.AwsError(
                f"certificate {found['id']} is of the AWS account {found['owner']}: finish its "
                "transfer, or have the request signed in this account"
            )
        if found and found["status"] not in ("ACTIVE", "INACTIVE"):
            raise aws.AwsError(
                f"certificate {found['id']} is {found['status']}: remove it, and have a new one made"
            )
        if found and self.thing and found["id"] not in [one["id"] for one in attached]:
            things = self.things(found["arn"])
            if things and things != [self.thing]:
                raise aws.AwsError(
                    f"certificate {found['id']} is attached to the thing '{things[0]}', not to "
                    f"'{self.thing}': every device needs a key and a certificate of its own"
                )
        allowed = {*self.params["besides"], found["id"] if found else ""}
        # AWS keeps one that has expired active; it earns nothing any more.
        others = [
            one
            for one in attached
            if one["status"] == "ACTIVE" and one["left_s"] > 0 and one["id"] not in allowed
        ]
        if others and self.params["state"] == "active":
            raise aws.AwsError(
                f"thing '{self.thing}' has another active certificate, {others[0]['id']} "
                f"(made {others[0]['created'][:10]}). If the device is the same and gets a new certificate, "
                "run edge_litestream.appliance.renew; if it is another device that takes the name, run "
                "edge_litestream.appliance.replace; if it is a second device of one name, "
                "give it a name of its own"
            )

    def refuse_over(self, key: bytes, attached: list[dict[str, Any]]) -> None:
        """Refuse a first certificate where another device has left one with its key, or a replica."""
        if self.params["over"] or self.params["state"] != "active":
            return
        keys = {one["id"]: aws.public_key(aws.read_certificate(one["certificate"])) for one in attached}
        if key in keys.values():
            return  # it is this device that has left them
        others = [one for one in keys if one not in self.params["besides"]]
        bucket, prefix = self.params["bucket"], f"{self.thing}/"
        replica = self.s3 and self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"]
        if others or replica:
            left = f"the certificate {others[0]} of another key" if others else f"a replica in {bucket}"
            raise aws.AwsError(
                f"thing '{self.thing}' has {left}. For a device that takes the name over, run "
                "edge_litestream.appliance.replace, which restores the database; if the thing was retired, "
                f"first run aws iot create-thing --thing-name {self.thing}. If this device is to replicate "
                f"over what is there, say -e enroll_over={self.thing}"
            )

    def things(self, arn: str) -> list[str]:
        """Name the things that a certificate is attached to."""
        return list(aws.pages(self.iot, "list_principal_things", "things", principal=arn))

    def policies(self, arn: str) -> list[str]:
        """Name the policies that a certificate has."""
        listed = aws.pages(self.iot, "list_attached_policies", "policies", target=arn)
        return [one["policyName"] for one in listed]

    def change(self, what: str, operation: str, **args: Any) -> Any:
        """Carry out one change, or in check mode only tell it."""
        if what:
            self.changes.append(what)
        return None if self.dry else getattr(self.iot, operation)(**args)

    def made(self, found: dict[str, Any] | None) -> dict[str, Any]:
        """Have AWS sign a request or take a certificate, inactive as yet."""
        if found:
            return found
        if self.params["request"]:
            done = self.change(
                "signed by AWS",
                "create_certificate_from_csr",
                certificateSigningRequest=self.request,
            )
        else:
            done = self.change(
                "registered",
                "register_certificate_without_ca",
                certificatePem=self.params["certificate"],
                status="INACTIVE",
            )
        return (aws.describe(self.iot, done["certificateId"]) if done else None) or dict(NOTHING)

    def present(self) -> dict[str, Any]:
        """Have a certificate, attached, active or inactive."""
        attached = self.attached() if self.thing else []
        if self.params["request"]:
            found = self.for_request(self.params["request"], attached)
        elif self.params["certificate"]:
            found = self.for_certificate(self.params["certificate"])
        else:
            found = aws.describe(self.iot, self.params["id"])
            if not found:
                raise aws.AwsError(
                    f"there is no certificate {self.params['id']} in this account and region: "
                    "it was deleted, or it is of another account; look at AWS_PROFILE and the region"
                )
        self.refuse(found or {}, attached)
        if not found and self.thing:
            read = x509.load_pem_x509_csr if self.params["request"] else x509.load_pem_x509_certificate
            given = self.params["request"] or self.params["certificate"]
            self.refuse_over(aws.public_key(read(given.encode())), attached)
        known = self.made(found)
        if self.thing:
            if known["id"] not in [one["id"] for one in attached]:
                self.change(
                    f"attached to thing {self.thing}",
                    "attach_thing_principal",
                    thingName=self.thing,
                    principal=known["arn"],
                )
            if not known["arn"] or self.policy not in self.policies(known["arn"]):
                self.change(
                    f"attached to policy {self.policy}",
                    "attach_policy",
                    policyName=self.policy,
                    target=known["arn"],
                )
        wanted = self.params["state"].upper()
        # Last: what is active has all that it needs. What is to be made in check mode has no status yet.
        if known["status"] != wanted and (known["status"] or wanted == "ACTIVE"):
            self.change(wanted.lower(), "update_certificate", certificateId=known["id"], newStatus=wanted)
        return {**known, "status": known["status"] if self.dry else wanted}

    def absent(self) -> dict[str, Any]:
        """Have no such certificate."""
        if self.params["certificate"]:
            found = self.for_certificate(self.params["certificate"])
        else:
            found = aws.describe(self.iot, self.params["id"])
        if not found:
            return dict(NOTHING)
        things = self.things(found["arn"])
        others = [thing for thing in things if self.thing and thing != self.thing]
        if others:
            raise aws.AwsError(
                f"certificate {found['id']} is attached to the thing '{others[0]}', "
                f"not to '{self.thing}': correct one of them"
            )
        if found["status"] == "ACTIVE":
            self.change("inactive", "update_certificate", certificateId=found["id"], newStatus="INACTIVE")
        for policy in self.policies(found["arn"]):
            self.change(
                f"detached from policy {policy}", "detach_policy", policyName=policy, target=found["arn"]
            )
        for thing in things:
            self.change(
                f"detached from thing {thing}",
                "detach_thing_principal",
                thingName=thing,
                principal=found["arn"],
            )
        for attempt in range(DELETE_ATTEMPTS):
            try:
                self.change("" if attempt else "deleted", "delete_certificate", certificateId=found["id"])
                break
            except ClientError as error:
                if aws.code(error) != "DeleteConflictException" or attempt == DELETE_ATTEMPTS - 1:
                    raise
                time.sleep(DELETE_PAUSE_S)
        return {**found, "status": found["status"] if self.dry else ""}


def bring_about(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    for one in [*([params["id"]] if params["id"] is not None else []), *params["besides"]]:
        if not re.fullmatch(r"[0-9a-f]{64}", one):
            raise aws.AwsError(f"id or besides is '{one}': give a certificate's ID, 64 of 0-9 and a-f")
    if bool(params["thing"]) != bool(params["policy"]) and params["state"] != "absent":
        raise aws.AwsError(
            f"thing is '{params['thing']}' and policy is '{params['policy']}': give both or none of them"
        )
    if (
        not params["thing"]
        and params["state"] != "absent"
        and (params["state"] == "active" or not params["id"])
    ):
        raise aws.AwsError("thing is empty: a certificate is made, registered or activated for a thing")
    if params["request"] and params["state"] == "absent":
        raise aws.AwsError("request goes with state active or inactive: give the id of what is to be removed")
    wanted = Certificates(module)
    done = wanted.absent() if params["state"] == "absent" else wanted.present()
    return {"changed": bool(wanted.changes), "changes": wanted.changes, **{key: done[key] for key in NOTHING}}


def main() -> None:
    """Answer Ansible."""
    sources = ["request", "certificate", "id"]
    module = AnsibleModule(
        {
            "thing": {"type": "str", "default": ""},
            "policy": {"type": "str", "default": ""},
            "request": {"type": "str"},
            "certificate": {"type": "str"},
            "id": {"type": "str"},
            "state": {"type": "str", "choices": ["active", "inactive", "absent"], "default": "active"},
            "besides": {"type": "list", "elements": "str", "default": []},
            "bucket": {"type": "str", "default": ""},
            "over": {"type": "bool", "default": False},
            **aws.ARGUMENTS,
        },
        required_one_of=[sources],
        mutually_exclusive=[sources],
        supports_check_mode=True,
    )
    aws.serve(module, bring_about)


if __name__ == "__main__":
    main()
