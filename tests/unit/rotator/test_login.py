"""A PIN that was refused is not tried again, even if nobody could record the refusal."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PIN, ROOT, SOFTHSM, Device
from tokens import spy

from edge_rotator import config as configuration
from edge_rotator import rotation, token
from edge_rotator.errors import RotatorError

# Dies inside a login, as by a power cut; the request is never made.
DIES = """
import os, signal, sys
sys.path[:0] = sys.argv[1:2]
from edge_rotator import cli, provider
provider.fetch = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main(sys.argv[2:]))
"""


def die(device: Device) -> None:
    """Start a rotation that is killed while it logs in."""
    command = [sys.executable, "-I", "-c", DIES, str(ROOT)]
    done = subprocess.run(
        [*command, "--config", str(device.config), "rotate", "--force"], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL


def logins(device: Device, count: int, *arguments: str) -> list[int]:
    """Exit codes of `count` tries one after the other."""
    return [device.run(*(arguments or ("rotate", "--force"))).returncode for _ in range(count)]


def test_of_two_unknown_logins_with_a_new_pin_the_second_latches(device: Device) -> None:
    die(device)
    assert device.state["unknown"] == 1
    die(device)
    assert logins(device, 2) == [65, 65]
    assert "failed  login" in device.run("doctor", "--login").stdout
    assert device.run("status").returncode == 2
    assert device.server.requests == []
    device.pin_file.write_text(PIN)
    assert logins(device, 1) == [0]


def test_one_unknown_login_is_forgiven(device: Device) -> None:
    die(device)
    assert logins(device, 1) == [0]
    assert (device.state["unknown"], device.state["latched"]) == (0, False)


def test_no_number_of_power_cuts_latches_a_pin_that_was_accepted(device: Device) -> None:
    assert logins(device, 1) == [0]
    for _ in range(4):
        die(device)
    assert logins(device, 1) == [0]


def test_what_the_provider_refused_has_shown_the_pin_to_be_right(device: Device) -> None:
    device.server.respond = lambda h: h.reply(403, b'{"message":"Access Denied"}')
    assert logins(device, 1) == [31]
    for _ in range(3):
        die(device)
    assert logins(device, 1) == [31]


def test_an_accepted_pin_that_is_refused_later_latches(device: Device) -> None:
    assert logins(device, 1) == [0]
    device.pin_file.write_text("wrong-pin")
    assert logins(device, 3) == [65, 65, 65]


@pytest.fixture
def forgetful(device: Device) -> Iterator[Device]:
    """A device whose state cannot be written."""
    (device.root / "state/state.json").mkdir()
    yield device


@pytest.mark.parametrize("arguments", [("rotate", "--force"), ("rotate", "--dry-run")])
def test_nobody_tries_a_pin_again_and_again_without_memory(
    arguments: tuple[str, ...], forgetful: Device
) -> None:
    assert logins(forgetful, 3, *arguments) == [72, 72, 72]
    assert forgetful.server.requests == []


def test_neither_does_doctor(forgetful: Device) -> None:
    told = forgetful.run("doctor", "--login").stdout
    assert "failed  login        state_failed" in told
    assert "skipped provider" in told
    assert forgetful.server.requests == []


@pytest.mark.parametrize("arguments", [("doctor", "--login"), ("rotate", "--dry-run"), ("csr",)])
def test_nor_with_an_accepted_pin_that_the_token_may_refuse_by_now(
    arguments: tuple[str, ...], device: Device
) -> None:
    """The token's PIN was changed, the file was not: each would be another try."""
    assert logins(device, 1) == [0]
    (device.root / "state/.state.json.tmp").mkdir()
    change = ["pkcs11-tool", "--module", SOFTHSM, "--token-label", "edge", "--login", "--change-pin"]
    subprocess.run(
        [*change, "--pin", PIN, "--new-pin", "another-pin"],
        env={"PATH": "/usr/bin:/bin", "SOFTHSM2_CONF": str(device.softhsm)},
        check=True,
        capture_output=True,
    )
    count = spy(device)
    for _ in range(2):
        done = device.run(*arguments)
        assert "state_failed" in done.stdout + done.stderr
    assert count("C_Login") == 0


def test_a_full_disk_stops_no_device_that_works(device: Device) -> None:
    assert logins(device, 1) == [0]
    (device.root / "state/.state.json.tmp").mkdir()
    assert logins(device, 2) == [0, 0]


def limited() -> None:
    """Be a caller who set `ulimit -S -f 0`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_callers_limit_on_file_size_does_not_empty_the_token(device: Device) -> None:
    """SoftHSM truncates its files before it writes them."""
    before = {path.name: path.stat().st_size for path in (device.root / "tokens").rglob("*.object")}
    # A module writes where it is told the PIN was wrong, and again when it is right.
    device.pin_file.write_text("wrong-pin")
    device.run("doctor", "--login", preexec_fn=limited)
    assert device.state["latched"] is True
    device.pin_file.write_text(PIN)
    device.run("doctor", "--login", preexec_fn=limited)
    after = {path.name: path.stat().st_size for path in (device.root / "tokens").rglob("*.object")}
    assert after == before
    assert device.run("rotate", "--force").returncode == 0


def test_a_limit_that_cannot_be_lifted_is_told_before_the_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    with pytest.raises(RotatorError, match="RLIMIT_FSIZE") as caught:
        token.read_pin(str(tmp_path / "pin"))
    assert caught.value.kind.name == "token_failed"


def test_a_login_in_which_the_program_fails_stays_unknown(device: Device) -> None:
    config = configuration.load(str(device.config))
    with pytest.raises(KeyError), rotation.login(config):
        raise KeyError
    assert device.state["unknown"] == 1
