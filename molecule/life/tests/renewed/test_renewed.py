"""A renewal replaces a certificate once the new one has proved to work; else the device is as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import WRITTEN, Aws, Playbook, certificate, killed, newest_key

from experiment import observe
from experiment.phases import assert_lossless, wait_for

pytestmark = pytest.mark.timeout(900)
SAME_KEY, NEW_KEY = "edge01", "edge02"
FORCE = "--extra-vars=renew_force=true"
IDENTITY = "/etc/edge-identity"


def only(name: str, wanted: str) -> None:
    if name != wanted:
        pytest.skip(f"this is about {wanted}")


def public_key(host: Any, file: str) -> str:
    return str(host.check_output(f"openssl x509 -in {IDENTITY}/{file} -noout -pubkey"))


def marked(host: Any) -> list[str]:
    """Return the certificates that the marker of the identity names."""
    marker = json.loads(host.file(f"{IDENTITY}/identity.json").content_string)
    return [one["certificate_id"] for one in marker["identities"]]


@pytest.fixture
def provider_is_down() -> Iterator[None]:
    observe.run(observe.CLOUD, "sudo systemctl stop edge-cloud-provider")
    yield
    observe.run(observe.CLOUD, "sudo systemctl start edge-cloud-provider")


def test_the_whole_fleet_is_no_accident(name: str, playbook: Playbook) -> None:
    only(name, SAME_KEY)
    done = playbook("renew", FORCE)
    assert done.code != 0
    assert "name the devices with --limit, or say -e renew_all=true" in done.text


def test_a_young_certificate_stays(host: Any, name: str, playbook: Playbook, aws: Aws) -> None:
    only(name, SAME_KEY)
    before = aws.certificates(name)
    for words in (["--check", FORCE], []):
        done = playbook("renew", "--limit=edge01", *words)
        assert done.code == 0, done.text
        assert ("0 days old" in done.text, ": not due" in done.text) == (True, not words)
        assert aws.certificates(name) == before == {certificate(host): "ACTIVE"}
    assert not host.file(f"{IDENTITY}/device.crt.old").exists


def test_a_renewal_that_fails_changes_nothing(
    host: Any, name: str, playbook: Playbook, aws: Aws, provider_is_down: None
) -> None:
    only(name, SAME_KEY)
    old, key = certificate(host), newest_key(name)
    done = playbook("renew", "--limit=edge01", FORCE)
    assert done.code != 0
    assert f"edge01 has its old certificate {old} back, and the new one is inactive" in done.text
    assert certificate(host) == old
    assert marked(host) == [old]
    assert sorted(aws.certificates(name).values()) == ["ACTIVE", "INACTIVE"]
    assert aws.certificates(name)[old] == "ACTIVE"
    assert newest_key(name) == key


def test_the_next_run_takes_the_certificate_that_is_there(
    host: Any, name: str, playbook: Playbook, aws: Aws
) -> None:
    """It breaks off when the device has switched, and the run after that one ends what is left."""
    only(name, SAME_KEY)
    before, old, key = aws.certificates(name), certificate(host), newest_key(name)
    killed("rotated | Credentials are fetched", "renew", "--limit=edge01", FORCE)
    assert sorted(aws.certificates(name).values()) == ["ACTIVE", "ACTIVE"]
    done = playbook("renew", "--limit=edge01")
    assert done.code == 0, done.text
    new = certificate(host)
    assert new != old
    assert aws.certificates(name) == {old: "INACTIVE", new: "ACTIVE"}
    assert set(before) == {old, new}
    assert marked(host) == [new]
    assert newest_key(name) != key
    assert public_key(host, "device.crt") == public_key(host, "device.crt.old")
    kept = (WRITTEN / "certificates/edge01.crt").read_text()
    assert kept.split() == host.file(f"{IDENTITY}/device.crt").content_string.split()
    assert_lossless(host, name)


def test_the_old_one_is_deleted_later(host: Any, name: str, playbook: Playbook, aws: Aws) -> None:
    only(name, SAME_KEY)
    before = aws.certificates(name)
    done = playbook("renew", "--limit=edge01")
    assert done.code == 0, done.text
    assert aws.certificates(name) == before
    done = playbook("renew", "--limit=edge01", "--extra-vars=renew_keep_hours=0")
    assert done.code == 0, done.text
    assert aws.certificates(name) == {certificate(host): "ACTIVE"}
    assert not host.file(f"{IDENTITY}/device.crt.old").exists


def test_a_new_key(host: Any, name: str, playbook: Playbook, aws: Aws) -> None:
    only(name, NEW_KEY)
    old, key = certificate(host), newest_key(name)
    variables = WRITTEN / "host_vars/edge02.yml"
    variables.parent.mkdir(exist_ok=True)
    variables.write_text(yaml.safe_dump({"pkcs11_key_label": "device-key-2"}))
    done = playbook("renew", "--limit=edge02")
    assert done.code == 0, done.text
    new = certificate(host)
    assert aws.certificates(name) == {old: "INACTIVE", new: "ACTIVE"}
    assert public_key(host, "device.crt") != public_key(host, "device.crt.old")
    assert 'key_label = "device-key-2"' in host.file("/etc/edge-rotator/config.toml").content_string
    assert marked(host) == [old, new]
    assert newest_key(name) != key
    wait_for(lambda: host.run("edge-rotator status").rc == 0)
    # What renew has written is what a converge writes.
    done = playbook("site", "--limit=edge02")
    assert done.code == 0, done.text
    assert "edge02 : ok=" in done.text
    assert "changed=0" in done.text
    assert_lossless(host, name)
