"""The module that makes a token, with a real SoftHSM, watched for what it lets others see."""

import contextlib
import getpass
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import pkcs11_token

ROOT = Path(__file__).resolve().parents[4]
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
CORE = 1 << 20
PINS = {
    "pin": "83c1e77a90d25f4b83c1e77a90d25f4b",
    "so-pin": "5d0e2f6b7a914c385d0e2f6b",
}  # as long as the role's, and longer


@pytest.fixture
def place() -> Iterator[Path]:
    """Both PINs and an empty SoftHSM store, not below pytest's own directory, which others cannot enter."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        for name, pin in PINS.items():
            (path / name).write_text(pin)
        (path / "tokens").mkdir()
        (path / "softhsm2.conf").write_text(f"directories.tokendir = {path}/tokens\n")
        yield path


def run(
    place: Path, label: str = "edge", check: bool = False, user: str = "", first: str = ""
) -> dict[str, Any]:
    """Run the module as Ansible does, in a process of its own that begins with `first`; return its answer."""
    arguments = {
        "module": MODULE,
        "label": label,
        "user": user or getpass.getuser(),
        "pin_file": f"{place}/pin",
        "so_pin_file": f"{place}/so-pin",
        "store": f"{place}/tokens",
        "certificate_file": f"{place}/identity/device.crt",
        "environment": {"SOFTHSM2_CONF": f"{place}/softhsm2.conf"},
        "_ansible_check_mode": check,
    }
    code = first + (
        "import json, sys\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.edge_litestream.appliance.plugins.modules import pkcs11_token\n"
        "try:\n    with patch_module_args(json.load(sys.stdin)):\n        pkcs11_token.main()\n"
        "finally:\n    print(open('/proc/self/limits').read(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (CORE, CORE)),
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer | {"limits": done.stderr}


def tool(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOFTHSM2_CONF": f"{place}/softhsm2.conf"}
    command = ["pkcs11-tool", "--module", MODULE, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_token_is_made_once(place: Path) -> None:
    assert run(place)["changed"]
    login = tool(place, "--token-label", "edge", "--login", "--pin", PINS["pin"], "--list-objects")
    assert login.returncode == 0, login.stderr
    assert not run(place)["changed"]
    assert run(place, "other")["changed"], "another label is another token"


def test_what_an_interrupted_run_began_is_finished(place: Path) -> None:
    slot = next(
        line.partition("(")[2].partition(")")[0]
        for line in tool(place, "--list-slots").stdout.splitlines()
        if line.startswith("Slot ")
    )
    made = tool(place, "--init-token", "--slot", slot, "--label", "edge", "--so-pin", PINS["so-pin"])
    assert made.returncode == 0, made.stderr
    assert run(place)["changed"]
    assert not run(place)["changed"]


def test_a_pin_with_a_line_break_is_refused(place: Path) -> None:
    (place / "pin").write_text("12345678\n")
    done = run(place)
    assert done["failed"]
    assert "holds 9 characters, or a line break" in done["msg"]
    assert list((place / "tokens").iterdir()) == []


def test_nobody_sees_a_pin(place: Path) -> None:
    """Sample every process's argv and environment all the while, and see at least the module there."""
    seen: list[bytes] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        content = (process / name).read_bytes()
                    except OSError:
                        continue
                    if b"modules import pkcs11_token" in content or any(
                        pin.encode() in content for pin in PINS.values()
                    ):
                        seen.append(content)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run(place)
    finally:
        stop.set()
        watcher.join()
    assert done["changed"]
    assert any(b"modules import pkcs11_token" in content for content in seen), (
        "the watch saw the module at work"
    )
    assert not [content for content in seen for pin in PINS.values() if pin.encode() in content]


def test_a_crash_would_leave_no_core_with_a_pin(place: Path) -> None:
    assert CORE > 0, "the limit that the module starts with"
    assert re.search(r"^Max core file size +0 +0 ", run(place)["limits"], re.MULTILINE)


def tokens(place: Path) -> list[Path]:
    return list((place / "tokens").iterdir())


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("evidence", ["identity.json", "device.crt"])
def test_no_token_is_made_in_place_of_one_that_is_gone(place: Path, evidence: str, check: bool) -> None:
    made = place / "identity"
    made.mkdir()
    one = {
        "token": "edge",
        "key": "device-key",
        "thing": "edge01",
        "public_key_sha256": "",
        "certificate_id": "",
    }
    text = json.dumps({"identities": [one]}) if evidence == "identity.json" else "certificate"
    (made / evidence).write_text(text)
    done = run(place, check=check)
    assert done["failed"]
    assert "there is no token 'edge' that can be used" in done["msg"]
    assert f"rm {made / evidence} on the device" in done["msg"]
    assert tokens(place) == []
    if evidence == "identity.json":
        assert run(place, "other", check=check)["changed"], "the operator names another token"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    "spoil",
    [
        "chown -R root {tokens}/*",
        "chown root {tokens}/*/token.object",
        "chmod u-r {tokens}/*/token.object",
        "chmod u-x {tokens}/*",
        "ln -s /etc/passwd {tokens}/link",
    ],
)
def test_a_store_that_its_user_cannot_read_is_not_taken_for_an_empty_one(place: Path, spoil: str) -> None:
    """Whether or not there is a marker; and the command that the message names is what helps."""
    place.chmod(0o755)
    os.chown(place / "tokens", 65534, 65534)
    for name in PINS:
        (place / name).chmod(0o600)
    assert run(place, user="nobody")["changed"]
    subprocess.run(spoil.format(tokens=place / "tokens"), shell=True, check=True)  # noqa: S602
    done = run(place, user="nobody")
    assert done["failed"]
    assert f"{place}/tokens/" in done["msg"]
    assert len(tokens(place)) == 1 + spoil.startswith("ln")
    subprocess.run(done["msg"].partition("Give them back: ")[2], shell=True, check=True)  # noqa: S602
    assert not run(place, user="nobody")["changed"]
    assert Path("/etc/passwd").stat().st_uid == 0


