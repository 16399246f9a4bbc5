"""The configuration file: what is refused, and by which sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import toml

from edge_rotator import config as configuration
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError

Tables = dict[str, dict[str, Any]]


def good() -> Tables:
    return {
        "provider": {"endpoint": "x.test:8443", "role_alias": "alias", "thing_name": "edge01"},
        "token": {"module": "/m.so", "label": "edge", "key_label": "device"},
        "delivery": {"region": "eu-central-1"},
    }


def load(tmp_path: Path, tables: Tables) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(toml(tables))
    return configuration.load(str(path))


def test_defaults(tmp_path: Path) -> None:
    made = load(tmp_path, good())
    assert (made.backend, made.mode, made.timeout) == ("engine", "process", 30)
    assert made.credentials_file == "/run/edge-rotator/credentials.json"
    assert made.restart_command[0] == "/usr/bin/sudo"
    assert made.pin_file == "" and made.environment == {}


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("provider", "endpoint", "https://x.test", "provider.endpoint = 'https://x.test': must be a host"),
        ("provider", "endpoint", "x.test:99999", "a port to 65535"),
        ("provider", "endpoint", "x" * 254, "must be a host name"),
        ("provider", "endpoint", None, "provider.endpoint = None"),
        ("provider", "role_alias", "a b", "1 to 128 of"),
        ("provider", "backend", "magic", "one of engine, gnutls, pkcs11-provider, file"),
        ("provider", "backend", "provider", "'provider': must be written 'pkcs11-provider' now"),
        ("provider", "timeout", "30", "seconds from 0.1 to 600"),
        ("provider", "timeout", True, "seconds from 0.1 to 600"),
        ("provider", "timeout", 601, "seconds from 0.1 to 600"),
        ("provider", "connect_timeout", 31, "at most provider.timeout (30 s)"),
        ("provider", "certificate_file", "device.crt", "an absolute path"),
        ("provider", "backend", "file", "token.key_file = ''"),
        ("provider", "colour", "red", "provider.colour is no key; there are backend,"),
        ("colours", "red", 1, "[colours] is no section; there are delivery, provider,"),
        ("token", "module", None, "token.module = '': must be set with backend = 'engine'"),
        ("token", "label", "a\nb", "without control characters"),
        ("token", "environment", [], "token.environment = []"),
        ("token", "environment", {"LD_PRELOAD": "/x"}, "token.environment.LD_PRELOAD"),
        ("token", "environment", {"lower": "x"}, "token.environment.lower"),
        ("token", "environment", {"X": 1}, "token.environment.X = 1"),
        ("token", "environment", {"X": "a\nb"}, "a variable the module reads"),
        ("schedule", "refresh_margin", 3600, "less than schedule.expected_lifetime (3600 s)"),
        ("schedule", "safety_margin", 3600, "schedule.safety_margin = 3600"),
        ("delivery", "region", "Frankfurt", "an AWS region"),
        ("delivery", "mode", "magic", "one of process, environment"),
        ("delivery", "restart_command", "reboot", "a list: a program's absolute path"),
        ("delivery", "restart_command", ["reboot"], "a program's absolute path"),
        ("delivery", "databases", ["/a", "b"], "absolute paths"),
        ("delivery", "databases", [1], "absolute paths"),
        ("delivery", "databases", ["/a", "/a"], "without duplicates"),
        ("service", "user", "Root!", "a user's name"),
    ],
)
def test_refused(section: str, key: str, value: object, words: str, tmp_path: Path) -> None:
    tables = good()
    tables.setdefault(section, {})[key] = value
    if value is None:
        del tables[section][key]
    with pytest.raises(RotatorError) as caught:
        load(tmp_path, tables)
    assert caught.value.kind.name == "config_invalid"
    assert caught.value.detail.startswith(f"{tmp_path}/config.toml: ")
    assert words in caught.value.detail


def test_a_configuration_of_an_upgrade_that_broke_off_still_rotates(tmp_path: Path) -> None:
    tables = good()
    command = ["/usr/bin/sudo", "-n", "/usr/local/bin/litestream", "sync"]
    tables["delivery"] |= {"sync_command": command, "litestream_socket": "/run/litestream/litestream.sock"}
    assert load(tmp_path, tables).mode == "process"


def test_environment_mode_needs_a_restart(tmp_path: Path) -> None:
    tables = good()
    tables["delivery"] |= {"mode": "environment", "restart_command": []}
    with pytest.raises(RotatorError, match="restart_command"):
        load(tmp_path, tables)
    tables["delivery"]["restart_command"] = ["/bin/true"]
    assert load(tmp_path, tables).credentials_file.endswith("/litestream.env")


@pytest.mark.parametrize(
    ("content", "words"), [(b"[provider", "not TOML"), (b"\xff", "not TOML"), (None, "No such file")]
)
def test_unreadable(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RotatorError, match=words):
        configuration.load(str(path))
