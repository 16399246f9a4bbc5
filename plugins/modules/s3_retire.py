#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Let everything below a prefix of a bucket expire, or delete it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: s3_retire
short_description: Let everything below a prefix of a bucket expire, or delete it
version_added: 2.0.0
description:
  - V(expire) gives every object a tag with the day of its end, and has the bucket's lifecycle delete objects
    with that tag from that day on. There is one rule for each such day, C(retired-DAY), for all prefixes
    together, so that the 1,000 rules of a bucket do for any number of devices. What is written below the
    prefix later has no tag, and stays. A rule is removed by the first run 60 days after its day.
  - The lifecycle puts a delete marker over an object. Its versions are gone when the bucket's rule for old
    versions says so.
  - An object that has its day already keeps it.
  - V(delete) deletes every version and every delete marker at once. Nothing brings them back. Versions under
    Object Lock cannot be deleted, which is an error.
  - A lifecycle that CloudFormation manages loses the rules when the stack changes it; run this again then.
  - Needs the rights C(s3:ListBucketVersions), and for V(expire) C(s3:ListBucket), C(s3:GetObjectTagging),
    C(s3:PutObjectTagging), C(s3:GetLifecycleConfiguration) and C(s3:PutLifecycleConfiguration), for V(delete)
    C(s3:DeleteObject) and C(s3:DeleteObjectVersion).
extends_documentation_fragment:
  - edge_litestream.appliance.aws
  - edge_litestream.appliance.aws.check_mode
options:
  bucket:
    description: Name of the bucket.
    type: str
    required: true
  prefix:
    description: What the keys start with; ends with C(/).
    type: str
    required: true
  state:
    description: What becomes of the objects.
    type: str
    choices: [expire, delete]
    required: true
  days:
    description: With O(state=expire), days until the end; it comes at the next midnight, UTC.
    type: int
    default: 30
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The replica expires in 90 days
  edge_litestream.appliance.s3_retire:
    bucket: example-edge-backups
    prefix: edge-0001/
    state: expire
    days: 90
"""

RETURN = r"""
objects:
  description: With O(state=expire), objects that got their day; with V(delete), versions and delete markers
    that were deleted. In check mode, those that would be.
  type: int
  returned: always
days:
  description: Days on which objects below the prefix end, like V(2026-12-31).
  type: list
  elements: str
  returned: always
changes:
  description: What was done, or in check mode would be done.
  type: list
  elements: str
  returned: always
