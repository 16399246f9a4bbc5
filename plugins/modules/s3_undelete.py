#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Bring what lies under a prefix of a versioned bucket back to a point in time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: s3_undelete
short_description: Bring the objects under a prefix back to a point in time
description:
  - Needs a bucket that keeps versions. The version of an object that was the newest at O(timestamp) is copied
    over its present one; an object that did not exist then is hidden by a delete marker. No version is ever
    deleted, so nothing is lost by a wrong O(timestamp), and what a thief did can still be examined.
  - A copy has the tag C(undelete-of) beside those of the version that it was made from; a next run knows it
    by that. Who may write tags (C(s3:PutObjectTagging)) can make this module take anything for a copy, so no
    device may.
  - Changes O(limit) objects at most, in the order of their keys, and returns how many are left. A run after
    the last one changes nothing.
  - S3 tells times in whole seconds. A change within the second of O(timestamp) counts as made before it.
  - Archived versions (Glacier) and those encrypted with a customer's key (SSE-C) cannot be copied. They are
    named in the failure, after all others were copied.
  - Uses the credentials and the region that the AWS SDK finds, for instance E(AWS_PROFILE). They need
    C(s3:ListBucketVersions), C(s3:GetBucketVersioning), C(s3:GetLifecycleConfiguration), C(s3:GetObject),
    C(s3:GetObjectVersion), C(s3:GetObjectTagging), C(s3:GetObjectVersionTagging), C(s3:PutObject),
    C(s3:PutObjectTagging) and C(s3:DeleteObject).
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
  timestamp:
    description:
      - ISO 8601 with an offset, like V(2026-03-01T14:30:00+01:00) or V(2026-03-01T13:30:00Z).
      - Not in the future, and not older than the time for which the bucket's lifecycle keeps old versions.
    type: str
    required: true
  limit:
    description: Objects to change at most.
    type: int
    default: 1000
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The replica is what it was at two o'clock
  edge_litestream.appliance.s3_undelete:
    bucket: example-edge-backups
    prefix: edge-0001/
    timestamp: "2026-03-01T14:00:00Z"
"""

RETURN = r"""
copied:
  description: Objects of which an older version was copied, or in check mode would be.
  returned: always
  type: int
hidden:
  description: Objects that did not exist then and got a delete marker, or in check mode would get one.
  returned: always
  type: int
left:
  description: Objects that are still to be changed, after this run.
  returned: success
  type: int
changes:
  description: What was done or would be done, the first ten, as C(copy KEY) or C(hide KEY).
  returned: success
  type: list
  elements: str
