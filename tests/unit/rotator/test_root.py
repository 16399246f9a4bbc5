"""What the service's user may plant makes nobody hang, and a run as root does nothing as root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Device
from pki import Authority
from tokens import need, use_debian_pycurl

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")

NOBODY = 65534
SECRET = "root-alone-may-read-this"


def huge(path: Path) -> None:
    """A file of 1 TB that takes no room."""
    with path.open("wb") as file:
        file.truncate(2**40)


PLANT: dict[str, Callable[[Path, Path], None]] = {
    "pipe": lambda path, secret: os.mkfifo(path),
    "endless device": lambda path, secret: path.symlink_to("/dev/zero"),
    "huge file": lambda path, secret: huge(path),
    "link to a file of root's": lambda path, secret: path.symlink_to(secret),
    "directory": lambda path, secret: path.mkdir(),
}
COMMANDS = (("status",), ("status", "--json"), ("due",), ("metrics",), ("doctor",), ("csr", "--public-key"))


@pytest.fixture
def theirs(device: Device, pki: tuple[Authority, Authority, Path]) -> Device:
    """A device of which everything but configuration and PIN belongs to nobody, who runs the rotator."""
    (device.root / "etc/server-ca.pem").write_bytes(pki[0].path.read_bytes())
    use_debian_pycurl(device)  # the test's own Python may be out of reach for others
    device.configure(
        provider={"ca_file": str(device.root / "etc/server-ca.pem")},
        service={"user": "nobody", "metrics_file": f"{device.root}/run/edge_rotator.prom"},
        delivery={"litestream_socket": ""},
    )
    for name in ("state", "run", "tokens"):
        for path in (device.root / name, *(device.root / name).rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    for parent in device.root.parents[:-2]:
        parent.chmod(0o755)
    device.root.chmod(0o755)
    device.pin_file.chmod(0o600)
    return device


@pytest.mark.parametrize("planted", list(PLANT))
def test_what_was_planted_is_nothing_to_root(planted: str, theirs: Device) -> None:
    secret = theirs.root / "etc/secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    for name in ("state/state.json", "run/next", "run/busy", "run/credentials.json"):
        PLANT[planted](theirs.root / name, secret)
    for arguments in COMMANDS:
        done = theirs.run(*arguments)
        assert SECRET not in done.stdout + done.stderr
        assert "internal_error" not in done.stdout + done.stderr, arguments
    assert secret.read_text() == SECRET
    assert secret.stat().st_uid == 0
    assert (theirs.root / "run/edge_rotator.prom").stat().st_uid == NOBODY


WATCH = """
import os, sys
def watch(event, arguments):
    if event == "open" and os.geteuid() == 0 and str(arguments[0]).startswith({places!r}):
        os.write(2, b"as root: " + os.fsencode(arguments[0]) + b"\\n")
sys.addaudithook(watch)
"""


@pytest.mark.parametrize("arguments", [*COMMANDS, ("doctor", "--login"), ("csr",)], ids=" ".join)
def test_root_opens_nothing_there_as_root(arguments: tuple[str, ...], theirs: Device) -> None:
    places = tuple(str(theirs.root / name) for name in ("state", "run", "tokens"))
    done = theirs.run(*arguments, first=WATCH.format(places=places))
    assert "as root: " not in done.stderr
    assert done.returncode in (0, 1, 2), "it did its work, whatever it found"
    made = [path for name in places for path in Path(name).rglob("*") if path.stat().st_uid == 0]
    assert made == []


LOADED = """
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    int real, effective, saved;
    FILE *log = fopen(LOG, "a");
    if (!log) return;
    getresuid(&real, &effective, &saved);
    fprintf(log, "%d %d %d ", real, effective, saved);
    getresgid(&real, &effective, &saved);
    fprintf(log, "%d %d %d\\n", real, effective, saved);
    fclose(log);
}
"""


@pytest.mark.parametrize(
    "arguments",
    [("doctor",), ("doctor", "--login"), ("csr", "--public-key"), ("csr", "--create-key")],
    ids=" ".join,
)
def test_the_module_is_loaded_without_a_way_back_to_root(arguments: tuple[str, ...], theirs: Device) -> None:
    need("gcc", "gcc")
    source, module, log = (theirs.root / name for name in ("module.c", "module.so", "run/log"))
    source.write_text(LOADED)
    build = ["gcc", "-shared", "-fPIC", f'-DLOG="{log}"', "-o", str(module), str(source)]
    subprocess.run(build, check=True)
    theirs.configure(token={"module": str(module)})
    theirs.run(*arguments)
    assert set(log.read_text().split()) == {str(NOBODY)}
