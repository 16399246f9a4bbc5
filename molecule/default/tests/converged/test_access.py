"""Who may do what: sudo to the letter, files, token, database."""

from __future__ import annotations

import re
from typing import Any

import pytest

SYSTEMCTL = "/usr/bin/systemctl --no-pager"
JOURNAL = "/usr/bin/journalctl --no-pager --lines=200"
ROTATOR = "/usr/local/bin/edge-rotator"
OPERATOR = {
    *(
        f"(root) {SYSTEMCTL} {verb} {unit}"
        for verb in ("status", "start", "stop", "restart")
        for unit in ("edge-rotator.service", "edge-rotator.timer", "litestream.service")
    ),
    *(f"(root) {SYSTEMCTL} enable {unit}" for unit in ("edge-rotator.timer", "litestream.service")),
    f"(root) {SYSTEMCTL} start edge-rotator-force.service",
    *(
        f"(root) {JOURNAL} --unit={unit}"
        for unit in ("edge-rotator.service", "edge-rotator-force.service", "litestream.service")
    ),
    f"(edge-rotator) {ROTATOR} status",
    f"(edge-rotator) {ROTATOR} status --json",
    f"(edge-rotator) {ROTATOR} doctor",
    f"(root) {ROTATOR} doctor --login",
}
PROCESS_ONLY = {f"(root) {SYSTEMCTL} {verb} litestream.path" for verb in ("start", "stop", "enable")}
RESTART = "(root) /usr/bin/systemctl restart litestream.service"

FILES = {
    "/etc/edge-token": ("root", "edge-token", 0o750),
    "/etc/edge-token/pin": ("root", "root", 0o600),
    "/etc/edge-token/softhsm2.conf": ("root", "edge-token", 0o640),
    "/var/lib/edge-token": ("edge-rotator", "edge-token", 0o2770),
    "/etc/edge-identity/device.crt": ("root", "root", 0o644),
    "/etc/edge-rotator/config.toml": ("root", "edge-rotator", 0o640),
    "/etc/sudoers.d/edge-rotator": ("root", "root", 0o440),
    "/etc/litestream.yml": ("root", "root", 0o644),
    "/run/edge-rotator": ("edge-rotator", "litestream", 0o2750),
    "/var/lib/edge-rotator": ("edge-rotator", "edge-rotator", 0o750),
    "/var/lib/sample-app": ("sample-app", "edge-data", 0o2770),
    "/var/lib/sample-app/sample.db": ("sample-app", "edge-data", 0o660),
    # Whoever of the two opens the database first makes it.
    "/var/lib/sample-app/sample.db-wal": ("sample-app|litestream", "edge-data", 0o660),
    "/opt/edge-rotator/current/bin/edge-rotator": ("root", "root", 0o755),
}


def rules(host: Any, user: str) -> set[str]:
    """Rules sudo itself lists for a user, as `(runas) command`."""
    text = host.check_output(f"sudo -l -U {user}")
    text = text.replace("\\=", "=")
    return {
        f"{found[1]} {found[2]}"
        for found in re.finditer(r"^\s+(\(\S+\)) NOPASSWD: (.+)$", text, re.MULTILINE)
    }


def test_sudo_of_the_operators_is_the_list(host: Any, mode: str) -> None:
    assert rules(host, "operator") == OPERATOR | (PROCESS_ONLY if mode == "process" else set())


def test_sudo_of_the_rotator_is_one_restart(host: Any, mode: str) -> None:
    assert rules(host, "edge-rotator") == ({RESTART} if mode == "environment" else set())
    for user in ("litestream", "sample-app"):
        assert rules(host, user) == set()


