"""What the lab makes of a policy: as IAM, and an error where it would have to guess."""

from typing import Any

import pytest

from edge_cloud import iam

BUCKET = "arn:aws:s3:::backups"
CONTEXT = {
    "s3:prefix": "edge01/db",
    "credentials-iot:ThingName": "edge01",
    "aws:TokenIssueTime": "2026-11-28T12:00:00+00:00",
    "absent": None,
}
ALLOW = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


def decide(*statements: dict[str, Any], action: str = "s3:GetObject", resource: str = f"{BUCKET}/a/b") -> Any:
    return iam.decide([{"Statement": list(statements)}], action, resource, CONTEXT)


def deny(**changes: Any) -> dict[str, Any]:
    return {**ALLOW, "Effect": "Deny", **changes}


def test_a_denial_wins_and_silence_is_none() -> None:
    assert decide() is None
    assert decide(ALLOW) is True
    assert decide(ALLOW, deny()) is False
    assert iam.decide([{"Statement": ALLOW}, {"Statement": deny()}], "s3:GetObject", BUCKET, {}) is False


@pytest.mark.parametrize(
    ("statement", "applies"),
    [
        (deny(Action=["s3:PutObject", "s3:Get*"]), True),
        (deny(Action="S3:getobject"), True),
        (deny(Action="s3:GetObjectVersion"), False),
        (deny(Resource=f"{BUCKET}/a/*"), True),
        (deny(Resource=f"{BUCKET}/A/*"), False),
        (deny(Resource=f"{BUCKET}/?/b"), True),
        (deny(Resource=[f"{BUCKET}/c", f"{BUCKET}/[a]/*"]), False),
        (deny(Resource=f"{BUCKET}/${{credentials-iot:ThingName}}/*"), False),
        (deny(Resource="*${absent}*"), False),
    ],
)
def test_actions_and_resources(statement: dict[str, Any], applies: bool) -> None:
    assert decide(ALLOW, statement) is not applies


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"StringLike": {"s3:prefix": "edge01/*"}}, True),
        ({"StringLike": {"s3:prefix": ["edge02/*", "${credentials-iot:ThingName}/*"]}}, True),
        ({"StringLike": {"s3:prefix": "edge0"}}, False),
        ({"StringLike": {"absent": "*"}}, False),
        ({"StringEquals": {"s3:prefix": "edge01/db"}}, True),
        ({"StringEquals": {"s3:prefix": "edge01/*"}}, False),
        ({"DateLessThan": {"aws:TokenIssueTime": "2026-11-28T12:00:01Z"}}, True),
        ({"DateLessThan": {"aws:TokenIssueTime": "2026-11-28T12:00:00Z"}}, False),
        (
            {
                "StringLike": {"s3:prefix": "edge01/*"},
                "DateLessThan": {"aws:TokenIssueTime": "2026-11-28T12:00:00Z"},
            },
            False,
        ),
    ],
)
def test_conditions(condition: dict[str, Any], holds: bool) -> None:
    assert decide(ALLOW, deny(Condition=condition)) is not holds


def test_a_variable_is_no_pattern() -> None:
    assert iam.like("a*", "${v}", {"v": "a*"})
    assert not iam.like("ab", "${v}", {"v": "a*"})


@pytest.mark.parametrize(
    "changes",
    [
        {"NotAction": "s3:GetObject"},
        {"Resource": "${aws:username}"},
        {"Condition": {"StringLike": {"aws:SourceIp": "*"}}},
        {"Condition": {"IpAddress": {"s3:prefix": "*"}}},
    ],
)
def test_what_the_lab_does_not_know_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(iam.UnknownPolicyError, match="The lab knows no "):
        decide(ALLOW, deny(**changes))
