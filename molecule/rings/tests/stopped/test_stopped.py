"""One device had a warning, one is off, one loses its power after its change: no later ring is touched."""

from __future__ import annotations

import base64
import datetime

import pytest
from conftest import NEW, OLD, REPORT, VARIABLES, lab, report, roll_out, status, used, wait_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from experiment import observe
from experiment.phases import Played
from lab.settings import paths

pytestmark = pytest.mark.timeout(1200)
CERTIFICATE = "/etc/edge-identity/device.crt"
CHANGED = (
    "edge_litestream.appliance.litestream : "
    "configure | Configuration and units are written; those of another delivery or version are gone"
)


def soon_expired(device: str) -> None:
    """Give a device a certificate of 60 days, of which 50 are over."""
    pki, today = paths().pki, datetime.datetime.now(datetime.UTC)
    old = x509.load_pem_x509_certificate(observe.run(device, f"sudo cat {CERTIFICATE}").encode())
    authority = x509.load_pem_x509_certificate((pki / "fleet-ca.crt").read_bytes())
    key = serialization.load_pem_private_key((pki / "fleet-ca.key").read_bytes(), None)
    made = x509.CertificateBuilder(
        authority.subject,
        old.subject,
        old.public_key(),
        x509.random_serial_number(),
        today - datetime.timedelta(days=50),
        today + datetime.timedelta(days=10),
        list(old.extensions),
    ).sign(key, hashes.SHA256())  # type: ignore[arg-type]
    text = base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()
    observe.run(device, f"echo {text} | base64 -d | sudo tee {CERTIFICATE} >/dev/null")


@pytest.fixture(scope="module")
def stopped() -> Played:
    soon_expired("edge01")
    wait_for(lambda: status("edge01")["problems"] == ["the certificate has expired or soon will"])
    lab("power-cut", "edge03")
    return roll_out(
        "upgrade",
        "--tags=litestream",
        variables=VARIABLES,
        at=(CHANGED, 2),
        event=lambda: lab("power-cut", "edge02"),
    )


def test_it_stops_and_names_the_device_that_vanished(stopped: Played) -> None:
    assert stopped.code != 0
    assert "ring early stops the roll-out: of 1 devices 1 failed, vanished or are worse" in stopped.text
    assert "edge02 early vanished the connection to it, or to the host that builds" in stopped.text
    assert f"--limit @{REPORT}" in stopped.text


def test_tags_choose_what_is_changed(stopped: Played) -> None:
    assert "edge_litestream.appliance.litestream : install" in stopped.text
    assert "edge_litestream.appliance.pkcs11 : install" not in stopped.text


def test_no_device_of_a_later_ring_is_touched(stopped: Played) -> None:
    assert used("edge04") == OLD
    assert report()["devices"]["edge04"]["verdict"] == "waiting"


def test_a_warning_from_before_stops_nothing(stopped: Played) -> None:
    assert used("edge01") == NEW
    assert status("edge01")["level"] == "warning"
    assert report()["devices"]["edge01"]["verdict"] == "same"


def test_who_is_left_is_in_the_report(stopped: Played) -> None:
    told = report()
    verdicts = {device: known["verdict"] for device, known in told["devices"].items()}
    assert verdicts == {"edge01": "same", "edge02": "vanished", "edge03": "off", "edge04": "waiting"}
    assert REPORT.read_text().split() == ["edge02", "edge03", "edge04"]
    assert told["rings"] == {
        "canary": {"changed": 1, "bad": 0, "tolerated": 0},
        "early": {"changed": 1, "bad": 1, "tolerated": 0},
    }
