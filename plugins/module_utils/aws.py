# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What all modules that talk to AWS share: arguments, clients, errors in words, a thing's certificates."""

from __future__ import annotations

import datetime
import json
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

    WITHOUT_BOTO3 = ""
except ImportError:
    WITHOUT_BOTO3 = traceback.format_exc()

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization

    WITHOUT_CRYPTOGRAPHY = ""
except ImportError:
    WITHOUT_CRYPTOGRAPHY = traceback.format_exc()

# What they mean is in plugins/doc_fragments/aws.py.
ARGUMENTS: dict[str, dict[str, str]] = {"region": {"type": "str"}, "endpoint": {"type": "str"}}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedException", "UnauthorizedOperation"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
UNKNOWN = {"UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"}
RIGHTS = "files/aws-operator-policy.json has all that the playbooks need"
# AWS IoT allows some requests a second. Attempts that wait longer and longer get many devices through.
ATTEMPTS = 10


class AwsError(Exception):
    """What stands in the way, as one sentence with what to do."""


def client(module: AnsibleModule, service: str, **settings: Any) -> Any:
    """Make a client of a service, with the SDK's credentials and region; settings are botocore's."""
    return boto3.client(
        service,
        endpoint_url=module.params["endpoint"] or None,
        region_name=module.params["region"] or None,
        config=Config(retries={"mode": "standard", "max_attempts": ATTEMPTS}, **settings),
    )


def code(error: Exception) -> str:
    """AWS' code of an error; empty where AWS did not answer."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def missing_right(error: Any) -> str:
    """Say which right is missing, and the statement that grants it."""
    said = str(error.response["Error"].get("Message", ""))
    action = re.search(r"perform:? ([\w-]+:\w+)", said)
    resource = re.search(r'on resource:? "?(arn:[^\s"]+)', said)
    name = action[1] if action else f"the action of {error.operation_name}"
    where = resource[1] if resource else "*"
    if "explicit deny" in said:
        return f"your AWS credentials are denied {name} on {where} by a Deny statement. AWS says: {said}"
    statement = {
        "Effect": "Allow",
        "Action": action[1] if action else error.operation_name,
        "Resource": where,
    }
    return (
        f"your AWS credentials lack the right to {name} on {where}. This statement grants it: "
        f"{json.dumps(statement)}; {RIGHTS}. Then run it again. AWS says: {said}"
    )


def explain(error: Exception) -> str:
    """Say what an error means and what to do."""
    if isinstance(error, NoCredentialsError):
        return "there are no AWS credentials: set AWS_PROFILE, or log in (aws sso login)"
    if isinstance(error, NoRegionError):
        return "the AWS region is not known: set AWS_REGION, or edge_rotator_region in the inventory"
    if code(error) in DENIED:
        return missing_right(error)
    if code(error) in EXPIRED:
        return f"your AWS credentials have expired: log in again. AWS says: {error}"
    if code(error) in UNKNOWN:
        return f"AWS does not know your credentials: look at AWS_PROFILE and the region. AWS says: {error}"
    return str(error)


def serve(module: AnsibleModule, act: Callable[[AnsibleModule], dict[str, Any]]) -> None:
    """Answer Ansible with what a function returns, or with why it failed."""
    for name, traced in (("boto3", WITHOUT_BOTO3), ("cryptography", WITHOUT_CRYPTOGRAPHY)):
        if traced:
            module.fail_json(msg=missing_required_lib(name), exception=traced)
    try:
        done = act(module)
    except (AwsError, ClientError, BotoCoreError) as error:
        module.fail_json(msg=explain(error))
    module.exit_json(**done)


def pages(iot: Any, operation: str, member: str, **asked: str) -> Iterator[Any]:
    """Go through all pages of a listing."""
    for page in iot.get_paginator(operation).paginate(**asked):
        yield from page[member]


def read_certificate(pem: str) -> x509.Certificate:
    """Read a certificate."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AwsError(f"the certificate is no PEM certificate: {error}") from None


def public_key(owner: Any) -> bytes:
    """Encode the public key of a certificate or a request, for comparison."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        return bytes(owner.public_key().public_bytes(serialization.Encoding.DER, spki))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AwsError(f"the public key cannot be read: {error}") from None


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, which is the ID that AWS IoT gives it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def describe(iot: Any, certificate_id: str) -> dict[str, Any] | None:
    """Describe a certificate; None where this account and region have none of that ID."""
    try:
        found = iot.describe_certificate(certificateId=certificate_id)["certificateDescription"]
    except ClientError as error:
        if code(error) == "ResourceNotFoundException":
            return None
        raise
    now = datetime.datetime.now(datetime.UTC)
    end = read_certificate(found["certificatePem"]).not_valid_after_utc
    return {
        "id": found["certificateId"],
        "arn": found["certificateArn"],
        "status": found["status"],
        "owner": found.get("ownedBy", ""),
        "certificate": found["certificatePem"],
        "created": found["creationDate"].isoformat(),
        "not_after": end.isoformat(),
        "age_s": int((now - found["creationDate"]).total_seconds()),
        # Of its status, too.
        "unchanged_s": int((now - found["lastModifiedDate"]).total_seconds()),
        "left_s": int((end - now).total_seconds()),
    }


def certificates(iot: Any, thing: str) -> list[dict[str, Any]] | None:
    """Describe the certificates of a thing, the oldest first; None where there is no such thing."""
    try:
        principals = list(pages(iot, "list_thing_principals", "principals", thingName=thing))
    except ClientError as error:
        if code(error) == "ResourceNotFoundException":
            return None
        raise
    ids = [arn.rpartition("/")[2] for arn in principals if ":cert/" in arn]
    found = [one for one in (describe(iot, each) for each in ids) if one]
    return sorted(found, key=lambda one: (one["created"], one["id"]))
