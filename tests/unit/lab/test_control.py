"""Both endpoints believe AWS's control plane: moto's server, corrected, in a process of its own."""

import base64
import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from botocore.credentials import Credentials

from edge_cloud.ledger import Ledger
from edge_cloud.provider import Provider
from edge_cloud.settings import Settings
from tests.unit.lab import test_endpoints
from tests.unit.lab.test_endpoints import HOST, REGION, Client, Store, gate, logged, serving

keys, bare_settings = test_endpoints.keys, test_endpoints.settings

ALIAS, ROLE, THING = "fleet", "fleet-role", "edge01"
TRUST = {
    "Effect": "Allow",
    "Principal": {"Service": "credentials.iot.amazonaws.com"},
    "Action": "sts:AssumeRole",
}
OWN_PREFIX: list[dict[str, Any]] = [
    {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject"],
        "Resource": "arn:aws:s3:::backups/${credentials-iot:ThingName}/*",
    },
    {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": "arn:aws:s3:::backups",
        "Condition": {"StringLike": {"s3:prefix": "${credentials-iot:ThingName}/*"}},
    },
]


@pytest.fixture(scope="module")
def control_url(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the server as the cloud machine's unit does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    names = dict.fromkeys(Settings.__dataclass_fields__, "")
    config = tmp_path_factory.mktemp("control") / "config.json"
    config.write_text(json.dumps({**names, "provider_host": HOST, "tls": str(keys), "control_url": url}))
    program = "import sys, pathlib; from edge_cloud import aws; aws.main(pathlib.Path(sys.argv[1]))"
    log = config.with_name("log")
    command = [sys.executable, "-c", program, str(config)]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env={"PYTHONPATH": ":".join(sys.path)}, stdout=out, stderr=out) as server,
    ):
        try:
            for _ in range(600):
                assert server.poll() is None, log.read_text()
                with contextlib.suppress(OSError):
                    ask(f"{url}/moto-api/data.json", "GET")
                    break
                time.sleep(0.1)
            yield url
        finally:
            server.kill()


def ask(url: str, method: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10).close()  # noqa: S310


@pytest.fixture
def settings(bare_settings: Settings, control_url: str) -> Settings:
    ask(f"{control_url}/moto-api/reset", "POST")
    return replace(bare_settings, control_url=control_url)


class Aws:
    """The control plane as an operator uses it, with one fleet in it."""

    def __init__(self, url: str, keys: Path) -> None:
        self.keys = keys
        session = boto3.Session("lab", "lab", region_name=REGION)
        self.iot = session.client("iot", endpoint_url=url)
        self.iam = session.client("iam", endpoint_url=url)
        self.iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=document(TRUST), MaxSessionDuration=3600)
        self.allow("own-prefix", *OWN_PREFIX)
        role = f"arn:aws:iam::123456789012:role/{ROLE}"
        self.iot.create_role_alias(roleAlias=ALIAS, roleArn=role, credentialDurationSeconds=1800)
        alias = self.iot.describe_role_alias(roleAlias=ALIAS)["roleAliasDescription"]["roleAliasArn"]
        assume = {"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": alias}
        self.iot.create_policy(policyName=ALIAS, policyDocument=document(assume))
        self.iot.create_thing(thingName=THING)

    def allow(self, name: str, *statements: dict[str, Any]) -> None:
        self.iam.put_role_policy(RoleName=ROLE, PolicyName=name, PolicyDocument=document(*statements))

    def sign(self, csr: bytes) -> dict[str, str]:
        answer = self.iot.create_certificate_from_csr(
            certificateSigningRequest=csr.decode(), setAsActive=True
        )
        return cast(dict[str, str], answer)

    def attach(self, arn: str) -> None:
        self.iot.attach_thing_principal(thingName=THING, principal=arn)
        self.iot.attach_policy(policyName=ALIAS, target=arn)


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.fixture
def aws(settings: Settings, keys: Path) -> Aws:
    return Aws(settings.control_url, keys)


