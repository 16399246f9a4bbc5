"""`csr`: from a bare token to a request, before and after there is a configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import PIN, SOFTHSM, Device
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tokens import spy


def flags(device: Device, **changes: str) -> list[str]:
    """Everything the configuration would say."""
    named = {
        "module": SOFTHSM,
        "token-label": "fresh",
        "key-label": "key",
        "pin-file": str(device.pin_file),
        "user": "root",
        "common-name": "edge42",
        "env": f"SOFTHSM2_CONF={device.softhsm}",
    } | changes
    return [word for name, value in named.items() if value for word in (f"--{name}", value)]


def test_without_a_configuration(device: Device) -> None:
    device.add_token("fresh")
    device.config.unlink()
    none = device.run("csr", *flags(device))
    assert none.returncode == 63, none.stderr
    output = device.root / "made.csr"
    made = device.run("csr", "--create-key", *flags(device), "--output", str(output))
    assert (made.returncode, made.stdout) == (0, ""), made.stderr
    assert made.stderr == "created key key in fresh\n"
    request = x509.load_pem_x509_csr(output.read_bytes())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=edge42"
    assert output.stat().st_mode & 0o7777 == 0o644
    public = device.run("csr", "--public-key", *flags(device, **{"pin-file": "", "common-name": ""}))
    loaded = serialization.load_pem_public_key(public.stdout.encode())
    assert loaded == request.public_key()


def test_public_key_costs_no_login(device: Device) -> None:
    count = spy(device)
    assert device.run("csr", "--public-key").returncode == 0
    assert count("C_Login") == 0


def test_private_key_stays(device: Device) -> None:
    done = subprocess.run(
        ["pkcs11-tool", "--module", SOFTHSM, "--token-label", "edge", "--login", "--pin", PIN]
        + ["--list-objects", "--type", "privkey"],
        env={"PATH": "/usr/bin:/bin", "SOFTHSM2_CONF": str(device.softhsm)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sensitive, always sensitive, never extractable, local" in done.stdout


def test_mistakes_have_their_class(device: Device, tmp_path: Path) -> None:
    for arguments, code in (
        (["csr", "--env", "nonsense"], 3),
        (["csr", *flags(device, user="no-such-user", **{"token-label": "edge", "key-label": "device"})], 4),
        (["csr", "--pin-file", "/nowhere"], 67),
        (["csr", "--output", "/nowhere/x.csr"], 70),
        (["csr", "--token-label", "other"], 62),
    ):
        done = device.run(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
    device.config.unlink()
    assert device.run("csr").returncode == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_loads_no_module_unless_told_to_stay_root(device: Device) -> None:
    """A module may be what somebody else has put there; without a configuration nobody is known to become."""
    count = spy(device)
    device.add_token("fresh")
    device.config.unlink()
    done = device.run("csr", *flags(device, user=""))
    assert done.returncode == 3, done.stderr
    assert "--user is needed" in done.stderr
    assert count("C_Initialize") == 0


def test_a_refused_pin_is_latched_for_the_rotator_too(device: Device) -> None:
    device.pin_file.write_text("wrong-pin")
    count = spy(device)
    for command in (("csr",), ("csr",), ("rotate",), ("rotate", "--force")):
        device.run(*command)
    assert count("C_Login") == 1
    assert device.state["latched"] is True
