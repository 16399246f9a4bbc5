"""Each token and backend carries the whole chain: rotation, diagnosis, replication."""

from __future__ import annotations

from typing import Any

import pytest

from experiment import observe
from experiment.phases import assert_lossless, wait_for

EXPECTED = {
    "edge03": {
        "backend": "engine",
        "packages": ["libtpm2-pkcs11-1", "tpm2-abrmd", "libengine-pkcs11-openssl"],
        "absent": ["softhsm2", "pkcs11-provider", "python3-pycurl"],
    },
    "edge04": {
        "backend": "pkcs11-provider",
        "packages": ["softhsm2", "pkcs11-provider"],
        "absent": ["libengine-pkcs11-openssl", "python3-pycurl", "tpm2-abrmd"],
    },
}


def test_the_timer_rotates_by_the_chosen_backend(host: Any, name: str) -> None:
    since = observe.now(name)
    assert wait_for(lambda: observe.events(name, "rotated", since))[0].fields["reason"] == "schedule"
    config = host.file("/etc/edge-rotator/config.toml").content_string
    assert f'backend = "{EXPECTED[name]["backend"]}"' in config


def test_only_what_the_backend_needs_is_installed(host: Any, name: str) -> None:
    assert [p for p in EXPECTED[name]["packages"] if not host.package(p).is_installed] == []
    assert [p for p in [*EXPECTED[name]["absent"], "gcc", "cmake"] if host.package(p).is_installed] == []


def test_doctor_finds_nothing(host: Any) -> None:
    # A Litestream that was restarted this second has not synced yet, and the doctor says so.
    found = wait_for(lambda: good(host.run("edge-rotator doctor --login")), 30)
    assert "failed" not in found
    assert "the PIN is right and the private key is there" in found
    assert "nothing stored" in found


def test_status_is_good(host: Any) -> None:
    assert wait_for(lambda: good(host.run("sudo -u edge-rotator edge-rotator status")), 30)


def good(done: Any) -> str:
    """Output of a command that succeeded, else nothing."""
    return str(done.stdout) if done.rc == 0 else ""


def test_the_key_is_in_the_token_and_cannot_leave(host: Any, name: str) -> None:
    """The private key's attributes as the module tells them, seen by the one user."""
    module, environment = {
        "edge03": (
            "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
            "TPM2_PKCS11_STORE=/var/lib/edge-token TPM2_PKCS11_TCTI=tabrmd:",
        ),
        "edge04": ("/usr/lib/softhsm/libsofthsm2.so", "SOFTHSM2_CONF=/etc/edge-token/softhsm2.conf"),
    }[name]
    # The PIN by the environment of one process here; the product never does that.
    shown = host.check_output(
        f"PIN=$(cat /etc/edge-token/pin) setpriv --reuid=edge-rotator --regid=edge-rotator --init-groups "
        f"env {environment} pkcs11-tool --module {module} --token-label edge "
        "--login --pin env:PIN -O --type privkey"
    )
    assert "label:      device-key" in shown
    assert "never extractable" in shown


def test_others_reach_neither_token_nor_pins(host: Any, name: str) -> None:
    for path in ("/etc/edge-token/pin", "/etc/edge-token/so-pin"):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("root", "root", 0o600)
        assert host.run(f"sudo -u edge-rotator cat {path}").rc != 0
    for user in ("litestream", "sample-app", "nobody"):
        assert host.run(f"sudo -u {user} ls /var/lib/edge-token").rc != 0
        if name == "edge03":
            assert host.run(f"sudo -u {user} tpm2_getcap --tcti=tabrmd: properties-variable").rc != 0


def test_no_pin_in_a_command_line(host: Any) -> None:
    forced = "systemctl start edge-rotator-force.service"
    watch = "for n in $(seq 60); do cat /proc/[0-9]*/cmdline 2>/dev/null; done"
    for path in ("/etc/edge-token/pin", "/etc/edge-token/so-pin"):
        assert host.run(f"{{ {forced} & {watch}; wait; }} | grep -aqFf {path}").rc == 1


def test_metrics_are_written_and_nothing_else_can_be(host: Any, name: str) -> None:
    if name != "edge04":
        pytest.skip("metrics are on at edge04")
    folder = "/var/lib/prometheus/node-exporter"
    file = host.file(f"{folder}/edge_rotator.prom")
    wait_for(lambda: file.exists)
    assert file.mode == 0o644
    assert 'backend="pkcs11-provider",mode="environment"' in file.content_string
    assert "edge_rotator_timer_up 1.000" in file.content_string, "from its sandbox it can ask systemd"
    host.check_output(f"touch {folder}/other.prom")
    assert host.run(f"sudo -u edge-rotator rm -f {folder}/other.prom").rc != 0
    assert host.run(f"sudo -u edge-rotator sh -c 'echo x > {folder}/other.prom'").rc != 0
    host.check_output(f"rm {folder}/other.prom")


def test_what_is_in_s3_is_the_database(name: str, host: Any) -> None:
    assert_lossless(host, name)