@pytest.fixture
def enrolled(aws: Aws, tmp_path: Path) -> dict[str, str]:
    """Return the device's certificate, signed by AWS, active and attached; it lies in signed.crt."""
    certificate = aws.sign((aws.keys / "device.csr").read_bytes())
    aws.attach(certificate["certificateArn"])
    (tmp_path / "signed.crt").write_text(certificate["certificatePem"])
    return certificate


Fetch = Callable[..., tuple[int, str]]


@pytest.fixture
def fetch(settings: Settings, keys: Path, tmp_path: Path) -> Iterator[Fetch]:
    with serving(lambda: Provider(settings).start()) as port:

        def request(
            certificate: Path | None = None,
            thing: str | None = THING,
            alias: str = ALIAS,
        ) -> tuple[int, str]:
            """Return status and access key, or the message of a refusal."""
            context = ssl.create_default_context(cafile=str(keys / "server-ca.crt"))
            context.load_cert_chain(certificate or tmp_path / "signed.crt", keys / "device.key")
            connection = http.client.HTTPSConnection(HOST, port, timeout=20, context=context)
            headers = {"Host": HOST, **({"x-amzn-iot-thingname": thing} if thing else {})}
            connection.request("GET", f"/role-aliases/{alias}/credentials", headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            connection.close()
            return answer.status, body.get("message") or body["credentials"]["accessKeyId"]

        yield request


def test_a_request_is_signed_for_its_key_and_name(aws: Aws, enrolled: dict[str, str], tmp_path: Path) -> None:
    signed = tmp_path / "signed.crt"
    openssl("verify", "-purpose", "sslclient", "-CAfile", aws.keys / "aws-ca.crt", signed)
    assert openssl("x509", "-in", signed, "-noout", "-pubkey") == openssl(
        "req", "-in", aws.keys / "device.csr", "-noout", "-pubkey"
    )
    assert b"CN=edge01" in openssl("x509", "-in", signed, "-noout", "-subject").replace(b" ", b"")
    der = ssl.PEM_cert_to_DER_cert(enrolled["certificatePem"])
    assert enrolled["certificateId"] == hashlib.sha256(der).hexdigest()
    found = aws.iot.describe_certificate(certificateId=enrolled["certificateId"])["certificateDescription"]
    assert found["validity"]["notAfter"].year == 2049


def test_a_request_that_is_broken_is_refused(aws: Aws) -> None:
    head, *body, tail = (aws.keys / "device.csr").read_bytes().splitlines(keepends=True)
    der = bytearray(base64.b64decode(b"".join(body)))
    der[-1] ^= 1  # of its signature
    for broken in (b"nonsense", head + base64.encodebytes(der) + tail):
        with pytest.raises(aws.iot.exceptions.InvalidRequestException, match="certificate signing request"):
            aws.sign(broken)
    assert not aws.iot.list_certificates()["certificates"]


def openssl(*words: str | Path) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def test_the_endpoint_is_the_labs(aws: Aws) -> None:
    assert aws.iot.describe_endpoint(endpointType="iot:CredentialProvider")["endpointAddress"] == HOST
    assert aws.iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] != HOST


def test_an_enrolled_device_gets_credentials_of_its_role(
    settings: Settings, fetch: Fetch, enrolled: dict[str, str]
) -> None:
    status, access_key = fetch()
    key = Ledger(settings.ledger).key(access_key)
    assert status == 200
    assert key is not None
    assert (key.thing, key.iam_role) == (THING, ROLE)
    assert key.expires_s == pytest.approx(time.time() + 1800, abs=30)
    assert logged(settings, "provider", status=200)["certificate"] == enrolled["certificateId"]
    assert fetch(thing=None)[0] == 200, "as AWS: such credentials open nothing"


INVALID, UNASSUMABLE = (403, "Certificate is invalid on this endpoint"), (400, "Unable to assume the role")