def test_check_mode_makes_none(place: Path) -> None:
    assert run(place, check=True)["changed"]
    assert list((place / "tokens").iterdir()) == []
    run(place)
    assert not run(place, check=True)["changed"]


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
# What code that the store's owner planted could do, at the moment the PKCS#11 module is loaded.
# The PIN is looked for backwards, so that what looks for it is not found.
SPY = """
import ctypes, json, os, re, sys
libc = ctypes.CDLL(None)
os.setgroups([0])  # as root has it after a login
def spy(event, arguments):
    if event != "ctypes.dlopen" or arguments[0] != {module!r}:
        return
    found = {{"ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()]}}
    found["dumps"] = libc.prctl(3)
    libc.prctl(4, 1)  # PR_SET_DUMPABLE: else a process that changed its user may not read its own memory
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        areas = re.findall("^([0-9a-f]+)-([0-9a-f]+) rw.*$", maps.read(), re.M)
        found["so_pin"] = False
        for begin, end in areas:
            try:
                memory.seek(int(begin, 16))
                content = memory.read(int(end, 16) - int(begin, 16))
            except OSError:
                continue
            found["so_pin"] |= {nip!r} in content[::-1]
    for name, act in {{
        "secret": lambda: open({secret!r}).close(),
        "seteuid": lambda: os.seteuid(0),
        "setegid": lambda: os.setegid(0),
        "terminal": lambda: open("/dev/tty").close(),
    }}.items():
        try:
            act()
            found[name] = True
        except OSError:
            found[name] = False
    found["files"] = sorted({{os.readlink("/proc/self/fd/%d" % fd) for fd in range(3)}})
    os.write(1, b'{{"changed": false, "planted": true}}')
    with open({log!r}, "a") as log:
        print(json.dumps(found), file=log)
sys.addaudithook(spy)
"""


@needs_root
def test_the_module_is_loaded_by_its_user_for_good(place: Path) -> None:
    """No saved uid and no open file is a way back to root, and no PIN is there before it is needed."""
    log, secret, nobody = place / "log", place / "secret", 65534
    secret.write_text("root's")
    secret.chmod(0o600)
    for name in PINS:
        (place / name).chmod(0o600)
    log.touch()
    for path in (log, place / "tokens"):
        os.chown(path, nobody, nobody)
    place.chmod(0o755)
    first = SPY.format(module=MODULE, nip=PINS["so-pin"].encode()[::-1], secret=str(secret), log=str(log))
    assert run(place, check=True, user="nobody", first=first)["changed"]
    done = run(place, user="nobody", first=first)
    assert done["changed"]
    again = run(place, user="nobody", first=first)
    assert not again["changed"], again
    assert "planted" not in done, "what it writes is not taken for the module's answer"
    loads = [json.loads(line) for line in log.read_text().splitlines()]
    for found in loads:
        assert set(found["ids"]) == {nobody}
        assert not any(found[way] for way in ("secret", "seteuid", "setegid", "terminal", "dumps"))
        assert found["files"] == ["/dev/null"]
    # check mode; the look, and the making; the look at a token that is ready
    assert [found["so_pin"] for found in loads] == [False, False, True, False]
    assert {path.stat().st_uid for path in (place / "tokens").rglob("*")} == {nobody}


def lie(answer: bytes) -> bool:
    """Write what is no answer to the pipe, whichever number it has."""
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(fd, answer)
    os._exit(0)


@needs_root
@pytest.mark.parametrize(
    ("work", "why"),
    [
        (lambda: os._exit(7), "ended with 7"),
        (os.abort, "ended with -6"),
        (lambda: time.sleep(60), "did not answer within 1 s"),
        (lambda: lie(b"[" * 4096), "gave no valid answer"),
        (lambda: lie(b'{"ansible_facts": {}}'), "gave no valid answer"),
        (lambda: lie(b"1"), "gave no valid answer"),
        (lambda: lie(b"\xff"), "gave no valid answer"),
        (lambda: lie(b'"\\u001b[2J"'), "gave no valid answer"),
        (lambda: bool(os.environ["NO_SUCH"]), "^'NO_SUCH'$"),
    ],
)
def test_a_child_that_does_not_answer_is_an_error(
    work: Callable[[], bool], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pkcs11_token, "ANSWER_WITHIN", 1)
    with pytest.raises(pkcs11_token.TokenError, match=why):
        pkcs11_token.as_user("nobody", work)


def test_an_unknown_user_is_named(place: Path) -> None:
    assert run(place, user="no-such-user")["msg"] == "there is no user no-such-user"
