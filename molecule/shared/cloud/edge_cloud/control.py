"""AWS's control plane, asked by the endpoints: who may have credentials, and what a role may do."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from edge_cloud import iam
from edge_cloud.settings import Settings

_ASSUME = "iot:AssumeRoleWithCertificate"
_PROVIDER = "credentials.iot.amazonaws.com"
_MISSING = {"NoSuchEntity", "ResourceNotFoundException"}
# AWS takes seconds until a change of a policy is everywhere; the lab takes one.
_CACHE_S = 1.0
_CONFIG = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})


@dataclass(frozen=True)
class Grant:
    """What a certificate leads to: credentials that live so long, of a role of the control plane, if any."""

    role: str | None
    lifetime_s: int


class Control:
    """A client of the control plane that may read everything."""

    def __init__(self, settings: Settings) -> None:
        session = Session()
        session.set_credentials("lab", "lab")
        names = {"region_name": settings.region, "endpoint_url": settings.control_url, "config": _CONFIG}
        self._iot = session.create_client("iot", **names)
        self._iam = session.create_client("iam", **names)
        self._seen: set[str] = set()
        self._policies: dict[str, tuple[float, list[Any]]] = {}

    def new_certificates(self) -> Iterator[str]:
        """Yield each certificate that was registered since the last call, as PEM."""
        for entry in self._all("list_certificates", "certificates"):
            identity = entry["certificateId"]
            if identity not in self._seen and (found := self._certificate(identity)):
                yield str(found["certificatePem"])
                self._seen.add(identity)

    def governs(self, certificate: str, alias: str) -> bool:
        """Tell whether the control plane decides: once there is the alias or the certificate (by its id)."""
        return bool(self._alias(alias) or self._certificate(certificate))

    def judge(self, certificate: str, thing: str | None, alias: str) -> Grant | str:
        """Return what a certificate leads to, or the name of the provider's refusal."""
        found, target = self._certificate(certificate), self._alias(alias)
        if not found or found["status"] != "ACTIVE":
            return "certificate-invalid"
        if not target:
            return "alias-missing"
        principal = found["certificateArn"]
        things = self._all("list_principal_things", "things", principal=principal)
        if thing is not None and thing not in things:
            return "thing-not-attached"
        if not iam.decide(self._certificate_policies(principal), _ASSUME, target["roleAliasArn"], {}):
            return "policy-denied"
        role = self._ask(self._iam.get_role, RoleName=target["roleArn"].rpartition("/")[2])
        if not role or not _trusted(_document(role["Role"]["AssumeRolePolicyDocument"])):
            return "role-unassumable"
        lifetime_s = target["credentialDurationSeconds"]
        if lifetime_s > role["Role"]["MaxSessionDuration"]:
            return "duration-exceeds"
        return Grant(role["Role"]["RoleName"], lifetime_s)

    def role_policies(self, role: str) -> list[Any]:
        """Return a role's inline policies, at most a second old; none where the role is gone."""
        at, found = self._policies.get(role, (0.0, []))
        if time.monotonic() - at >= _CACHE_S:
            at, found = time.monotonic(), list(self._role_policies(role))
            self._policies[role] = at, found
        return found

    def _role_policies(self, role: str) -> Iterator[Any]:
        listed = self._ask(self._iam.list_role_policies, RoleName=role) or {"PolicyNames": []}
        for name in listed["PolicyNames"]:
            if policy := self._ask(self._iam.get_role_policy, RoleName=role, PolicyName=name):
                yield _document(policy["PolicyDocument"])

    def _certificate_policies(self, principal: str) -> Iterator[Any]:
        for entry in self._all("list_attached_policies", "policies", target=principal):
            if policy := self._ask(self._iot.get_policy, policyName=entry["policyName"]):
                yield _document(policy["policyDocument"])

    def _certificate(self, identity: str) -> Any:
        answer = self._ask(self._iot.describe_certificate, certificateId=identity)
        return answer and answer["certificateDescription"]

    def _alias(self, name: str) -> Any:
        answer = self._ask(self._iot.describe_role_alias, roleAlias=name) if name else None
        return answer and answer["roleAliasDescription"]

    def _all(self, operation: str, key: str, **names: str) -> list[Any]:
        return list(self._iot.get_paginator(operation).paginate(**names).search(f"{key}[]"))

    @staticmethod
    def _ask(call: Any, **names: str) -> Any:
        """Return the answer; None where what is asked for does not exist."""
        try:
            return call(**names)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise


def _trusted(document: Any) -> bool:
    """Tell whether a role's trust policy lets the credential provider in."""
    return any(
        statement["Effect"] == "Allow"
        and statement["Action"] == "sts:AssumeRole"
        and statement["Principal"] == {"Service": _PROVIDER}
        for statement in document["Statement"]
    )


def _document(policy: Any) -> Any:
    """Read a policy; moto keeps some of those that come from a template as Python would print them."""
    return policy if isinstance(policy, dict) else yaml.safe_load(policy)