def inactive(aws: Aws, certificate: dict[str, str]) -> None:
    aws.iot.update_certificate(certificateId=certificate["certificateId"], newStatus="INACTIVE")


def deleted(aws: Aws, certificate: dict[str, str]) -> None:
    detached(aws, certificate)
    without_policy(aws, certificate)
    inactive(aws, certificate)
    aws.iot.delete_certificate(certificateId=certificate["certificateId"])


def detached(aws: Aws, certificate: dict[str, str]) -> None:
    aws.iot.detach_thing_principal(thingName=THING, principal=certificate["certificateArn"])


def without_policy(aws: Aws, certificate: dict[str, str]) -> None:
    aws.iot.detach_policy(policyName=ALIAS, target=certificate["certificateArn"])


def without_alias(aws: Aws, _certificate: dict[str, str]) -> None:
    aws.iot.delete_role_alias(roleAlias=ALIAS)


def without_role(aws: Aws, _certificate: dict[str, str]) -> None:
    aws.iam.delete_role_policy(RoleName=ROLE, PolicyName="own-prefix")
    aws.iam.delete_role(RoleName=ROLE)


def another_trust(aws: Aws, _certificate: dict[str, str]) -> None:
    other = {**TRUST, "Principal": {"Service": "ec2.amazonaws.com"}}
    aws.iam.update_assume_role_policy(RoleName=ROLE, PolicyDocument=document(other))


def too_long(aws: Aws, _certificate: dict[str, str]) -> None:
    aws.iot.update_role_alias(roleAlias=ALIAS, credentialDurationSeconds=7200)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (inactive, INVALID),
        (deleted, INVALID),
        (detached, (403, "Invalid thing name passed")),
        (without_policy, (403, "Access Denied")),
        (without_alias, (404, "Role alias does not exist")),
        (without_role, UNASSUMABLE),
        (another_trust, UNASSUMABLE),
        (too_long, (400, "The requested CredentialDurationSeconds exceeds")),
    ],
)
def test_what_is_taken_back_is_refused(
    settings: Settings,
    aws: Aws,
    fetch: Fetch,
    enrolled: dict[str, str],
    change: Callable[[Aws, dict[str, str]], None],
    expected: tuple[int, str],
) -> None:
    assert fetch()[0] == 200
    change(aws, enrolled)
    status, message = fetch()
    assert (status, message[: len(expected[1])]) == expected
    assert Ledger(settings.ledger).certificates() == [], "nobody is registered by coming along"


