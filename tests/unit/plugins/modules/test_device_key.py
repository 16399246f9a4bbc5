"""device_key: one identity per device, and what it starts leaves no secret in a core dump."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

Run = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[4]
CORE = 1 << 20
CODE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge_litestream.appliance.plugins.modules import device_key
with patch_module_args(json.load(sys.stdin)):
    device_key.main()
"""
KEY_COMMAND = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]


def arguments(place: Path, key: str = "key", **more: Any) -> dict[str, Any]:
    """Return the module's arguments for the key in the file `key`."""
    path = f"{place}/{key}"
    return {
        "public_key_command": ["openssl", "pkey", "-pubout", "-in", path],
        "key_command": [*KEY_COMMAND, path],
        "request_command": ["openssl", "req", "-new", "-subj", "/CN=edge01", "-key", path],
        "key_label": path,
        "thing": "edge01",
        "request_file": f"{place}/device.csr",
        "certificate_file": f"{place}/device.crt",
        **more,
    }


@pytest.fixture
def ask(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the module for the key in a file of a directory; return its answer."""
    # It would be for good, and for all the tests that follow in this process.
    monkeypatch.setattr("resource.setrlimit", lambda *_limits: None)
    return lambda place, check=False, **more: run(check, **arguments(place, **more))


def marker(place: Path) -> Any:
    return json.loads((place / "identity.json").read_text())["identities"]


def digest(place: Path, *command: str) -> str:
    """SHA-256 of the DER that a command of openssl makes."""
    subprocess.run(["openssl", *command, "-outform", "DER", "-out", place / "der"], check=True)
    shown = subprocess.run(["sha256sum", place / "der"], check=True, capture_output=True, text=True).stdout
    (place / "der").unlink()
    return shown.split()[0]


def certificate_id(place: Path) -> str:
    return digest(place, "x509", "-in", f"{place}/device.crt")


def certify(place: Path) -> None:
    """Have the key's certificate in its place."""
    words = ["openssl", "req", "-x509", "-subj", "/CN=edge01", "-days", "9"]
    subprocess.run([*words, "-key", f"{place}/key", "-out", f"{place}/device.crt"], check=True)


@pytest.fixture
def place(ask: Run, tmp_path: Path) -> Path:
    """Directory of a device with key, request, certificate and marker."""
    answer = ask(tmp_path)
    assert (answer["changed"], answer["certificate"], answer["certificate_id"]) == (True, "missing", "")
    certify(tmp_path)
    assert ask(tmp_path)["changed"]
    return tmp_path


def started(wanted: dict[str, Any], limit: int, most: int) -> dict[str, Any]:
    """Answer of the module in a process of its own, started with this limit."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"PYTHONPATH": str(ROOT / ".collections"), "PATH": "/usr/bin:/bin"},
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
    )
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_command_that_prints_for_ever_is_ended(tmp_path: Path, stream: str) -> None:
    """It says what its token makes it say; the module runs as root and keeps all that it reads."""
    command = ["sh", "-c", f"exec yes >&{stream}"]
    wanted = arguments(tmp_path, public_key_command=command, key_command=command, request_command=command)
    told = started(wanted, resource.RLIMIT_AS, 2**30)
    assert "sh printed more than 65536 bytes" in told["msg"]
    assert not (tmp_path / "device.csr").exists()


def test_no_child_dumps_core(tmp_path: Path) -> None:
    """Each command writes its own limits down; the module itself starts with others."""
    subprocess.run([*KEY_COMMAND, f"{tmp_path}/key"], check=True)
    note = f"cat /proc/self/limits >>{tmp_path}/limits"
    asked = ["sh", "-c", f"{note}; cat {tmp_path}/public"]
    made = ["sh", "-c", f"{note}; openssl pkey -pubout -in {tmp_path}/key -out {tmp_path}/public"]
    wanted = arguments(tmp_path, "made", public_key_command=asked, key_command=made, request_command=asked)
    assert started(wanted, resource.RLIMIT_CORE, CORE)["changed"]
    cores = re.findall(r"^Max core file size +(\S+) +(\S+)", (tmp_path / "limits").read_text(), re.MULTILINE)
    assert cores == [("0", "0")] * 4


@pytest.mark.parametrize("check", [False, True])
def test_a_key_that_cannot_be_read_is_not_overwritten(ask: Run, tmp_path: Path, check: bool) -> None:
    key = tmp_path / "key"
    locked = [*KEY_COMMAND, str(key), "-aes256", "-pass", "pass:some"]
    subprocess.run(locked, check=True)
    before = key.read_bytes()
    command = ["openssl", "pkey", "-passin", "pass:", "-pubout", "-in", str(key)]
    answer = ask(tmp_path, check=check, public_key_command=command)
    assert answer["failed"], answer
    assert f"key {key} is there, but openssl cannot read it" in answer["msg"]
    assert re.search("Could not (read|find)|wrong password", answer["msg"]), "openssl's own words"
    assert key.read_bytes() == before


@pytest.mark.parametrize("name", ["public_key", "request"])
def test_no_passphrase_is_asked_for_on_a_terminal(tmp_path: Path, name: str) -> None:
    """The role's own command, which has a terminal here; it would wait for ever."""
    key = tmp_path / "key"
    subprocess.run([*KEY_COMMAND, str(key), "-aes256", "-pass", "pass:some"], check=True)
    variables = yaml.safe_load((ROOT / "roles/device_identity/vars/main.yml").read_text())
    template = NativeEnvironment().from_string(variables[f"__device_identity_{name}_command"])
    command = template.render(device_identity_key_file=str(key), device_identity_thing_name="edge01")
    master, terminal = os.openpty()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=20,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    os.close(master)
    assert done.returncode == 1, done.stderr


def test_what_is_whole_stays_and_the_marker_names_it(ask: Run, place: Path) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    answer = ask(place)
    assert (answer["changed"], answer["certificate"]) == (False, "ok")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    (one,) = marker(place)
    assert one["public_key_sha256"] == digest(place, "pkey", "-pubout", "-in", f"{place}/key")
    assert (one["token"], one["key"], one["thing"]) == ("", f"{place}/key", "edge01")
    assert one["certificate_id"] == answer["certificate_id"] == certificate_id(place)


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("legacy", [False, True], ids=["marked", "converged before the marker"])
def test_a_key_that_is_gone_is_not_made_again(ask: Run, place: Path, legacy: bool, check: bool) -> None:
    (place / "key").unlink()
    if legacy:
        (place / "identity.json").unlink()
    before = sorted(path.name for path in place.iterdir())
    answer = ask(place, check=check)
    assert answer["failed"], answer
    assert f"key {place}/key is not to be had" in answer["msg"]
    assert sorted(path.name for path in place.iterdir()) == before
    # What it says is what helps.
    command = re.search(r"rm (\S+ )+on", answer["msg"])
    assert command, answer["msg"]
    for path in command.group().split()[1:-1]:
        Path(path).unlink()
    assert ask(place)["changed"]
    assert (place / "key").exists()


def test_another_key_is_not_taken_for_it(ask: Run, place: Path) -> None:
    subprocess.run([*KEY_COMMAND, f"{place}/key"], check=True)
    answer = ask(place)
    assert answer["failed"]
    assert marker(place)[0]["public_key_sha256"] in answer["msg"]
    assert f"rm {place}/identity.json {place}/device.crt" in answer["msg"]


def test_a_device_of_before_the_marker_gets_it(ask: Run, place: Path) -> None:
    made = marker(place)
    (place / "identity.json").unlink()
    assert ask(place, check=True)["changed"]
    assert not (place / "identity.json").exists()
    assert ask(place)["changed"]
    assert marker(place) == made
    assert not ask(place)["changed"]


def test_a_certificate_that_was_made_is_remembered_when_it_is_gone(ask: Run, place: Path) -> None:
    made = marker(place)[0]["certificate_id"]
    (place / "device.crt").unlink()
    answer = ask(place)
    assert (answer["changed"], answer["certificate"], answer["certificate_id"]) == (False, "missing", made)
    certify(place)
    answer = ask(place)
    assert (answer["changed"], answer["certificate"], answer["certificate_id"]) == (
        True,
        "ok",
        certificate_id(place),
    )


def test_whosever_certificate_a_device_of_before_the_marker_has_it_is_not_signed_over(
    ask: Run, place: Path
) -> None:
    (place / "identity.json").unlink()
    subprocess.run([*KEY_COMMAND, f"{place}/key"], check=True)
    answer = ask(place)
    assert (answer["certificate"], answer["certificate_id"]) == ("other_key", certificate_id(place))


def test_a_key_with_another_name_is_one_that_the_operator_wants(ask: Run, place: Path) -> None:
    answer = ask(place, key="second")
    assert (answer["changed"], answer["certificate"], answer["certificate_id"]) == (True, "other_key", "")
    assert [Path(one["key"]).name for one in marker(place)] == ["key", "second"]
    assert not ask(place, key="second")["changed"]
    assert ask(place)["certificate"] == "ok", "the way back is there"


def others_marker(path: Path) -> None:
    path.chmod(0o666)


def linked_marker(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe_marker(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def others_directory(path: Path) -> None:
    path.parent.chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (others_marker, "could have been written by others than root"),
        (others_directory, "could have been written by others than root"),
        (linked_marker, "it is a link"),
        (lambda path: path.write_text("{}"), "is damaged"),
        (lambda path: path.write_text("[" * 60000), "is damaged"),
        (lambda path: path.write_text('{"identities": [{"token": ""}]}'), "is damaged"),
        (pipe_marker, "no regular file"),
    ],
)
def test_a_marker_that_others_could_have_made_is_not_read(
    ask: Run, place: Path, spoil: Any, said: str
) -> None:
    spoil(place / "identity.json")
    answer = ask(place)
    assert answer["failed"]
    assert said in answer["msg"]
    assert str(place / "identity.json") in answer["msg"]
