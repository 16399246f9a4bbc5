"""files/aws-operator-policy.json grants what the modules ask AWS for, and no more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore import xform_name

ROOT = Path(__file__).resolve().parents[3]
MODULES = {path.stem: path for path in (ROOT / "plugins/modules").glob("*.py") if "aws_iot" in path.stem}
PLUGIN = ROOT / "plugins/inventory/aws_iot.py"
BUCKETS = sorted((ROOT / "plugins/modules").glob("s3_*.py"))
HELPERS = (ROOT / "plugins/module_utils/aws.py").read_text()
# What amazon.aws.iam_policy asks for on behalf of lost.yml and found.yml.
BY_COLLECTIONS = {"iam:DeleteRolePolicy", "iam:PutRolePolicy"}


def granted(service: str) -> set[str]:
    policy = json.loads((ROOT / "files/aws-operator-policy.json").read_text())
    actions = [action for statement in policy["Statement"] for action in statement["Action"]]
    assert len(actions) == len(set(actions))
    return {action for action in actions if action.startswith(f"{service}:")}


def called(source: str, service: str) -> set[str]:
    """Every operation of a service whose method a source names, if it makes a client of that service."""
    if not re.search(rf'client\(.*"{service}"\)', source) and (source, service) != (HELPERS, "iot"):
        return set()
    client: Any = boto3.client(service, region_name="eu-central-1")
    words = set(re.findall(r"\w+", source))
    return {
        f"{service}:{name}" for name in client.meta.service_model.operation_names if xform_name(name) in words
    }


def documented(source: str) -> set[str]:
    text = " ".join(
        yaml.safe_load(re.split(r'DOCUMENTATION = r"""', source)[1].split('"""')[0])["description"]
    )
    return set(re.findall(r"C\(((?:iot|iam):\w+)\)", text))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_documents_the_rights_that_it_needs(name: str) -> None:
    source = MODULES[name].read_text()
    code = source.split('RETURN = r"""')[1]
    needed = called(code, "iot") | called(code, "iam")
    # What the shared helpers ask for on its behalf.
    if "aws.certificates(" in code:
        needed |= {"iot:ListThingPrincipals", "iot:DescribeCertificate"}
    if "aws.describe(" in code:
        needed |= {"iot:DescribeCertificate"}
    assert documented(source) == needed


def test_the_policy_grants_what_the_modules_ask_for() -> None:
    sources = [HELPERS, PLUGIN.read_text(), *(path.read_text() for path in MODULES.values())]
    for service in ("iot", "iam"):
        needed = set().union(*(called(source, service) for source in sources))
        assert granted(service) - BY_COLLECTIONS == needed


def test_the_policy_grants_what_the_modules_for_buckets_document() -> None:
    assert granted("s3") == set().union(*(re.findall(r"C\((s3:\w+)\)", path.read_text()) for path in BUCKETS))


def test_policies_are_put_into_a_role_with_the_fleets_boundary_alone() -> None:
    """Else who closes a prefix could give a device, and so himself, any right of the account."""
    policy = json.loads((ROOT / "files/aws-operator-policy.json").read_text())
    resources = yaml.safe_load((ROOT / "files/aws-fleet.yaml").read_text())["Resources"]
    boundary = resources["Role"]["Properties"]["PermissionsBoundary"]["Ref"]
    assert resources[boundary]["Type"] == "AWS::IAM::ManagedPolicy"
    for statement in policy["Statement"]:
        if BY_COLLECTIONS & set(statement["Action"]):
            # CloudFormation names what has no name STACK-RESOURCE-RANDOM.
            assert statement["Resource"] == "arn:aws:iam::*:role/edge-litestream-Role-*"
            wanted = {"iam:PermissionsBoundary": f"arn:aws:iam::*:policy/edge-litestream-{boundary}-*"}
            assert statement["Condition"] == {"StringLike": wanted}
    bounded = {"iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:DeleteRolePermissionsBoundary"}
    assert not granted("iam") & (bounded | {"iam:PutRolePermissionsBoundary", "iam:SetDefaultPolicyVersion"})
