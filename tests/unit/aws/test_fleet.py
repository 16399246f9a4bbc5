"""files/aws-fleet.yaml makes what the credential provider needs, and confines a device as the lab does."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from edge_cloud.ledger import DEVICE, Key
from edge_cloud.policy import authorise, read_operation
from edge_cloud.s3errors import S3Error
from tests.unit import models_once  # noqa: F401 - for what it does

TEMPLATE = Path(__file__).resolve().parents[3] / "files/aws-fleet.yaml"
REGION = "eu-central-1"
BUCKET = "example-edge-backups"
THING = "edge-0001"


PARAMETERS = {"BucketName": BUCKET, "CredentialSeconds": "900"}


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[None]:
    """Deploy the template with a bucket's name and 900 s, everything else by default or as the test says.

    Once for all tests that only look at it.
    """
    parameters = {**PARAMETERS, **getattr(request, "param", {})}
    with mock_aws(), pytest.warns(UserWarning, match="AWS::S3::BucketPolicy"):
        client = boto3.client("cloudformation", region_name=REGION)
        client.create_stack(
            StackName="edge",
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        )
        assert client.describe_stacks(StackName="edge")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"
        yield


def the_role() -> dict[str, Any]:
    """Return the role that devices get, by the alias that leads to it."""
    iot = boto3.client("iot", region_name=REGION)
    alias = iot.describe_role_alias(roleAlias="edge-litestream")["roleAliasDescription"]
    roles = boto3.client("iam").list_roles()["Roles"]
    return next(role for role in roles if role["Arn"] == alias["roleArn"])


def statements(document: object) -> list[dict[str, Any]]:
    """Read a policy; moto keeps some of those that come from a template as Python would print them."""
    return list(yaml.safe_load(str(document))["Statement"])


def test_the_alias_leads_to_a_role_that_only_the_provider_may_assume(stack: None) -> None:
    alias = boto3.client("iot", region_name=REGION).describe_role_alias(roleAlias="edge-litestream")
    found, role = alias["roleAliasDescription"], the_role()
    assert found["roleArn"] == role["Arn"]
    assert found["credentialDurationSeconds"] == 900
    assert role["MaxSessionDuration"] >= 43200
    trusted = statements(role["AssumeRolePolicyDocument"])
    assert [(entry["Principal"], entry["Action"]) for entry in trusted] == [
        ({"Service": "credentials.iot.amazonaws.com"}, "sts:AssumeRole")
    ]


def test_no_policy_that_is_put_into_the_role_goes_beyond_the_bucket(stack: None) -> None:
    """The boundary allows what the role's own policy does, and nothing outside the fleet's bucket."""
    iam = boto3.client("iam")
    role = iam.get_role(RoleName=the_role()["RoleName"])["Role"]
    arn = role["PermissionsBoundary"]["PermissionsBoundaryArn"]
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    most = [
        {**one, "Action": [one["Action"]]} if isinstance(one["Action"], str) else one
        for one in statements(document)
    ]
    inline = role_statements()
    for one, own in zip(most, inline, strict=True):
        assert one["Effect"] == "Allow"
        assert set(one["Action"]) == {own["Action"]} if isinstance(own["Action"], str) else set(own["Action"])
        assert one["Resource"] == own["Resource"].replace("${credentials-iot:ThingName}/", "")


def test_a_certificate_may_use_this_alias_and_do_nothing_else(stack: None) -> None:
    iot = boto3.client("iot", region_name=REGION)
    alias = iot.describe_role_alias(roleAlias="edge-litestream")["roleAliasDescription"]["roleAliasArn"]
    document = iot.get_policy(policyName="edge-litestream-credentials")["policyDocument"]
    assert statements(document) == [
        {"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": alias}
    ]


@functools.cache
def bucket_statements() -> list[dict[str, Any]]:
    template = yaml.load(TEMPLATE.read_text(), yaml.BaseLoader)  # noqa: S506 - keeps "false" a text
    return list(template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"])


def role_statements() -> list[dict[str, Any]]:
    policy = boto3.client("iam").get_role_policy(RoleName=the_role()["RoleName"], PolicyName="own-prefix")
    return statements(policy["PolicyDocument"])


def bucket_denies(action: str, headers: dict[str, str]) -> bool:
    """Evaluate the bucket's policy, which moto does not know: Deny statements with one condition each."""
    given = {"aws:SecureTransport": "true", **{f"s3:{name}": value for name, value in headers.items()}}
    for statement in bucket_statements():
        assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
        ((operator, wanted),) = statement["Condition"].items()
        ((key, value),) = wanted.items()
        holds = {
            "Bool": given.get(key) == value,
            "Null": (key not in given) == (value == "true"),
        }[operator]
        if fnmatchcase(action, statement["Action"]) and holds:
            return True
    return False


