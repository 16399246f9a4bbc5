"""A device's token, architecture and disk are said or seen before anything is made on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.roles.test_trust import ROOT, play, preflight


def of_role(role: str, *names: str) -> dict[str, Any]:
    """Variables of a role's vars/main.yml."""
    known = yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text())
    return {name: known[name] for name in names}


@pytest.mark.parametrize(
    ("profile", "state", "refused"),
    [
        ("", "present", True),
        ("", "absent", False),
        ("softhsm2", "present", False),
        ("tpm2", "present", False),
    ],
)
def test_nobody_gets_a_token_that_was_not_asked_for(
    tmp_path: Path, profile: str, state: str, refused: bool
) -> None:
    task = preflight("pkcs11_profile != ''")
    assert len(task["edge_litestream.appliance.preflight"]["rules"]) == 1
    code, said = play(tmp_path, task, pkcs11_profile=profile, pkcs11_state=state)
    assert (code != 0) == refused, said
    if refused:
        assert "pkcs11_profile is not set for edge01" in said
        for choice in yaml.safe_load((ROOT / "roles/pkcs11/meta/argument_specs.yml").read_text())[
            "argument_specs"
        ]["main"]["options"]["pkcs11_profile"]["choices"]:
            assert f"'{choice}'" in said if choice else True


def test_the_example_leaves_the_choice_to_its_reader() -> None:
    example = yaml.safe_load((ROOT / "inventory/production.example/group_vars/edge_devices.yml").read_text())
    assert example["pkcs11_profile"] == ""


@pytest.mark.parametrize(
    ("archive", "machine", "refused"),
    [
        ("https://example.com/litestream-0.5.17-linux-armv7.tar.gz", "armv6l", True),
        ("https://example.com/litestream-0.5.17-linux-armv7.tar.gz", "armv7l", False),
        ("/srv/litestream-v0.3.13-linux-arm7.deb", "armv6l", True),
        ("/srv/litestream-0.5.17-linux-armv6.tar.gz", "armv6l", False),
        ("/srv/litestream-0.5.17-linux-armv6.tar.gz", "armv7l", False),
        ("/srv/litestream-0.5.17-linux-arm64.tar.gz", "armv7l", True),
        ("/srv/litestream-0.5.17-linux-arm64.tar.gz", "aarch64", False),
        ("/srv/litestream-0.5.17-linux-x86_64.tar.gz", "aarch64", True),
        ("/srv/litestream-0.5.17-linux-x86_64.tar.gz", "x86_64", False),
        ("/srv/litestream", "armv6l", False),
        ("", "armv6l", False),
    ],
)
def test_a_program_for_another_machine_is_refused(
    tmp_path: Path, archive: str, machine: str, refused: bool
) -> None:
    task = preflight("__litestream_archive_machines")
    known = of_role("litestream", "__litestream_archive_for", "__litestream_archive_machines")
    code, said = play(tmp_path, task, **known, litestream_archive=archive, __common_machine=machine)
    assert (code != 0) == refused, said
    if refused:
        assert f"litestream_archive is '{archive}'" in said
        assert f"edge01 is a {machine}" in said


@pytest.mark.parametrize(
    ("found", "refused", "words"),
    [
        ({}, False, []),
        (
            {"volatile": "overlay at / with its changes in /upper/data"},
            True,
            ["edge01 has overlay at /", "disable_overlayfs"],
        ),
        ({"swap": ["/var/swap"]}, False, ["WARNING: edge01 swaps to /var/swap", "not encrypted"]),
        ({"restoring": "/var/lib/app/app.db, since T, process 7"}, True, ["on edge01 (/var/lib/app/app.db"]),
    ],
)
def test_what_storage_tells_stops_or_warns(
    tmp_path: Path, found: dict[str, Any], refused: bool, words: list[str]
) -> None:
    tasks = yaml.safe_load((ROOT / "roles/common/tasks/storage.yml").read_text())[1:]
    told = {"volatile": "", "swap": [], "restoring": "", **found}
    code, said = play(tmp_path, {"block": tasks}, __common_storage=told)
    assert (code != 0) == refused, said
    assert [word for word in words if word not in said] == []
    assert ("WARNING: edge01" in said) == ("swap" in found)
