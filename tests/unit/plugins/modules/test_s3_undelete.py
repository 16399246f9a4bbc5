"""s3_undelete: against moto's S3, with more objects and versions than one answer holds."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws
from ansible_collections.edge_litestream.appliance.plugins.modules import s3_undelete
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.unit import models_once  # noqa: F401 - for what it does

Run = Callable[..., dict[str, Any]]
BUCKET = "backups"
PREFIX = "edge-0001/"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket as files/aws-fleet.yaml makes it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "operator")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        rule = {
            "ID": "old-versions",
            "Status": "Enabled",
            "Filter": {},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
        }
        client.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [rule]})
        yield client


def put(s3: Any, *keys: str, text: str = "good", prefix: str = PREFIX) -> None:
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=prefix + key, Body=f"{text} {key}", Metadata={"made": text})


def now() -> str:
    """Wait for the next second, since S3 tells times in whole ones; give the end of the last."""
    time.sleep(1 - time.time() % 1)
    return datetime.datetime.fromtimestamp(int(time.time()) - 0.1, datetime.UTC).isoformat()


def content(s3: Any, prefix: str = PREFIX) -> dict[str, str]:
    """All that is visible under the prefix."""
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {
        entry["Key"].removeprefix(prefix): s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"]
        .read()
        .decode()
        for entry in found
    }


def versions(s3: Any) -> set[tuple[str, str]]:
    """Every version and delete marker of the bucket."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET)
    return {
        (entry["Key"], entry["VersionId"])
        for page in pages
        for kind in ("Versions", "DeleteMarkers")
        for entry in page.get(kind, [])
    }


def tags(s3: Any, key: str) -> dict[str, str]:
    found = s3.get_object_tagging(Bucket=BUCKET, Key=PREFIX + key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def args(timestamp: str, **more: Any) -> dict[str, Any]:
    return {"bucket": BUCKET, "prefix": PREFIX, "timestamp": timestamp, **more}


def test_everything_is_as_it_was(run: Run, s3: Any) -> None:
    put(s3, "kept", "deleted", "overwritten", "both", "again")
    put(s3, "gone before", "old")
    now()
    put(s3, "old", text="better")
    s3.delete_object(Bucket=BUCKET, Key=PREFIX + "gone before")
    put(s3, "other", prefix="edge-00012/")
    point = now()
    before = content(s3)
    assert before["old"] == "better old"
    assert "gone before" not in before
    put(s3, "overwritten", "both", "old", "gone before", "new/one", text="bad")
    for key in ("deleted", "both", "again"):
        s3.delete_object(Bucket=BUCKET, Key=PREFIX + key)
    put(s3, "again", text="bad")
    put(s3, "other", prefix="edge-00012/", text="bad")
    evidence = versions(s3)

    would = run(check=True, **args(point))
    assert (would["changed"], would["copied"], would["hidden"], would["left"]) == (True, 5, 2, 7)
    assert would["changes"][:2] == [f"copy {PREFIX}again", f"copy {PREFIX}both"]
    assert versions(s3) == evidence, "check mode changes nothing"

    done = run(**args(point))
    assert (done["changed"], done["copied"], done["hidden"], done["left"]) == (True, 5, 2, 0), done
    assert content(s3) == before
    assert versions(s3) > evidence, "no version is lost"
    assert content(s3, "edge-00012/") == {"other": "bad other"}, "another thing's object"
    metadata = s3.head_object(Bucket=BUCKET, Key=PREFIX + "old")["Metadata"]
    assert metadata["made"] == "better"

    after = versions(s3)
    assert run(**args(point))["changed"] is False
    assert versions(s3) == after


def test_more_than_a_thousand(run: Run, s3: Any) -> None:
    """Two batches. The good version of one object is on another page of the list than its latest."""
    put(s3, "a0900-hot", "b", "c")
    point = now()
    before = content(s3)
    names = [f"a{number:04}" for number in range(1010)] + ["a0900-hot"] * 200
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: put(s3, name, text="bad"), names))
    s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}b")
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET)
    lists = [[entry["Key"] for entry in page["Versions"]] for page in pages]
    assert f"{PREFIX}a0900-hot" in lists[0]
    assert f"{PREFIX}a0900-hot" in lists[1]
    done = run(**args(point))
    assert (done["copied"], done["hidden"], done["left"]) == (1, 999, 12), done
    done = run(**args(point))
    assert (done["copied"], done["hidden"], done["left"]) == (1, 11, 0), done
    assert run(check=True, **args(point))["changed"] is False
    assert content(s3) == before


def test_an_object_that_came_in_parts_is_copied_once(run: Run, s3: Any) -> None:
    """Its copy has another ETag."""
    key, size = f"{PREFIX}snapshot", 5 * 1024 * 1024
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, Metadata={"made": "good"})["UploadId"]
    parts = []
    for number in (1, 2):
        body = str(number).encode() * (size if number == 1 else 10)
        part = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    etag = s3.head_object(Bucket=BUCKET, Key=key)["ETag"]
    point = now()
    put(s3, "snapshot", text="bad")
    assert run(**args(point))["copied"] == 1
    found = s3.head_object(Bucket=BUCKET, Key=key)
    assert (found["ContentLength"], found["Metadata"]["made"]) == (size + 10, "good")
    assert found["ETag"] != etag
    assert run(**args(point))["changed"] is False