def by_template(
    action: str,
    bucket: str,
    key: str,
    prefix: str | None,
    headers: dict[str, str] | None = None,
    thing: str = THING,
    granted_by: list[dict[str, Any]] | None = None,
) -> bool:
    """Evaluate the role's policy as IAM does: Allow statements, wildcards, one condition."""
    if bucket_denies(action, headers or {}):
        return False
    arn = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    for statement in granted_by or role_statements():
        assert statement["Effect"] == "Allow"
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        resource = statement["Resource"].replace("${credentials-iot:ThingName}", thing)
        wanted = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", "*")
        wanted = wanted.replace("${credentials-iot:ThingName}", thing)
        granted = any(fnmatchcase(action, each) for each in actions)
        if granted and fnmatchcase(arn, resource) and fnmatchcase(prefix or "", wanted):
            return True
    return False


def by_lab(
    method: str,
    bucket: str,
    key: str,
    prefix: str | None,
    headers: dict[str, str] | None = None,
    thing: str = THING,
) -> bool:
    """Ask the lab's S3 gate."""
    query = f"?prefix={prefix}" if prefix is not None else ""
    operation = read_operation(method, f"/{bucket}/{key}{query}", (headers or {}).items())
    try:
        authorise(
            Key("ASIA", "s", "t", DEVICE, thing, "alias", "01", 0, 1), operation, operation.keys, BUCKET
        )
    except S3Error:
        return False
    return True


@pytest.mark.parametrize(
    ("method", "action", "bucket", "key", "prefix", "allowed"),
    [
        ("GET", "s3:GetObject", BUCKET, f"{THING}/sample.db/0/1.ltx", None, True),
        ("PUT", "s3:PutObject", BUCKET, f"{THING}/sample.db/0/1.ltx", None, True),
        ("DELETE", "s3:DeleteObject", BUCKET, f"{THING}/sample.db/0/1.ltx", None, True),
        ("GET", "s3:ListBucket", BUCKET, "", f"{THING}/sample.db/", True),
        ("GET", "s3:GetObject", BUCKET, "edge-0002/sample.db/0/1.ltx", None, False),
        ("PUT", "s3:PutObject", BUCKET, f"{THING}2/sample.db/0/1.ltx", None, False),
        ("DELETE", "s3:DeleteObject", BUCKET, "sample.db", None, False),
        ("GET", "s3:GetObject", "another-bucket", f"{THING}/sample.db/0/1.ltx", None, False),
        ("GET", "s3:ListBucket", BUCKET, "", "edge-0002/", False),
        ("GET", "s3:ListBucket", BUCKET, "", "", False),
        ("GET", "s3:ListBucket", BUCKET, "", None, False),
    ],
)
def test_a_device_reaches_its_own_prefix_alone(
    method: str, action: str, bucket: str, key: str, prefix: str | None, allowed: bool, stack: None
) -> None:
    assert by_template(action, bucket, key, prefix) == allowed
    assert by_lab(method, bucket, key, prefix) == allowed, "the lab refuses what AWS would"


# What preflight lets through: the beginning and the end of one another, other cases, every other character.
NAMES = ["a", "b", "ab", "ba", "A", "aa", "a-b", "a_b", "a:b", "a-", "-a", "a-b-c", "a" * 64]
SLASHED = "a/b"


def thing_name_rule() -> str:
    """The pattern by which preflight takes or refuses a thing's name."""
    tasks = yaml.safe_load((TEMPLATE.parents[1] / "roles/device_identity/tasks/preflight.yml").read_text())
    rules = tasks[0]["edge_litestream.appliance.preflight"]["rules"]
    (found,) = (
        found
        for rule in rules
        if (found := re.match(r"device_identity_thing_name is match\('(.*)'\)", rule["that"]))
    )
    return found[1]


