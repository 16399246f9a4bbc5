"""moto as AWS IoT: its certificates have the key of the request and the ID that AWS gives them."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto import mock_aws
from moto.iot.models import IoTBackend

from tests.unit import models_once  # noqa: F401 - for what it does

THING, POLICY = "edge-0001", "edge-litestream-credentials"
Run = Callable[..., dict[str, Any]]
AUTHORITY = ec.generate_private_key(ec.SECP256R1())


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def pem(made: Any) -> str:
    return str(made.public_bytes(serialization.Encoding.PEM).decode())


def public(owner: Any) -> bytes:
    """The public key of a certificate or a request."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(owner.public_key().public_bytes(serialization.Encoding.DER, spki))


def request(key: ec.EllipticCurvePrivateKey, common: str = THING) -> str:
    """What a device asks for."""
    return pem(x509.CertificateSigningRequestBuilder().subject_name(name(common)).sign(key, hashes.SHA256()))


def certificate(
    key: Any, issuer: str = "Fleet CA", common: str = THING, signer: Any = AUTHORITY, days: int = 30
) -> str:
    """What a CA makes of it; its own, where it signs for itself. It ends in so many days, or has ended."""
    now = datetime.datetime.now(datetime.UTC)
    begin, end = now + datetime.timedelta(days=min(0, days - 1)), now + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(name(common)).issuer_name(name(issuer))
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(end)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=issuer == common, path_length=None), critical=True
    )
    return pem(builder.sign(signer, hashes.SHA256()))


def signed_by_aws(self: IoTBackend, csr: str, set_as_active: bool) -> Any:
    """What AWS answers; moto's own certificate has another key."""
    made = certificate(
        x509.load_pem_x509_csr(csr.encode()).public_key(), "Amazon Web Services O=Amazon.com Inc."
    )
    return self.register_certificate(made, None, set_as_active, "INACTIVE")


@contextlib.contextmanager
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An account with type, group and policy."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "operator")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setattr(IoTBackend, "create_certificate_from_csr", signed_by_aws)
    with mock_aws(config={"iot": {"use_valid_cert": True}}):
        client = boto3.client("iot")
        client.create_policy(policyName=POLICY, policyDocument="{}")
        client.create_thing_type(thingTypeName="edge-litestream")
        for group in ("edge-litestream", "canary"):
            client.create_thing_group(thingGroupName=group)
        yield client


def state(client: Any) -> list[tuple[str, list[str], list[str]]]:
    """Every certificate: status, things, policies."""
    return sorted(
        (
            one["status"],
            client.list_principal_things(principal=one["certificateArn"])["things"],
            [
                policy["policyName"]
                for policy in client.list_attached_policies(target=one["certificateArn"])["policies"]
            ],
        )
        for one in client.list_certificates()["certificates"]
    )


class InterruptedCallError(ClientError):  # type: ignore[misc]
    """A call that failed."""


def interrupted_everywhere(
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Any], Any],
    act: Callable[[Any], dict[str, Any]],
    check: Callable[[Any, Any], None],
) -> list[str]:
    """Let the first call fail, then the second and so on, each before AWS has carried it out and after.

    Return the calls of a run that nothing interrupts.
    """
    made = boto3.client
    for number in itertools.count():
        for event in ("before-call.iot", "after-call.iot"):
            calls: list[str] = []

            def hook(calls: list[str] = calls, number: int = number, **more: Any) -> None:
                calls.append(more["model"].name)
                if len(calls) == number + 1:
                    raise InterruptedCallError({"Error": {"Code": "InternalFailureException"}}, calls[-1])

            def client(*args: Any, event: str = event, hook: Any = hook, **more: Any) -> Any:
                one = made(*args, **more)
                one.meta.events.register(event, hook)
                return one

            with cloud(monkeypatch) as iot:
                prepared = prepare(iot)
                monkeypatch.setattr(boto3, "client", client)
                done = act(prepared)
                monkeypatch.setattr(boto3, "client", made)
                check(iot, prepared)
            if not done.get("failed"):
                return calls
            assert "InternalFailureException" in done["msg"]
    raise AssertionError("never")