"""

import contextlib
import datetime
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws

# Where it is missing, aws.serve says so.
with contextlib.suppress(ImportError):
    from botocore.exceptions import ClientError

TAG = "retired"
RULE = "retired-"
KEPT = datetime.timedelta(days=60)  # S3 is done with a rule long before
THREADS = 10  # as many connections as a client keeps
MAX_RULES = 1000


class Prefix:
    """What lies below a prefix."""

    def __init__(self, module: AnsibleModule) -> None:
        self.dry, self.days = module.check_mode, module.params["days"]
        self.s3 = aws.client(module, "s3")
        self.bucket: str = module.params["bucket"]
        self.prefix: str = module.params["prefix"]
        self.changes: list[str] = []

    def day_of(self, key: str) -> tuple[str, str, list[dict[str, str]]]:
        """Return an object's key, the day of its end, empty where it has none, and its other tags."""
        tags = self.s3.get_object_tagging(Bucket=self.bucket, Key=key)["TagSet"]
        day = next((tag["Value"] for tag in tags if tag["Key"] == TAG), "")
        return key, day, [tag for tag in tags if tag["Key"] != TAG]

    def expire(self) -> tuple[int, list[str]]:
        """Have every object end on its day."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(**self.asked())
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(self.day_of, keys))
            fresh = [(key, others) for key, day, others in found if not day]
            days = {day for _key, day, _others in found if day}
            if fresh:
                end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=self.days + 1)
                wanted = f"{end:%Y-%m-%d}"
                days.add(wanted)
            # Before the tags: without a rule they do nothing, and one day's rule without tags does no harm.
            self.rules(days)
            if fresh:
                self.changes.append(f"{len(fresh)} objects end on {wanted}")

            def mark(key: str, others: list[dict[str, str]]) -> None:
                tags = {"TagSet": [*others, {"Key": TAG, "Value": wanted}]}
                self.s3.put_object_tagging(Bucket=self.bucket, Key=key, Tagging=tags)

            for done in [pool.submit(mark, *one) for one in fresh] if not self.dry else []:
                done.result()
        return len(fresh), sorted(days)

    def rules(self, days: set[str]) -> None:
        """Have a rule for every day, and none for days long past. Other rules stay."""
        try:
            known = self.s3.get_bucket_lifecycle_configuration(Bucket=self.bucket)
        except ClientError as error:
            if aws.code(error) != "NoSuchLifecycleConfiguration":
                raise
            known = {"Rules": []}
        past = f"{datetime.datetime.now(datetime.UTC) - KEPT:%Y-%m-%d}"
        ours = {
            rule["ID"].removeprefix(RULE) for rule in known["Rules"] if rule.get("ID", "").startswith(RULE)
        }
        drop = {day for day in ours - days if day < past}
        if not (days - ours or drop):
            return
        rules = [rule for rule in known["Rules"] if rule.get("ID", "").removeprefix(RULE) not in drop]
        for day in sorted(days - ours):
            rules.append(
                {
                    "ID": RULE + day,
                    "Status": "Enabled",
                    "Filter": {"Tag": {"Key": TAG, "Value": day}},
                    "Expiration": {"Date": datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00")},
                }
            )
        if len(rules) > MAX_RULES:
            raise aws.AwsError(
                f"the lifecycle of the bucket {self.bucket} would have {len(rules)} rules, and S3 takes "
                f"{MAX_RULES}: remove some of yours, or choose a day on which other devices' replicas end"
            )
        self.changes += [f"rule {RULE}{day} made" for day in sorted(days - ours)]
        self.changes += [f"rule {RULE}{day} removed" for day in sorted(drop)]
        if not self.dry:
            more = {key: known[key] for key in ("TransitionDefaultMinimumObjectSize",) if key in known}
            self.s3.put_bucket_lifecycle_configuration(
                Bucket=self.bucket,
                LifecycleConfiguration={"Rules": [modern(rule) for rule in rules]},
                **more,
            )

    def delete(self) -> int:
        """Delete every version and delete marker."""
        if self.dry:
            pages = self.s3.get_paginator("list_object_versions").paginate(**self.asked())
            number = sum(len(versions(page)) for page in pages)
        else:
            number = 0
            # From the beginning each time: where a listing goes on is told by an entry that is gone by then.
            while found := versions(self.s3.list_object_versions(**self.asked())):
                done = self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": found, "Quiet": True})
                if failed := done.get("Errors", []):
                    raise aws.AwsError(
                        f"{len(failed)} of {len(found)} versions cannot be deleted, the first: "
                        f"{failed[0]['Key']}: {failed[0]['Message']}. Object Lock keeps them, or your AWS "
                        "credentials lack the right to s3:DeleteObjectVersion; the next run goes on"
                    )
                number += len(found)
        if number:
            self.changes.append(f"{number} versions deleted")
        return number

    def asked(self) -> dict[str, str]:
        """Name bucket and prefix, for a listing."""
        return {"Bucket": self.bucket, "Prefix": self.prefix}


def versions(page: dict[str, Any]) -> list[dict[str, str]]:
    """Name the versions and delete markers of one answer, as a deletion wants them."""
    found = page.get("Versions", []) + page.get("DeleteMarkers", [])
    return [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]


def modern(rule: dict[str, Any]) -> dict[str, Any]:
    """Rewrite a rule of the old form, which S3 does not take beside those with a filter."""
    if "Prefix" not in rule:
        return rule
    return {key: value for key, value in rule.items() if key != "Prefix"} | {
        "Filter": {"Prefix": rule["Prefix"]}
    }


def bring_about(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    if not params["prefix"].strip("/") or not params["prefix"].endswith("/"):
        raise aws.AwsError(f"prefix is '{params['prefix']}': give the thing's name and a slash")
    if params["days"] < 0:
        raise aws.AwsError(f"days is {params['days']}: give 0 or more")
    below = Prefix(module)
    number, days = below.expire() if params["state"] == "expire" else (below.delete(), [])
    return {"changed": bool(below.changes), "changes": below.changes, "objects": number, "days": days}


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "bucket": {"type": "str", "required": True},
            "prefix": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["expire", "delete"], "required": True},
            "days": {"type": "int", "default": 30},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    aws.serve(module, bring_about)


if __name__ == "__main__":
    main()