def reached(thing: str, owner: str, granted_by: list[dict[str, Any]]) -> set[str]:
    """What a thing may do with what is another's, asked of the template and of the lab alike."""
    asked: list[tuple[str, str, str, str | None]] = [
        (method, action, f"{owner}/{name}", None)
        for method, action in (
            ("GET", "s3:GetObject"),
            ("PUT", "s3:PutObject"),
            ("DELETE", "s3:DeleteObject"),
        )
        for name in ("sample.db/0000/1.ltx", "x")
    ]
    asked += [("GET", "s3:ListBucket", "", f"{owner}{rest}") for rest in ("", "/", "/sample.db/0000/")]
    allowed = set()
    for method, action, key, prefix in asked:
        answers = (
            by_template(action, BUCKET, key, prefix, None, thing, granted_by),
            by_lab(method, BUCKET, key, prefix, thing=thing),
        )
        assert answers[0] == answers[1], (thing, action, key, prefix)
        if answers[0]:
            allowed.add(f"{action} {key or prefix}")
    return allowed


def test_no_thing_reaches_what_is_anothers_whatever_the_names(stack: None) -> None:
    """A does all with A's and nothing with B's; listing by the bare name without a slash is nobody's."""
    granted_by = role_statements()
    for name in NAMES:
        assert re.match(thing_name_rule(), name)
        assert len(reached(name, name, granted_by)) == 8
    assert {
        (one, other) for one in NAMES for other in NAMES if one != other and reached(one, other, granted_by)
    } == set()


def test_a_name_with_a_slash_would_lie_in_anothers_prefix_so_nobody_has_one(stack: None) -> None:
    """AWS IoT takes none either: a thing's name is of letters, digits, colon, underscore and hyphen."""
    assert reached("a", SLASHED, role_statements()), "the prefix a/b/ is below a/"
    assert not re.match(thing_name_rule(), SLASHED)


@pytest.mark.parametrize("stack", [{"DeviceMayDelete": "false"}], indirect=True)
def test_a_device_that_may_not_delete_still_replicates(stack: None) -> None:
    key = f"{THING}/sample.db/0/1.ltx"
    assert not by_template("s3:DeleteObject", BUCKET, key, None)
    for action in ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"):
        assert by_template(action, BUCKET, key, None)
    assert by_template("s3:ListBucket", BUCKET, "", f"{THING}/sample.db/")


def test_outputs_are_what_an_inventory_needs(stack: None) -> None:
    client = boto3.client("cloudformation", region_name=REGION)
    outputs = {
        one["OutputKey"]: one["OutputValue"]
        for one in client.describe_stacks(StackName="edge")["Stacks"][0]["Outputs"]
    }
    assert outputs.pop("TopicArn").startswith(f"arn:aws:sns:{REGION}:")
    assert outputs == {
        "BucketName": BUCKET,
        "RoleAliasName": "edge-litestream",
        "RoleName": the_role()["RoleName"],
        "PolicyName": "edge-litestream-credentials",
        "ThingTypeName": "edge-litestream",
        "ThingGroupName": "edge-litestream",
        "CredentialSeconds": "900",
    }
    described = boto3.client("iot", region_name=REGION).describe_thing_type(thingTypeName="edge-litestream")
    assert described["thingTypeProperties"]["searchableAttributes"] == ["profile", "region", "ring"]


def of_template(**given: str) -> dict[str, Any]:
    """Properties of what the template makes with these parameters, for moto does not make all of it."""
    template = yaml.safe_load(TEMPLATE.read_text())
    values = (
        {name: str(one.get("Default", "")) for name, one in template["Parameters"].items()}
        | PARAMETERS
        | given
    )

    def holds(condition: dict[str, Any]) -> bool:
        if "Fn::Not" in condition:
            return not holds(condition["Fn::Not"][0])
        left, right = condition["Fn::Equals"]
        return values[left["Ref"]] == str(right)

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [one for one in map(resolved, value) if one != {"Ref": "AWS::NoValue"}]
        if not isinstance(value, dict):
            return value
        if "Fn::If" in value:
            name, yes, no = value["Fn::If"]
            return resolved(yes if holds(template["Conditions"][name]) else no)
        if value.get("Ref") in values:
            return values[value["Ref"]]
        found = {key: resolved(one) for key, one in value.items()}
        return {key: one for key, one in found.items() if one != {"Ref": "AWS::NoValue"}}

    return {
        name: resolved(one)["Properties"]
        for name, one in template["Resources"].items()
        if "Properties" in one and ("Condition" not in one or holds(template["Conditions"][one["Condition"]]))
    }


