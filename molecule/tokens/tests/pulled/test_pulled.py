"""A device pulls what a push would do, from a signed reference, over a link that breaks; nothing unsigned."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TPM_DEVICE as DEVICE

from experiment import observe
from experiment.installed import build
from experiment.phases import ROOT, Played
from lab.settings import paths

pytestmark = pytest.mark.timeout(1200)
PORT = 8443
SERVED = "/srv/fleet"
GONE = "/etc/edge-pull /var/lib/edge-pull /opt/ansible-core /usr/local/lib/edge-pull"
OLD, NEW = "0.5.17", "0.5.18"
# All that a converge leaves: files with mode, owner and content, units, packages.
FILES = """
import hashlib, os, pathlib
for top in ("/etc", "/usr/local", "/opt"):
    for path in sorted(pathlib.Path(top).rglob("*")):
        if "__pycache__" not in path.parts:
            known = path.lstat()
            content = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not content:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            print(path, oct(known.st_mode), known.st_uid, known.st_gid, content)
"""
UNITS = (
    "systemctl list-unit-files --no-legend; "
    "systemctl list-units --all --no-legend --plain --type=timer,path,socket | awk '{print $1, $3}'; "
    "dpkg-query --show"
)


class Fleet:
    """The operator's repository, and where devices find it."""

    def __init__(self) -> None:
        self.base = paths().state / "fleet"
        shutil.rmtree(self.base, ignore_errors=True)
        self.repository = self.base / "repository"
        self.inventory = self.repository / "inventory"
        shutil.copytree(ROOT / "molecule/tokens/inventory", self.inventory)
        shutil.copy(paths().pki / "server-ca.crt", self.repository)
        for name in ("operator", "thief"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.base / name)]
            subprocess.run(command, check=True)
        self.collection = self.repository / "collections/ansible_collections/edge_litestream/appliance"
        self.collection.mkdir(parents=True)
        subprocess.run(["tar", "-xzf", build(self.base), "-C", self.collection], check=True)
        self.variables: dict[str, Any] = {
            # As a device reads it from the repository.
            "device_identity_server_ca": "{{ inventory_dir }}/../server-ca.crt",
            "edge_pull_repository": f"https://s3.lab.test:{PORT}/fleet.git",
            "edge_pull_reference": "ring0",
            "edge_pull_allowed_signers": f"ops@example.com {(self.base / 'operator.pub').read_text()}",
            "edge_pull_artifacts_url": f"https://s3.lab.test:{PORT}/artifacts",
            "edge_pull_ca_file": "{{ device_identity_ca_file }}",
            "edge_pull_platform": {"release": "bookworm", "machine": "x86_64"},
            # Only the test starts it.
            "edge_pull_schedule": "2099-01-01",
        }
        self.git("init", "-q", "--initial-branch=ring0")

    def git(self, *words: str, key: str = "") -> str:
        """Run git as who signs with a key."""
        who = ["-c", "user.name=ops", "-c", "user.email=ops@example.com", "-c", "gpg.format=ssh"]
        command = [
            "git",
            *who,
            "-c",
            f"user.signingkey={self.base / key}.pub",
            "-C",
            str(self.repository),
            *words,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, key: str = "operator") -> str:
        """Commit all that is there, and serve it."""
        self.note()
        self.git("add", "--force", "--all")
        signed = ["-S"] if key else ["--no-gpg-sign"]
        self.git("commit", "-q", "--allow-empty", "-m", "change", *signed, key=key)
        self.serve()
        return self.git("rev-parse", "HEAD")

    def serve(self) -> None:
        """Bring repository and artifacts to the cloud machine."""
        bare = self.base / "served/fleet.git"
        shutil.rmtree(bare, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", "--bare", self.repository, bare], check=True)
        for command in (["repack", "-a", "-d", "-q"], ["update-server-info"]):
            subprocess.run(["git", "-C", bare, *command], check=True)
        packed = subprocess.run(
            ["tar", "-C", self.base / "served", "-c", "."], check=True, capture_output=True
        ).stdout
        unpack = f"sudo rm -rf {SERVED}/fleet.git; sudo mkdir -p {SERVED}; sudo tar -C {SERVED} -x"
        subprocess.run(["ssh", "-F", paths().ssh_config, "cloud01", unpack], input=packed, check=True)

    def play(self, playbook: str, **given: Any) -> Played:
        """Run a playbook of the repository's own collection, as an operator does who can reach the device."""
        command = [str(Path(sys.executable).with_name("ansible-playbook")), f"--inventory={self.inventory}"]
        command += [f"--limit={DEVICE}", f"--extra-vars={json.dumps(given)}"]
        done = subprocess.run(
            [*command, f"edge_litestream.appliance.{playbook}"],
            cwd=self.repository,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(self.repository / "collections"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return Played(done.returncode, " ".join((done.stdout + done.stderr).split()))

    def note(self) -> None:
        """Write the device's variables into the inventory."""
        host_vars = self.inventory / "host_vars"
        host_vars.mkdir(exist_ok=True)
        (host_vars / f"{DEVICE}.yml").write_text(yaml.safe_dump(self.variables))

    def artifacts(self) -> None:
        """Make what devices fetch, and note it in the inventory."""
        self.note()
        done = self.play(
            "artifacts",
            artifacts_dir=str(self.base / "served/artifacts"),
            artifacts_variables=str(self.base / "artifacts.yml"),
        )
        assert done.code == 0, done.text
        self.variables |= yaml.safe_load((self.base / "artifacts.yml").read_text())


def pull() -> dict[str, Any]:
    """Have the device pull, as its timer does; what it then says of it."""
    since = observe.now(DEVICE)
    # A push holds pulls back for an hour.
    observe.run(DEVICE, "sudo rm -f /run/edge-pull/held")
    observe.run(DEVICE, "sudo systemctl start edge-pull.service", check=False, timeout_s=600)
    told = dict(json.loads(observe.run(DEVICE, "sudo cat /var/lib/edge-pull/last.json")))
    assert told["began"] >= int(since), "it did not pull"
    return told


def reported() -> dict[str, Any]:
    """Read what is below the device's own prefix in the bucket."""
    place = f"/srv/edge-cloud-s3/edge-backups/{DEVICE}/pull/last.json"
    return dict(json.loads(observe.run(observe.CLOUD, f"sudo cat {place}")))


def tree() -> list[str]:
    """List what is installed and configured on the device."""
    files = observe.run(DEVICE, ["sudo", "/usr/bin/python3", "-I", "-c", FILES])
    return (files + observe.run(DEVICE, UNITS)).splitlines()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Set up a device that was pushed to once, and pulls from now on."""
    fleet = Fleet()
    fleet.artifacts()
    fleet.commit()
    server = Path(__file__).with_name("fileserver.py").read_text()
    run = f"sudo systemd-run --quiet --unit=fleet --property=WorkingDirectory={SERVED} python3 -I -c"
    observe.run(observe.CLOUD, f"{run} '{server}' {PORT}")
    done = fleet.play("site")
    assert done.code == 0, done.text
    assert observe.run(DEVICE, "systemctl is-active edge-pull.timer").strip() == "active"
    yield fleet
    done = fleet.play("site", edge_pull_state="absent")
    assert done.code == 0, done.text
    left = observe.run(
        DEVICE,
        f"sudo ls -d {GONE} 2>&1",
        check=False,
    )
    assert left.count("No such file") == 4, left
    assert "edge-pull" not in observe.run(DEVICE, "systemctl list-unit-files")
    observe.run(observe.CLOUD, f"sudo systemctl stop fleet; sudo rm -rf {SERVED}")


@pytest.fixture(scope="module")
def pulled(fleet: Fleet) -> dict[str, Any]:
    """Have it pull a new rotator, a new Litestream and another variable."""
    with (fleet.collection / "edge_rotator/clock.py").open("a") as module:
        module.write("# The next release.\n")
    pin = yaml.safe_load((ROOT / "files/litestream-checksums.yml").read_text())["litestream_checksums"][OLD]
    program = paths().cache / f"litestream/{OLD}-amd64-{pin['amd64'][:16]}/litestream"
    fleet.variables |= {
        "sample_app_interval": 0.4,
        "litestream_version": NEW,
        "litestream_source": "file",
        "litestream_archive": str(program),
        "litestream_sha256": hashlib.sha256(program.read_bytes()).hexdigest(),
    }
    fleet.artifacts()
    commit = fleet.commit()
    told = pull()
    assert (told["result"], told.get("commit")) == ("ok", commit), (
        told,
        observe.run(DEVICE, "sudo journalctl --unit=edge-pull --no-pager --lines=60"),
    )
    return told


def test_it_has_what_the_commit_says(pulled: dict[str, Any]) -> None:
    assert pulled["changed"] > 0
    assert observe.run(DEVICE, "litestream version").strip() == OLD, "by another name"
    assert NEW in observe.run(DEVICE, "readlink /opt/litestream/current")
    assert "0.4" in observe.run(DEVICE, "cat /etc/systemd/system/sample-app.service")
    used = "sudo cat /opt/edge-rotator/current/lib/edge_rotator/clock.py"
    assert "# The next release." in observe.run(DEVICE, used)
    assert json.loads(observe.run(DEVICE, "sudo edge-rotator status --json"))["level"] == "ok"


def test_a_push_of_the_same_finds_nothing_to_change(fleet: Fleet, pulled: dict[str, Any]) -> None:
    before = tree()
    done = fleet.play("site")
    assert done.code == 0, done.text
    assert re.search(rf"{DEVICE} : ok=\d+ changed=0 ", done.text), done.text
    assert tree() == before
    assert len(before) > 500
    told = observe.run(
        DEVICE, "sudo systemctl start edge-pull; sudo journalctl --unit=edge-pull --no-pager -n 5"
    )
    assert "somebody else is changing this device" in told, "not while somebody pushes"
    observe.run(DEVICE, "sudo rm /run/edge-pull/held")


def test_what_it_fetched_came_in_ten_pieces_and_no_byte_twice(fleet: Fleet, pulled: dict[str, Any]) -> None:
    given: dict[str, list[int]] = {}
    for line in observe.run(observe.CLOUD, f"cat {SERVED}/given").splitlines():
        name, size = line.split()
        given.setdefault(name, []).append(int(size))
    assert {name.split("-")[0] for name in given} == {"edge", "litestream"}, "ansible-core was there"
    for name, pieces in given.items():
        assert len(pieces) == 10
        assert sum(pieces) == (fleet.base / "served/artifacts" / name).stat().st_size
    assert observe.run(DEVICE, "sudo ls /var/cache/edge-pull", check=False) == "", (
        "what is installed is not kept"
    )


def test_nothing_was_compiled_and_nothing_of_the_fleets_secrets_is_there(pulled: dict[str, Any]) -> None:
    assert observe.run(DEVICE, "sudo sh -c 'command -v gcc pip mmdebstrap'", check=False) == ""
    key = (paths().pki / "fleet-ca.key").read_text().splitlines()[1]
    found = observe.run(
        DEVICE, ["sudo", "grep", "-rlF", key, "/etc", "/var/lib/edge-pull", "/opt"], check=False
    )
    assert found == ""


def test_the_result_is_below_the_devices_own_prefix(pulled: dict[str, Any]) -> None:
    assert reported()["result"] == "ok"
    assert reported()["commit"] == pulled["commit"]


@pytest.mark.parametrize("key", ["thief", ""])
def test_what_nobody_may_sign_is_refused(fleet: Fleet, pulled: dict[str, Any], key: str) -> None:
    fleet.variables["sample_app_interval"] = 9
    good, since = fleet.git("rev-parse", "HEAD"), observe.now(DEVICE)
    fleet.commit(key=key)
    before = tree()
    told = pull()
    assert (told["result"], told["accepted"]) == ("refused", pulled["commit"])
    assert reported() == told
    assert tree() == before
    journal = observe.run(DEVICE, f"sudo journalctl --unit=edge-pull --no-pager --since=@{since:.0f}")
    assert "TASK" not in journal
    fleet.git("reset", "-q", "--hard", good)


def test_an_older_one_is_refused_though_it_is_signed(fleet: Fleet, pulled: dict[str, Any]) -> None:
    fleet.git("reset", "-q", "--hard", f"{pulled['commit']}~1")
    fleet.serve()
    told = pull()
    assert (told["result"], told["accepted"]) == ("refused", pulled["commit"])
    assert "does not follow" in told["reason"]
    assert NEW in observe.run(DEVICE, "readlink /opt/litestream/current")
