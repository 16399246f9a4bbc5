"""playbooks/enroll_bulk.yml, run as an operator does, against moto's AWS IoT."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.aws_iot import POLICY, certificate, cloud, public, request, state

ROOT = Path(__file__).resolve().parents[3]
# On a busy machine a play of a few modules that load boto3 takes its time.
pytestmark = pytest.mark.timeout(900)
THINGS = ["edge-0001", "edge-0002"]


class Door(http.server.BaseHTTPRequestHandler):
    """Hands a request to moto, which answers what `requests` asks of AWS."""

    def handle_one(self) -> None:
        """Pass one request on, and its answer back."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        url = f"https://iot.eu-central-1.amazonaws.com{self.path}"
        answer = requests.request(self.command, url, headers=headers, data=body, timeout=30)
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        for key in ("Content-Type", "x-amzn-errortype"):
            if key in answer.headers:
                self.send_header(key, answer.headers[key])
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = handle_one  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def iot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with cloud(monkeypatch) as client:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("DOOR", f"http://127.0.0.1:{server.server_port}")
        yield client
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def operator(tmp_path: Path) -> Path:
    """An inventory and a directory of requests."""
    groups = tmp_path / "inventory/group_vars"
    groups.mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text(
        yaml.safe_dump({"edge_devices": {"hosts": {THINGS[0]: {}}}})
    )
    known = {
        "edge_rotator_role_alias": "edge-litestream",
        "edge_rotator_region": "eu-central-1",
        "fleet_thing_groups": ["edge-litestream"],
        "fleet_thing_attributes": {"profile": "tpm2"},
    }
    (groups / "edge_devices.yml").write_text(yaml.safe_dump(known))
    (tmp_path / "requests").mkdir()
    for thing in THINGS:
        (tmp_path / f"requests/{thing}.csr").write_text(
            request(ec.generate_private_key(ec.SECP256R1()), thing)
        )
    return tmp_path


def bulk(operator: Path, *options: str, **more: str) -> tuple[int, str]:
    known = {"bulk_requests": str(operator / "requests"), "bulk_certificates": str(operator / "certificates")}
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={operator}/inventory"),
            *options,
            *(f"--extra-vars={key}={value}" for key, value in {**known, **more}.items()),
            str(ROOT / "playbooks/enroll_bulk.yml"),
        ],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_NOCOLOR": "1",
            "AWS_ENDPOINT_URL": os.environ["DOOR"],
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def fits(operator: Path, thing: str) -> bool:
    """Whether a certificate is for the request of its name."""
    made = x509.load_pem_x509_certificate((operator / f"certificates/{thing}.crt").read_bytes())
    asked = x509.load_pem_x509_csr((operator / f"requests/{thing}.csr").read_bytes())
    return public(made) == public(asked)


def authority(operator: Path) -> None:
    """A fleet CA where the inventory names it."""
    key = ec.generate_private_key(ec.SECP256R1())
    secrets = operator / "inventory/secrets"
    secrets.mkdir()
    (secrets / "ca.crt").write_text(certificate(key.public_key(), "Fleet CA", "Fleet CA", key))
    (secrets / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path = operator / "inventory/group_vars/edge_devices.yml"
    known = yaml.safe_load(path.read_text()) | {
        "device_identity_ca_certificate": "{{ inventory_dir }}/secrets/ca.crt",
        "device_identity_ca_key": "{{ inventory_dir }}/secrets/ca.key",
    }
    path.write_text(yaml.safe_dump(known))


@pytest.mark.parametrize("signer", ["aws", "fleet CA"])
def test_requests_in_certificates_out(signer: str, iot: Any, operator: Path) -> None:
    if signer == "fleet CA":
        authority(operator)
    code, said = bulk(operator, "--check")
    assert code == 0, said
    assert iot.list_things()["things"] == []
    assert not (operator / "certificates").exists()
    code, said = bulk(operator)
    assert code == 0, said
    assert state(iot) == sorted(("ACTIVE", [thing], [POLICY]) for thing in THINGS)
    assert all(fits(operator, thing) for thing in THINGS)
    found = iot.describe_thing(thingName=THINGS[1])
    assert (found["thingTypeName"], found["attributes"]) == ("edge-litestream", {"profile": "tpm2"})
    issuer = x509.load_pem_x509_certificate((operator / f"certificates/{THINGS[1]}.crt").read_bytes()).issuer
    assert ("Fleet CA" in issuer.rfc4514_string()) == (signer == "fleet CA")
    # What is lost here is had from AWS again, and nothing is made twice.
    (operator / f"certificates/{THINGS[0]}.crt").unlink()
    code, said = bulk(operator)
    assert code == 0, said
    assert re.findall(r"request:(\S+) : ok=\d+ changed=(\d)", said) == [
        ("edge-0001", "1"),
        ("edge-0002", "0"),
    ]
    assert len(state(iot)) == 2
    assert fits(operator, THINGS[0])


def test_one_that_is_refused_keeps_nobody_else(iot: Any, operator: Path) -> None:
    """Another device has the thing's certificate; another thing is lost."""
    authority(operator)
    (operator / "requests/edge-0003.csr").write_text(
        request(ec.generate_private_key(ec.SECP256R1()), "edge-0003")
    )
    iot.create_thing(thingName=THINGS[0])
    other = request(ec.generate_private_key(ec.SECP256R1()), THINGS[0])
    made = iot.create_certificate_from_csr(certificateSigningRequest=other, setAsActive=True)
    iot.attach_thing_principal(thingName=THINGS[0], principal=made["certificateArn"])
    lost = {"attributes": {"lost": "since=2026-01-01"}}
    iot.create_thing(thingName=THINGS[1], attributePayload=lost)
    code, said = bulk(operator)
    assert code != 0
    assert f"'edge-0001' has another active certificate, {made['certificateId']}" in said
    assert "Thing 'edge-0002' is lost (since=2026-01-01): run edge_litestream.appliance.found" in said
    assert [path.name for path in (operator / "certificates").iterdir()] == ["edge-0003.crt"]
    assert len(state(iot)) == 2


def test_a_bad_request_keeps_all_back(iot: Any, operator: Path) -> None:
    (operator / "requests/edge-0002.csr").write_text((operator / "requests/edge-0001.csr").read_text())
    code, said = bulk(operator)
    assert code != 0
    assert "edge-0002.csr: the request asks for the subject 'CN=edge-0001', instead of 'CN=edge-0002'" in said
    assert iot.list_things()["things"] == []


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("bulk_requests", "give the directory of the requests"),
        ("bulk_certificates", "bulk_certificates is not set"),
    ],
)
def test_directories_have_to_be_named(variable: str, words: str, iot: Any, operator: Path) -> None:
    code, said = bulk(operator, **{variable: ""})
    assert code != 0
    assert words in said
    assert iot.list_things()["things"] == []
