"""A wrong PIN costs one try of the token, ever, and the right one fixes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import TPM_DEVICE

from experiment import observe
from experiment.phases import wait_for

TPM = "--tcti=tabrmd:"
LAST = "LastTriggerUSecMonotonic"


def lockout_counter(host: Any) -> int:
    """Failed authorisations the TPM remembers; at 3 (by default) it refuses all."""
    shown = host.check_output(f"tpm2_getcap {TPM} properties-variable")
    return int(re.search(r"TPM2_PT_LOCKOUT_COUNTER: (0x[0-9A-F]+)", shown)[1], 16)  # type: ignore[index]


def ticks(host: Any, number: int) -> None:
    """Wait until the timer has fired that often."""
    seen: set[str] = set()

    def enough() -> bool:
        seen.add(host.check_output(f"systemctl show --property={LAST} --value edge-rotator.timer"))
        return len(seen) > number

    wait_for(enough, 120)


@pytest.fixture
def wrong_pin(host: Any, name: str, at_rest: None) -> Iterator[float]:
    """Give the device a wrong PIN and let it rotate; the right one is back afterwards."""
    host.check_output("rm -f /run/edge-alarm.*; cp -p /etc/edge-token/pin /run/right-pin")
    since = observe.now(name)
    try:
        host.check_output("printf 00000000 > /etc/edge-token/pin")
        host.run("systemctl start edge-rotator-force.service")
        host.check_output("systemctl start edge-rotator.timer")
        yield since
    finally:
        host.check_output("date +%s.%N > /run/right-pin-since")
        host.check_output("cat /run/right-pin > /etc/edge-token/pin && rm /run/right-pin")


def test_one_login_and_no_more(host: Any, name: str, request: pytest.FixtureRequest) -> None:
    counted = lockout_counter(host) if name == TPM_DEVICE else 0
    since = request.getfixturevalue("wrong_pin")

    ticks(host, 10)
    host.run("systemctl start edge-rotator-force.service")
    refused = host.run("sudo -u edge-rotator edge-rotator status")
    assert refused.rc != 0
    assert "pin_refused" in refused.stdout
    # The timer's ten ticks were quiet, and the forced run was refused without asking the token.
    failed = observe.events(name, "failed", since)
    assert [event.fields["error"] for event in failed] == ["pin_refused", "pin_refused"]
    assert "latched" in failed[1].fields["detail"]
    assert observe.events(name, "rotated", since) == []
    if name == TPM_DEVICE:
        assert lockout_counter(host) == counted + 1
    else:
        assert host.file("/run/edge-alarm.edge-rotator-force.service").exists, "OnFailure= was started"


def test_the_right_pin_rotates_again(host: Any, name: str) -> None:
    """Runs after the test above, whose end put the right PIN back."""
    since = float(host.file("/run/right-pin-since").content_string)
    wait_for(lambda: observe.events(name, "rotated", since), 60)
    assert wait_for(lambda: host.run("sudo -u edge-rotator edge-rotator status").rc == 0, 60)


@pytest.mark.usefixtures("at_rest")
def test_a_lost_pin_file_is_told_and_its_return_is_noticed(host: Any, name: str) -> None:
    """Left to itself, systemd does not start a unit without its credential, and the timer does not mind."""
    since = observe.now(name)
    host.check_output("mv /etc/edge-token/pin /etc/edge-token/aside")
    try:
        host.run("systemctl start edge-rotator-force.service")
        failed = observe.events(name, "failed", since)
        assert [event.fields["error"] for event in failed] == ["pin_unreadable"]
        assert "/etc/edge-token/pin" in failed[0].fields["detail"]
    finally:
        host.check_output("mv /etc/edge-token/aside /etc/edge-token/pin")
    host.check_output("systemctl start edge-rotator.timer")
    # A permanent error waits 15 minutes, unless what it was about has changed.
    wait_for(lambda: observe.events(name, "rotated", since), 90)


@pytest.fixture
def tpm(name: str, at_rest: None) -> None:
    """Take the device with a TPM alone, its timer at rest."""
    if name != TPM_DEVICE:
        pytest.skip("only a TPM locks")


@pytest.fixture
def locked(host: Any, tpm: None) -> Iterator[None]:
    """Somebody guesses, beside the rotator, until the TPM has enough."""
    guess = (
        "GUESS=wrongwrong setpriv --reuid=edge-rotator --regid=edge-rotator --init-groups "
        "env TPM2_PKCS11_STORE=/var/lib/edge-token TPM2_PKCS11_TCTI=tabrmd: pkcs11-tool "
        "--module /usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so "
        "--token-label edge --login --pin env:GUESS -O"
    )
    for _ in range(4):
        host.run(guess)
    assert "inLockout:                 1" in host.check_output(f"tpm2_getcap {TPM} properties-variable")
    yield
    host.check_output(f"tpm2_dictionarylockout {TPM} --clear-lockout")


@pytest.mark.usefixtures("locked")
def test_a_locked_tpm_is_unlocked_as_the_documentation_says(host: Any) -> None:
    found = host.run("edge-rotator doctor --login")
    assert found.rc == 1
    assert "pin_locked" in found.stdout, found.stdout
    host.check_output(f"tpm2_dictionarylockout {TPM} --clear-lockout")
    assert lockout_counter(host) == 0
    host.check_output("systemctl start edge-rotator-force.service edge-rotator.timer")
    # A Litestream that was restarted this second has not synced yet, and the doctor says so.
    wait_for(lambda: host.run("edge-rotator doctor --login").rc == 0, 30)


@pytest.mark.usefixtures("locked")
def test_a_locked_tpm_is_tried_again_when_its_lock_may_have_ended(host: Any, name: str) -> None:
    since, counted = observe.now(name), lockout_counter(host)
    for _ in range(2):
        assert host.run("systemctl start edge-rotator-force.service").rc != 0
    assert lockout_counter(host) == counted, "a TPM that is locked compares no PIN"
    assert [e.fields["error"] for e in observe.events(name, "failed", since)] == ["pin_locked"] * 2
    host.check_output("systemctl start edge-rotator.timer")
    told = host.run("sudo -u edge-rotator edge-rotator status").stdout
    assert "the last attempt failed: pin_locked" in told
    assert re.search(r"in 1[456] min \(backoff after pin_locked\)", told), told
    # The TPM forgives one failure in five seconds instead of a thousand, and the 15 minutes are over.
    limits = "--setup-parameters --max-tries=3 --lockout-recovery-time=1000 --recovery-time"
    try:
        host.check_output(f"tpm2_dictionarylockout {TPM} {limits}=5")
        wait_for(lambda: lockout_counter(host) < counted, 30)
        host.check_output("sed -i 's/^[0-9]*/0/' /run/edge-rotator/next")
        wait_for(lambda: observe.events(name, "rotated", since), 90)
    finally:
        host.check_output(f"tpm2_dictionarylockout {TPM} {limits}=1000")


@pytest.mark.usefixtures("tpm")
def test_power_cuts_do_not_lock_a_tpm(host: Any) -> None:
    """It counts each one after a login as a wrong PIN, unless it was shut down in between; three lock it."""
    assert lockout_counter(host) == 0
    host.check_output("systemctl start edge-rotator-force.service")
    for _ in range(4):
        host.check_output(
            "systemctl kill --signal=KILL swtpm.service && systemctl restart swtpm.service && "
            "timeout 30 sh -c 'until systemctl restart tpm2-abrmd.service; do sleep 1; done'"
        )
        host.check_output("systemctl start edge-rotator-force.service")
        assert lockout_counter(host) == 1
    host.check_output(f"tpm2_dictionarylockout {TPM} --clear-lockout")