"""

import contextlib
import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws

# aws.serve says what is missing.
with contextlib.suppress(ImportError):
    from boto3.s3.transfer import TransferConfig
    from botocore.exceptions import BotoCoreError, ClientError

BATCH = 1000  # what one request of S3 deletes at most
THREADS = 16
ONE_REQUEST_BYTES = 5 * 1024**3  # what S3 copies in one request; what is larger is copied in parts
PART_BYTES = 512 * 1024**2
# Tag of a copy: the version that it was made from. Metadata would not do: a device can write it.
ORIGIN = "undelete-of"
KEPT = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")


@dataclass(frozen=True)
class Entry:
    """A version or a delete marker."""

    version: str
    time: datetime.datetime
    latest: bool
    is_object: bool
    etag: str
    size: int

    @property
    def rank(self) -> tuple[datetime.datetime, bool, bool]:
        """Order in time. In the same second the latest comes last; an object is preferred to a marker."""
        return (self.time, self.latest, self.is_object)


@dataclass
class History:
    """What matters of one key: its present entry, and the one that was newest at the point in time."""

    now: Entry
    then: Entry | None = None


def point_in_time(text: str) -> datetime.datetime:
    """Read a timestamp."""
    try:
        point = datetime.datetime.fromisoformat(text)
    except ValueError:
        point = None
    if point is None or point.tzinfo is None:
        raise aws.AwsError(
            f"timestamp is '{text}': give date, time and offset, "
            "like 2026-03-01T14:30:00+01:00 or 2026-03-01T13:30:00Z"
        )
    if point > datetime.datetime.now(datetime.UTC):
        raise aws.AwsError(f"timestamp is '{text}', which is in the future")
    return point


class Bucket:
    """A bucket that keeps versions."""

    def __init__(self, client: Any, name: str, prefix: str) -> None:
        self.client, self.name, self.prefix = client, name, prefix

    def check(self, point: datetime.datetime) -> None:
        """Refuse a bucket or a time for which there are no old versions."""
        status = self.client.get_bucket_versioning(Bucket=self.name).get("Status", "never enabled")
        if status != "Enabled":
            raise aws.AwsError(
                f"versioning of the bucket {self.name} is {status}: a copy would replace what is there"
            )
        try:
            rules = self.client.get_bucket_lifecycle_configuration(Bucket=self.name)["Rules"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                raise
            rules = []
        days = [
            rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
            for rule in rules
            if rule["Status"] == "Enabled"
            and "NoncurrentDays" in rule.get("NoncurrentVersionExpiration", {})
            and self.concerned(rule)
        ]
        age = datetime.datetime.now(datetime.UTC) - point
        if days and age > datetime.timedelta(days=min(days)):
            raise aws.AwsError(
                f"timestamp is '{point.isoformat()}', but the bucket {self.name} keeps old versions for "
                f"{min(days)} days: what was replaced or deleted before that is gone"
            )

    def concerned(self, rule: dict[str, Any]) -> bool:
        """Whether a lifecycle rule can be about objects under the prefix."""
        chosen = rule.get("Filter", {})
        prefix = rule.get("Prefix") or chosen.get("Prefix") or chosen.get("And", {}).get("Prefix") or ""
        return bool(prefix.startswith(self.prefix) or self.prefix.startswith(prefix))

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """List every version and delete marker with its key."""
        pages = self.client.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self.name, Prefix=self.prefix):
            for kind in ("Versions", "DeleteMarkers"):
                for found in page.get(kind, []):
                    yield (
                        found["Key"],
                        Entry(
                            found["VersionId"],
                            found["LastModified"],
                            found["IsLatest"],
                            kind == "Versions",
                            found.get("ETag", ""),
                            found.get("Size", 0),
                        ),
                    )

    def histories(self, point: datetime.datetime) -> dict[str, History]:
        """Tell of every key what it is now and what it was; two entries of each are remembered, not all."""
        found: dict[str, History] = {}
        for key, entry in self.entries():
            history = found.setdefault(key, History(entry))
            # Of one kind, S3 lists the newest first.
            if entry.latest:
                history.now = entry
            if entry.time <= point and (history.then is None or entry.rank > history.then.rank):
                history.then = entry
        return found

    def restored(self, key: str, history: History) -> bool:
        """Whether the present object is the old one, or a copy of it."""
        now, then = history.now, history.then
        if then is None or now.version == then.version:
            return then is not None
        if not now.is_object or now.size != then.size:
            return False
        # An object that came in parts has another ETag than its copy.
        return now.etag == then.etag or self.tags(key, now.version).get(ORIGIN) == then.version

    def tags(self, key: str, version: str) -> dict[str, str]:
        """Read the tags of one version."""
        found = self.client.get_object_tagging(Bucket=self.name, Key=key, VersionId=version)
        return {tag["Key"]: tag["Value"] for tag in found["TagSet"]}

    def copy(self, key: str, then: Entry) -> None:
        """Put an old version over the present one, with what is known of it."""
        source = {"Bucket": self.name, "Key": key, "VersionId": then.version}
        known = self.client.head_object(**source)
        more = {name: known[name] for name in KEPT if name in known}
        more |= {"Metadata": known["Metadata"], "MetadataDirective": "REPLACE"}
        tags = {**self.tags(key, then.version), ORIGIN: then.version}
        more |= {"Tagging": urlencode(tags, quote_via=quote), "TaggingDirective": "REPLACE"}
        if then.size <= ONE_REQUEST_BYTES:
            self.client.copy_object(CopySource=source, Bucket=self.name, Key=key, **more)
        else:
            parts = TransferConfig(PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False)
            self.client.copy(source, self.name, key, ExtraArgs=more, Config=parts)

    def hide(self, keys: list[str]) -> list[str]:
        """Put delete markers over objects; return what failed."""
        failures = []
        for start in range(0, len(keys), BATCH):
            objects = [{"Key": key} for key in keys[start : start + BATCH]]
            done = self.client.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
            failures += [f"{error['Key']}: {error['Message']}" for error in done.get("Errors", [])]
        return failures


def plan(bucket: Bucket, point: datetime.datetime) -> list[tuple[str, Entry | None]]:
    """List what has to change, by key: each with the version to copy, or None to hide it."""
    histories = bucket.histories(point)
    if not any(history.then and history.then.is_object for history in histories.values()):
        raise aws.AwsError(
            f"nothing was under {bucket.prefix} in the bucket {bucket.name} at {point.isoformat()}: "
            "correct bucket, prefix or timestamp"
        )
    steps: list[tuple[str, Entry | None]] = []
    for key, history in sorted(histories.items()):
        if history.then is None or not history.then.is_object:
            if history.now.is_object:
                steps.append((key, None))
        elif not bucket.restored(key, history):
            steps.append((key, history.then))
    return steps


def carry_out(bucket: Bucket, steps: list[tuple[str, Entry | None]]) -> None:
    """Copy and hide; go on after a failure, and name what failed at the end."""

    def copy(key: str, then: Entry) -> str:
        try:
            bucket.copy(key, then)
        except (ClientError, BotoCoreError) as error:
            return f"{key}: {error}"
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(copy, key, then) for key, then in steps if then]
        failures = [said.result() for said in asked if said.result()]
    failures += bucket.hide([key for key, then in steps if then is None])
    if failures:
        raise aws.AwsError(
            f"{len(failures)} of {len(steps)} objects failed, the first: {'; '.join(failures[:3])}"
        )


def undelete(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    if not params["prefix"].strip("/") or not params["prefix"].endswith("/"):
        raise aws.AwsError(f"prefix is '{params['prefix']}': give the thing's name and a slash")
    if params["limit"] < 1:
        raise aws.AwsError(f"limit is {params['limit']}: give 1 or more")
    point = point_in_time(params["timestamp"])
    bucket = Bucket(
        aws.client(module, "s3", max_pool_connections=THREADS), params["bucket"], params["prefix"]
    )
    bucket.check(point)
    steps = plan(bucket, point)
    chosen = steps if module.check_mode else steps[: params["limit"]]
    if not module.check_mode:
        carry_out(bucket, chosen)
    return {
        "changed": bool(chosen),
        "copied": sum(then is not None for _unused, then in chosen),
        "hidden": sum(then is None for _unused, then in chosen),
        "left": len(steps) if module.check_mode else len(steps) - len(chosen),
        "changes": [f"{'copy' if then else 'hide'} {key}" for key, then in chosen[:10]],
    }


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "bucket": {"type": "str", "required": True},
            "prefix": {"type": "str", "required": True},
            "timestamp": {"type": "str", "required": True},
            "limit": {"type": "int", "default": BATCH},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    aws.serve(module, undelete)


if __name__ == "__main__":
    main()