def test_what_costs_is_made_on_demand_alone() -> None:
    """Object Lock, access logs, a budget and mail are parameters; the audit is there unless refused."""
    plain = of_template()
    assert (
        not {"AccessLogBucket", "AccessLogBucketPolicy", "Budget", "TopicPolicy", "Subscription"}
        & plain.keys()
    )
    assert (
        not {"ObjectLockEnabled", "ObjectLockConfiguration", "LoggingConfiguration"} & plain["Bucket"].keys()
    )
    assert "DailyAudit" in plain
    assert not {"AuditRole", "AuditConfiguration", "DailyAudit"} & of_template(Audit="false").keys()
    chosen = of_template(
        ObjectLockDays="14",
        AccessLogBucketName="example-logs",
        MonthlyBudgetUSD="20",
        NotifyEmail="a@example.com",
    )
    assert chosen["Bucket"]["ObjectLockEnabled"] is True
    retention = chosen["Bucket"]["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert retention == {"Mode": "GOVERNANCE", "Days": "14"}
    assert chosen["Bucket"]["LoggingConfiguration"]["DestinationBucketName"] == {"Ref": "AccessLogBucket"}
    assert chosen["AccessLogBucket"]["BucketName"] == "example-logs"
    assert chosen["Budget"]["Budget"]["BudgetLimit"] == {"Amount": "20", "Unit": "USD"}
    assert chosen["Subscription"]["Endpoint"] == "a@example.com"


def test_the_audit_is_scheduled_for_what_it_has_switched_on() -> None:
    """AWS refuses a scheduled check that is off; both names of a check are the same in other letters."""
    made = of_template()
    enabled = {
        name for name, one in made["AuditConfiguration"]["AuditCheckConfigurations"].items() if one["Enabled"]
    }
    scheduled = made["DailyAudit"]["TargetCheckNames"]
    assert {name.replace("_", "").lower() for name in scheduled} == {name.lower() for name in enabled}
    assert {
        "DeviceCertificateExpiringCheck",
        "DeviceCertificateAgeCheck",
        "DeviceCertificateSharedCheck",
    } <= enabled
    assert "RevokedDeviceCertificateStillActiveCheck" in enabled


@pytest.mark.parametrize(
    "action",
    [
        *("s3:GetObjectVersion", "s3:DeleteObjectVersion", "s3:ListBucketVersions"),
        *("s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutEncryptionConfiguration"),
        *("s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:DeleteBucket", "s3:PutObjectTagging"),
        *("s3:PutObjectVersionTagging", "s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
        *("s3:PutObjectAcl", "s3:PutObjectRetention", "s3:BypassGovernanceRetention"),
    ],
)
def test_a_thief_cannot_touch_what_an_undelete_needs(action: str, stack: None) -> None:
    """Old versions, and that the bucket keeps them."""
    for key in ("", f"{THING}/sample.db/0/1.ltx"):
        for prefix in (None, f"{THING}/"):
            assert not by_template(action, BUCKET, key, prefix)


def test_a_device_writes_no_tags(stack: None) -> None:
    """By which an undelete knows its own copies. With the header, AWS asks for s3:PutObjectTagging."""
    key = f"{THING}/sample.db/0/1.ltx"
    assert not by_template("s3:PutObjectTagging", BUCKET, key, None)
    assert by_lab("PUT", BUCKET, key, None)
    for headers in ({"x-amz-tagging": "undelete-of=1"}, {"x-amz-tagging-directive": "REPLACE"}):
        assert not by_lab("PUT", BUCKET, key, None, headers)
    assert not by_lab("PUT", BUCKET, f"{key}?tagging", None)


def test_nobody_writes_with_a_key_that_only_the_writer_knows(stack: None) -> None:
    key = f"{THING}/sample.db/0/1.ltx"
    own = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
    for headers, allowed in (({}, True), (own, False)):
        assert by_template("s3:PutObject", BUCKET, key, None, headers) == allowed
        assert by_lab("PUT", BUCKET, key, None, headers) == allowed, "the lab is as strict"
