"""Rotation happens by the timer alone, and an expired key is worth nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTS

from experiment import observe
from experiment.phases import refused_by_preflight, wait_for


def held(name: str) -> str:
    """Digest of the credentials that a device holds, whichever file they are in."""
    files = "/run/edge-rotator/credentials.json /run/edge-rotator/litestream.env"
    return observe.run(name, f"sudo sha256sum {files} 2>/dev/null || true")


@pytest.fixture(scope="module")
def began() -> dict[str, tuple[float, str]]:
    """When this module began, and what each device held: while one is waited for, the other rotates too."""
    return {name: (observe.now(name), held(name)) for name in HOSTS}


def test_the_timer_alone_rotates_and_litestream_restarts_once_or_never(
    name: str, mode: str, began: dict[str, tuple[float, str]]
) -> None:
    since, before = began[name]
    assert before
    rotated = wait_for(lambda: (found := observe.events(name, "rotated", since))[2:] and found, 120)
    assert {event.fields["reason"] for event in rotated} == {"schedule"}
    assert held(name) != before
    restarts = observe.starts_between_rotations(name, "litestream.service", since)
    assert set(restarts) == {1 if mode == "environment" else 0}


SET_BACK = """
import json
with open("/var/lib/edge-rotator/state.json", "r+") as file:
    state = json.load(file)
    state["success"]["wall"] += 3600
    file.seek(0)
    json.dump(state, file)
    file.truncate()
"""


@pytest.mark.usefixtures("at_rest")
def test_a_clock_set_back_makes_litestream_ask_again(host: Any, name: str) -> None:
    """As if it had been an hour ahead at the last rotation: the old keys would be kept for an hour."""
    since = observe.now(name)
    host.check_output("python3 -I -c %s", SET_BACK)
    # What edge-rotator-due.timer does when the clock is set, which a container cannot.
    host.check_output("systemctl start edge-rotator-due.service edge-rotator.service")
    assert observe.events(name, "rotated", since)[0].fields["reason"] == "clock_step"
    wait_for(lambda: observe.starts(name, "litestream.service", since), 20)
    assert len(observe.starts(name, "litestream.service", since)) == 1


def test_an_expired_key_is_refused(name: str, credentials: dict[str, str]) -> None:
    key = credentials["AWS_ACCESS_KEY_ID"]
    since = observe.now(observe.CLOUD)
    assert observe.probe(name, key) == (200, ""), "the key worked while it lived"
    wait_for(lambda: observe.probe(name, key)[0] != 200)
    assert observe.probe(name, key) == (400, "ExpiredToken")
    # S3 says the same, and Litestream was never the one who was refused.
    refused = observe.refused(observe.s3_requests(name, since))
    assert refused
    assert {request.access_key for request in refused} == {key}
    assert {request.method for request in refused} == {"GET"}


def test_another_things_objects_are_out_of_reach(name: str, credentials: dict[str, str]) -> None:
    other = "edge02" if name == "edge01" else "edge01"
    assert observe.probe(name, credentials["AWS_ACCESS_KEY_ID"], other) == (403, "AccessDenied")


def test_a_certificate_of_another_key_stops_in_preflight(name: str, tmp_path: Path) -> None:
    if name != "edge01":
        pytest.skip("one device shows it")
    key, certificate = tmp_path / "key", tmp_path / "other.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=edge01", "-days", "30", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    text = refused_by_preflight({"device_identity_certificate": str(certificate)})
    assert f"device_identity_certificate '{certificate}' does not match the key 'device-key'" in text
    assert "run edge_litestream.appliance.enroll" in text


def test_another_pin_does_not_replace_the_one_the_token_has(host: Any, name: str) -> None:
    if name != "edge01":
        pytest.skip("one device shows it")
    held = host.file("/etc/edge-token/pin").content
    text = refused_by_preflight({"pkcs11_pin": "another-pin"})
    assert "pkcs11_pin (value hidden) is not what /etc/edge-token/pin on edge01 holds" in text
    assert "Change the PIN" in text
    assert "another-pin" not in text
    assert host.file("/etc/edge-token/pin").content == held