def test_what_is_too_large_for_one_request_is_copied_in_parts(
    run: Run, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_undelete, "ONE_REQUEST_BYTES", 6 * 1024**2)
    monkeypatch.setattr(s3_undelete, "PART_BYTES", 5 * 1024**2)
    body = bytes(range(256)) * 4 * 1024 * 7
    tagged = {"Metadata": {"made": "good"}, "Tagging": "kind=a%20snapshot"}
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}large", Body=body, **tagged)
    point = now()
    put(s3, "large", text="bad")
    done = run(**args(point))
    assert done["copied"] == 1, done
    found = s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}large")
    assert found["Body"].read() == body
    assert found["Metadata"] == {"made": "good"}
    assert tags(s3, "large")["kind"] == "a snapshot"
    assert run(**args(point))["changed"] is False


def test_an_object_that_calls_itself_a_copy_is_none(run: Run, s3: Any) -> None:
    """A device can write metadata and learns the version from its GET; it cannot write tags."""
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}a", Body=b"good", Tagging="kind=a%20%2B%20b")
    version = s3.head_object(Bucket=BUCKET, Key=f"{PREFIX}a")["VersionId"]
    point = now()
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}a", Body=b"evil", Metadata={"undelete-of": version})
    assert run(**args(point))["copied"] == 1
    assert content(s3) == {"a": "good"}
    assert tags(s3, "a") == {"kind": "a + b", "undelete-of": version}, "its own are kept"
    assert run(**args(point))["changed"] is False


def test_a_copy_of_another_version_is_copied_over(run: Run, s3: Any) -> None:
    """Of two times, the run for the second counts; a copy of a copy names what it was made from."""
    points = []
    for number in range(2):
        put(s3, "a", text=f"good{number}")
        points.append(now())
    put(s3, "a", text="evil0")
    for number, point in ((0, points[0]), (1, points[1]), (0, points[0])):
        assert run(**args(point))["copied"] == 1
        assert content(s3) == {"a": f"good{number} a"}
        assert run(**args(point))["changed"] is False
    point = now()
    put(s3, "a", text="evil1")
    copied = s3.list_object_versions(Bucket=BUCKET, Prefix=PREFIX)["Versions"][1]["VersionId"]
    assert run(**args(point))["copied"] == 1
    assert tags(s3, "a") == {"undelete-of": copied}


def test_one_that_cannot_be_copied_holds_up_no_other(
    run: Run, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, "a", "b", "c")
    point = now()
    put(s3, "a", "b", "c", "new", text="bad")
    copy = s3_undelete.Bucket.copy

    def refuse(self: Any, key: str, then: Any) -> None:
        if key.endswith("/b"):
            raise ClientError({"Error": {"Code": "InvalidObjectState", "Message": "archived"}}, "CopyObject")
        copy(self, key, then)

    monkeypatch.setattr(s3_undelete.Bucket, "copy", refuse)
    done = run(**args(point))
    assert done["failed"]
    assert f"1 of 4 objects failed, the first: {PREFIX}b: " in done["msg"]
    assert "archived" in done["msg"]
    assert content(s3) == {"a": "good a", "b": "bad b", "c": "good c"}


@pytest.mark.parametrize(
    ("timestamp", "said"),
    [
        ("2026-03-01T13:30:00", "give date, time and offset"),
        ("2026-03-01", "give date, time and offset"),
        ("03/01/2026 13:30 UTC", "give date, time and offset"),
        ("yesterday", "give date, time and offset"),
        ("2999-03-01T13:30:00Z", "in the future"),
        ("2001-03-01T13:30:00+01:00", "keeps old versions for 30 days"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(run: Run, s3: Any, timestamp: str, said: str) -> None:
    put(s3, "a")
    done = run(**args(timestamp))
    assert done["failed"]
    assert said in done["msg"]


def test_nothing_is_hidden_where_nothing_was(run: Run, s3: Any) -> None:
    point = now()
    put(s3, "a")
    assert f"nothing was under {PREFIX} in the bucket" in run(**args(point))["msg"]
    assert content(s3) == {"a": "good a"}


@pytest.mark.parametrize("prefix", ["", "/", "edge-0001"])
def test_a_prefix_that_would_reach_further_is_refused(run: Run, s3: Any, prefix: str) -> None:
    assert "give the thing's name and a slash" in run(**args(now(), prefix=prefix))["msg"]


def test_a_bucket_without_versions_is_refused(run: Run, s3: Any) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    assert "versioning of the bucket backups is Suspended" in run(**args(now()))["msg"]


def test_a_rule_about_other_objects_does_not_count(run: Run, s3: Any) -> None:
    rules = [
        {
            "ID": name,
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "NoncurrentVersionExpiration": {"NoncurrentDays": days},
        }
        for name, prefix, days in (("other", "edge-0002/", 1), ("own", "edge-0001/db/", 20))
    ]
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": rules})
    assert "for 20 days" in run(**args("2001-03-01T13:30:00Z"))["msg"]


def test_without_boto3_the_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "WITHOUT_BOTO3", "ImportError")
    done = run(**args("2026-03-01T13:30:00Z"))
    assert done["failed"]
    assert "Failed to import the required Python library (boto3)" in done["msg"]