def test_a_certificate_is_known_by_itself_whoever_signed_it(
    aws: Aws, fetch: Fetch, keys: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.crt"
    authority = ("-CA", keys / "rogue-ca.crt", "-CAkey", keys / "rogue-ca.key")
    openssl("x509", "-req", "-in", keys / "device.csr", *authority, "-out", own)
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        fetch(own)
    certificate = aws.iot.register_certificate_without_ca(certificatePem=own.read_text(), status="INACTIVE")
    aws.attach(certificate["certificateArn"])
    assert fetch(own) == INVALID
    aws.iot.update_certificate(certificateId=certificate["certificateId"], newStatus="ACTIVE")
    assert fetch(own)[0] == 200


def test_the_fleet_ca_is_not_enough_once_there_is_a_stack(
    settings: Settings, aws: Aws, fetch: Fetch, keys: Path
) -> None:
    assert fetch(keys / "device.crt") == INVALID
    assert fetch(keys / "device.crt", alias="alias")[0] == 200, "an alias that only the ledger knows"
    assert fetch(keys / "device.crt", alias="alias")[0] == 200
    assert len(Ledger(settings.ledger).certificates()) == 1


def test_whom_the_ledger_knows_it_judges(settings: Settings, aws: Aws, fetch: Fetch, keys: Path) -> None:
    assert fetch(keys / "device.crt", alias="alias")[0] == 200
    certificate = aws.iot.register_certificate_without_ca(
        certificatePem=(keys / "device.crt").read_text(), status="INACTIVE"
    )
    aws.attach(certificate["certificateArn"])
    assert fetch(keys / "device.crt", alias="alias")[0] == 200
    Ledger(settings.ledger).set_certificates(THING, active=False)
    assert fetch(keys / "device.crt", alias="alias") == INVALID


# The gate


@pytest.fixture
def session(settings: Settings, aws: Aws, keys: Path) -> Iterator[Client]:
    """Return a client with credentials of the role; what it uploads is kept."""
    key = Ledger(settings.ledger).issue(THING, ALIAS, "01", 900, ROLE)
    with serving(Store().start) as upstream_port, serving(lambda: gate(settings, upstream_port)) as port:
        client = Client(port, keys, key)
        yield client
        client.connection.close()


OBJECT, LIST = f"/backups/{THING}/db/1", f"/backups?list-type=2&prefix={THING}%2Fdb"
DENIED = b"<Code>AccessDenied</Code>"


def test_a_session_may_do_what_its_role_may(settings: Settings, aws: Aws, session: Client) -> None:
    assert session("PUT", OBJECT, b"x") == (200, b"")
    assert session("GET", OBJECT) == (200, b"x")
    assert session("GET", LIST)[0] != 403
    status, body = session("DELETE", OBJECT)
    assert (status, DENIED in body) == (403, True), "this role's policy has no s3:DeleteObject"
    assert logged(settings, "gate", error="AccessDenied", operation="s3:DeleteObject", thing=THING)
    without_role(aws, {})
    assert refused_soon(session, "GET", OBJECT)


def refused_soon(session: Client, method: str, target: str) -> bool:
    """Tell whether a request is refused within the second that a policy needs."""
    for _ in range(30):
        status, body = session(method, target)
        if status == 403:
            return DENIED in body
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("denied", "method", "target", "spared"),
    [
        ({"Action": "s3:*", "Resource": f"arn:aws:s3:::backups/{THING}/*"}, "PUT", OBJECT, LIST),
        (
            {
                "Action": "s3:ListBucket",
                "Resource": "arn:aws:s3:::backups",
                "Condition": {"StringLike": {"s3:prefix": f"{THING}/*"}},
            },
            "GET",
            LIST,
            OBJECT,
        ),
    ],
)
def test_a_prefix_is_closed(
    settings: Settings,
    aws: Aws,
    session: Client,
    denied: dict[str, Any],
    method: str,
    target: str,
    spared: str,
) -> None:
    session("PUT", OBJECT, b"x")
    assert session(method, target)[0] != 403
    aws.allow("lost", {"Effect": "Deny", **denied})
    assert refused_soon(session, method, target)
    assert session("GET", spared)[0] != 403
    assert logged(settings, "gate", error="AccessDenied", thing=THING)
    aws.iam.delete_role_policy(RoleName=ROLE, PolicyName="lost")
    time.sleep(1.1)
    assert session(method, target)[0] != 403


def test_sessions_until_a_time_are_refused(settings: Settings, aws: Aws, session: Client, keys: Path) -> None:
    now = time.gmtime(time.time() + 5)
    until = {"DateLessThan": {"aws:TokenIssueTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", now)}}
    session("PUT", OBJECT, b"x")
    aws.allow("lost", {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": until})
    assert refused_soon(session, "GET", OBJECT)
    ledger = Ledger(settings.ledger)
    ledger.set_clock(10)
    later = ledger.issue(THING, ALIAS, "01", 900, ROLE)
    session.credentials = Credentials(later.access_key, later.secret, later.token)
    assert session("GET", OBJECT) == (200, b"x")


def test_a_policy_that_the_lab_cannot_read_stops_everything(aws: Aws, session: Client) -> None:
    condition = {"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}
    aws.allow("odd", {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
    status, body = session("GET", OBJECT)
    assert (status, b"<Code>InternalError</Code>" in body) == (500, True)
