"""s3_retire: against moto's S3."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import s3_retire
from moto import mock_aws

from tests.unit import models_once  # noqa: F401 - for what it does

Run = Callable[..., dict[str, Any]]
BUCKET, PREFIX, OTHER = "backups", "edge-0001/", "edge-00010/"
OLD = {"ID": "old-versions", "Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 30}}
ASKED = {"bucket": BUCKET, "prefix": PREFIX}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket with two things' objects, one of them written twice, one deleted."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "operator")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        client.put_bucket_lifecycle_configuration(
            Bucket=BUCKET, LifecycleConfiguration={"Rules": [{**OLD, "Prefix": ""}]}
        )
        for prefix in (PREFIX, OTHER):
            for number in (1, 2, 3, 3):
                client.put_object(
                    Bucket=BUCKET, Key=f"{prefix}app.db/{number}", Body=b"x", Tagging="owner=me"
                )
            client.delete_object(Bucket=BUCKET, Key=f"{prefix}app.db/1")
        yield client


def tags(s3: Any, prefix: str = PREFIX) -> dict[str, dict[str, str]]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {
        one["Key"].removeprefix(prefix): {
            tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(Bucket=BUCKET, Key=one["Key"])["TagSet"]
        }
        for one in found
    }


def rules(s3: Any) -> dict[str, Any]:
    known = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    return {rule["ID"]: rule for rule in known}


def versions(s3: Any, prefix: str) -> int:
    found = s3.list_object_versions(Bucket=BUCKET, Prefix=prefix)
    return len(found.get("Versions", [])) + len(found.get("DeleteMarkers", []))


def day(days: int) -> str:
    return f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days):%Y-%m-%d}"


def test_objects_end_on_their_day_and_no_others(s3: Any, run: Run) -> None:
    mine = {"owner": "me"}
    looked = run(check=True, **ASKED, state="expire", days=90)
    assert looked["objects"] == 2
    assert set(tags(s3)) == {"app.db/2", "app.db/3"}
    assert list(tags(s3).values()) == [mine, mine], "check mode changes nothing"
    assert rules(s3).keys() == {"old-versions"}
    done = run(**ASKED, state="expire", days=90)
    assert done["changes"] == looked["changes"]
    assert done["days"] == [day(91)]
    assert list(tags(s3).values()) == [{**mine, "retired": day(91)}] * 2
    assert list(tags(s3, OTHER).values()) == [mine, mine], "another thing's"
    assert versions(s3, PREFIX) == 5, "nothing is gone yet"
    rule = rules(s3)[f"retired-{day(91)}"]
    assert rule["Filter"] == {"Tag": {"Key": "retired", "Value": day(91)}}
    assert rule["Status"] == "Enabled"
    assert rule["Expiration"]["Date"].isoformat() == f"{day(91)}T00:00:00+00:00"
    # S3 takes no rule of the old form beside one with a filter.
    assert rules(s3)["old-versions"]["Filter"] == {"Prefix": ""}
    assert rules(s3)["old-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}

    assert not run(**ASKED, state="expire", days=10)["changed"], "its day stays"
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}app.db/4", Body=b"x")
    done = run(**ASKED, state="expire", days=10)
    assert (done["objects"], done["days"]) == (1, [day(11), day(91)])


def test_a_rule_that_is_gone_comes_back_and_an_old_one_goes(s3: Any, run: Run) -> None:
    run(**ASKED, state="expire", days=1)
    past = {"ID": "retired-2020-01-01", "Status": "Enabled", "Filter": {"Prefix": "x"}}
    past["Expiration"] = {"Date": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)}
    filtered = {**OLD, "Filter": {"Prefix": ""}}
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [filtered, past]})
    done = run(**ASKED, state="expire", days=1)
    assert done["changes"] == [f"rule retired-{day(2)} made", "rule retired-2020-01-01 removed"]
    assert rules(s3).keys() == {"old-versions", f"retired-{day(2)}"}
    s3.delete_bucket_lifecycle(Bucket=BUCKET)
    run(**ASKED, state="expire", days=1)
    assert rules(s3).keys() == {f"retired-{day(2)}"}


def test_a_full_lifecycle_is_told_before_anything_changes(
    s3: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retire, "MAX_RULES", 1)
    done = run(**ASKED, state="expire")
    assert "would have 2 rules, and S3 takes 1" in done["msg"]
    assert all("retired" not in found for found in tags(s3).values())


def test_everything_is_deleted_below_the_prefix_alone(s3: Any, run: Run) -> None:
    assert run(check=True, **ASKED, state="delete")["objects"] == 5
    assert versions(s3, PREFIX) == 5
    assert run(**ASKED, state="delete")["objects"] == 5
    assert (versions(s3, PREFIX), versions(s3, OTHER)) == (0, 5)
    for state in ("delete", "expire"):
        assert not run(**ASKED, state=state)["changed"], "nothing is there"


def test_more_than_one_answer_holds_is_deleted(s3: Any, run: Run) -> None:
    for number in range(1001):
        s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}many/{number}", Body=b"x")
    assert run(check=True, **ASKED, state="delete")["objects"] == 1006
    assert run(**ASKED, state="delete")["objects"] == 1006
    assert (versions(s3, PREFIX), versions(s3, OTHER)) == (0, 5)


def test_what_is_locked_is_told(s3: Any, run: Run) -> None:
    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    s3.put_object(Bucket="locked", Key=f"{PREFIX}1", Body=b"x", **lock)
    done = run(bucket="locked", prefix=PREFIX, state="delete")
    assert "1 of 1 versions cannot be deleted" in done["msg"]
    assert "Object Lock keeps them" in done["msg"]


@pytest.mark.parametrize("prefix", ["", "/", "edge-0001"])
def test_a_prefix_that_is_more_than_one_things_is_refused(s3: Any, run: Run, prefix: str) -> None:
    done = run(bucket=BUCKET, prefix=prefix, state="delete")
    assert "give the thing's name and a slash" in done["msg"]
    assert versions(s3, "") == 10