def test_the_tree_of_sudoers_is_sound(host: Any) -> None:
    assert host.run("visudo -c").rc == 0


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("operator", "/bin/bash"),
        ("operator", "/usr/bin/systemctl --no-pager restart ssh.service"),
        ("operator", "/usr/bin/systemctl status litestream.service"),
        ("operator", "/usr/bin/systemctl --no-pager stop litestream.service ssh.service"),
        ("operator", "/usr/bin/systemctl edit litestream.service"),
        ("operator", "/usr/bin/journalctl --unit=litestream.service"),
        ("operator", "/usr/bin/cat /etc/edge-token/pin"),
        ("operator", "-u edge-rotator /usr/local/bin/edge-rotator rotate --force"),
        ("operator", "-u edge-rotator /usr/local/bin/edge-rotator --config /tmp/evil status"),
        ("edge-rotator", "/usr/bin/systemctl stop litestream.service"),
        ("edge-rotator", "/usr/bin/systemctl restart litestream.service ssh.service"),
        ("edge-rotator", "/usr/bin/systemctl restart ssh.service"),
        ("edge-rotator", "/bin/sh"),
    ],
)
def test_what_is_not_listed_is_refused(host: Any, user: str, command: str) -> None:
    done = host.run(f"runuser -u {user} -- sudo -n {command}")
    assert done.rc != 0
    assert "password is required" in done.stderr or "not allowed" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        f"{SYSTEMCTL} status edge-rotator.timer",
        f"{JOURNAL} --unit=litestream.service",
        f"-u edge-rotator {ROTATOR} status",
    ],
)
def test_what_an_operator_needs_works(host: Any, command: str) -> None:
    done = host.run(f"runuser -u operator -- sudo -n {command}")
    assert done.stdout.strip(), done.stderr
    assert "password is required" not in done.stderr


@pytest.mark.parametrize("path", list(FILES))
def test_modes_of_files(host: Any, path: str) -> None:
    found = host.file(path)
    users, group, mode = FILES[path]
    assert found.user in users.split("|")
    assert (found.group, found.mode) == (group, mode)


def test_modes_of_the_credentials(host: Any, secret_file: str) -> None:
    found = host.file(secret_file)
    assert (found.user, found.group, found.mode) == ("edge-rotator", "litestream", 0o640)


@pytest.mark.parametrize("user", ["litestream", "sample-app", "operator", "nobody"])
def test_nobody_else_reaches_pin_token_or_credentials(host: Any, user: str, secret_file: str) -> None:
    assert host.run(f"runuser -u {user} -- cat /etc/edge-token/pin").rc != 0
    assert host.run(f"runuser -u {user} -- ls /var/lib/edge-token").rc != 0
    reads = host.run(f"runuser -u {user} -- cat {secret_file}").rc == 0
    assert reads == (user == "litestream")


def test_the_rotator_itself_cannot_read_the_pin(host: Any) -> None:
    assert host.run("runuser -u edge-rotator -- cat /etc/edge-token/pin").rc != 0


STEAL = """
import sys
sys.path.insert(0, "/opt/edge-rotator/current/lib")
import pkcs11
from pkcs11 import Attribute, ObjectClass
token = pkcs11.lib("/usr/lib/softhsm/libsofthsm2.so").get_token(token_label="edge")
with token.open(user_pin=open("/etc/edge-token/pin").read()) as session:
    key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="device-key")
    print(key[Attribute.SENSITIVE], key[Attribute.NEVER_EXTRACTABLE], key[Attribute.EXTRACTABLE])
    try:
        print(key[Attribute.VALUE].hex())
    except pkcs11.exceptions.PKCS11Error as error:
        print(type(error).__name__)
"""


def test_the_key_never_leaves_its_token(host: Any) -> None:
    """Even root with the PIN cannot take it out."""
    done = host.check_output("SOFTHSM2_CONF=/etc/edge-token/softhsm2.conf python3 -I -c %s", STEAL)
    assert done.split() == ["True", "True", "False", "AttributeSensitive"]


def test_the_certificate_belongs_to_the_key(host: Any) -> None:
    certified = host.check_output("openssl x509 -in /etc/edge-identity/device.crt -noout -pubkey")
    options = (
        "--module /usr/lib/softhsm/libsofthsm2.so --token-label edge --key-label device-key "
        "--user edge-rotator --pin-file /etc/edge-token/pin --env SOFTHSM2_CONF=/etc/edge-token/softhsm2.conf"
    )
    assert host.check_output(f"edge-rotator csr {options} --public-key").strip() == certified.strip()
    assert "prime256v1" in host.check_output("openssl x509 -in /etc/edge-identity/device.crt -noout -text")
