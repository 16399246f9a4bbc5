"""Every unit's sandbox, and what reaches the environment of what runs in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from experiment import observe
from experiment.exposure import assert_exposure
from experiment.phases import wait_for

# OpenSSL would have no algorithm at all with this.
NO_CRYPTO = "openssl_conf = a\n[a]\nproviders = b\n[b]\nnull = c\n[c]\nactivate = 1\n"
# Where traffic, trust and code could come from, were it obeyed.
HOSTILE = {
    "AWS_CA_BUNDLE": "/run/evil.pem",
    "AWS_CONFIG_FILE": "/run/evil.conf",
    "AWS_ENDPOINT_URL": "https://127.0.0.1:1",
    "AWS_ENDPOINT_URL_S3": "https://127.0.0.1:1",
    "AWS_PROFILE": "evil",
    "AWS_REGION": "evil-1",
    "GCONV_PATH": "/run/evil",
    "GODEBUG": "x509ignoreCN=0",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "http://127.0.0.1:1",
    "LD_LIBRARY_PATH": "/run/evil",
    "LOCPATH": "/run/evil",
    "LD_PRELOAD": "/run/evil.so",
    "OPENSSL_CONF": "/run/evil.cnf",
    "PYTHONPATH": "/run/evil",
    "PYTHONSTARTUP": "/run/evil.py",
    "SSL_CERT_DIR": "/run/evil",
    "SSL_CERT_FILE": "/run/evil.pem",
}
GIVEN = {"PATH", "TZ", "AWS_REGION", "AWS_EC2_METADATA_DISABLED", "SSL_CERT_FILE"}
OF_MODE = {
    "environment": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
    "process": {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_SDK_LOAD_CONFIG"},
}


def test_exposure_is_what_the_table_says(host: Any) -> None:
    assert_exposure(host)


@pytest.fixture
def hostile(host: Any, mode: str, secret_file: str, at_rest: None) -> Iterator[None]:
    """Hostile variables in systemd's own environment and, where there is one, in Litestream's file."""
    pairs = shlex.join(f"{name}={value}" for name, value in HOSTILE.items())
    try:
        host.check_output("printf %s > /run/evil.cnf", NO_CRYPTO)
        host.check_output(f"systemctl set-environment {pairs}")
        if mode == "environment":
            host.check_output(f"printf '%s\\n' {pairs} >> {secret_file}")
        host.check_output("systemctl restart litestream.service")
        yield
    finally:
        host.check_output(f"systemctl unset-environment {' '.join(HOSTILE)}; rm /run/evil.cnf")
        # Writes the file anew.
        host.check_output("systemctl start edge-rotator-force.service")
        host.check_output("systemctl restart litestream.service")


def test_litestream_has_the_environment_of_the_list(host: Any, name: str, mode: str, hostile: None) -> None:
    # Python has become Litestream.
    pid = host.check_output("systemctl show --property=MainPID --value litestream.service")
    wait_for(lambda: "litestream" in host.check_output(f"readlink /proc/{pid}/exe"), 20)
    text = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert found.keys() == GIVEN | OF_MODE[mode]
    assert [key for key, value in found.items() if value == HOSTILE.get(key)] == []
    # The loader says so when it obeys.
    said = host.check_output(f"journalctl --no-pager --output=cat _PID={pid}")
    assert "preloaded" not in said


def test_the_rotator_obeys_none_either(host: Any, name: str, hostile: None) -> None:
    since = observe.now(name)
    host.check_output("systemctl start edge-rotator-force.service")
    assert observe.events(name, "rotated", since)
    said = host.check_output(
        f"journalctl --no-pager --output=cat --since=@{since:.6f} --unit=edge-rotator-force"
    )
    assert "preloaded" not in said
