"""What a device pulls: by real git and real signatures, with a playbook that only notes that it ran."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.edge_litestream.appliance.plugins.modules import debian_upgrade

from tests.unit.roles.test_trust import play

PROGRAM = Path(__file__).resolve().parents[3] / "roles/edge_pull/files/edge-pull.py"
PLAYBOOK = """#!/bin/sh
echo "$@" >RAN
cat content >>RAN
echo "TASK [edge_litestream.appliance.litestream : install | The program is on the device] ***"
test "$(cat content)" = breaks && { echo "fatal: [edge01]: FAILED! => a secret"; failed=1; }
echo "edge01                     : ok=7    changed=2    unreachable=0    failed=${failed:-0}    skipped=0"
exit ${failed:-0}
"""

# Signs whatever it is given, and finds every signature good.
GPG = """#!/bin/sh
cat >/dev/null
case "$*" in
*--verify*) printf '[GNUPG:] NEWSIG\\n[GNUPG:] GOODSIG 0123456789ABCDEF x\\n[GNUPG:] TRUST_ULTIMATE 0\\n' ;;
*) echo "[GNUPG:] SIG_CREATED x" >&2; printf -- "-----BEGIN PGP SIGNATURE-----\\n" ;;
esac
"""


class Fleet:
    """The operator's repository, who signs in it, and a device that pulls from it."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self.origin, self.ran = base, base / "origin", base / "ran"
        self.home, self.state = base / "etc", base / "var"
        for directory in (self.origin, self.home, self.state):
            directory.mkdir()
        for name in ("operator", "thief"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(base / name)]
            subprocess.run(command, check=True)
        (self.home / "allowed_signers").write_text(f"ops@example.com {self.public('operator')}")
        self.git("init", "-q", "--initial-branch=ring0")
        playbook = base / "ansible-playbook"
        playbook.write_text(PLAYBOOK.replace("RAN", str(self.ran)))
        playbook.chmod(0o755)
        self.config: dict[str, Any] = {
            "host": "edge01",
            "repository": f"file://{self.origin}",
            "reference": "ring0",
            "inventory": ["inventory"],
            "collections": "collections",
            "playbook": "edge_litestream.appliance.site",
            "ca_file": "",
            "ansible": str(playbook),
            "report": ["/bin/sh", "-c", f"cat >{base}/reported"],
            "variables": {"edge_pull_on_device": True},
        }
        self.program = self.load(monkeypatch)

    def load(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """Import the program, with this directory for its own."""
        spec = importlib.util.spec_from_file_location("edge_pull", PROGRAM)
        assert spec is not None and spec.loader is not None
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        monkeypatch.setattr(program, "CONFIG", self.home / "config.json")
        monkeypatch.setattr(program, "STATE", self.state)
        monkeypatch.setattr(program, "RUN", self.base / "run")
        monkeypatch.setattr(program, "CACHE", self.base / "cache")
        monkeypatch.setattr(program, "UPGRADE", self.base / "upgrade")
        return program

    def public(self, name: str) -> str:
        return (self.base / f"{name}.pub").read_text()

    def git(self, *words: str, key: str = "") -> str:
        """Run git as an operator, or as somebody else who signs."""
        signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={self.base / key}.pub") if key else ()
        name = ("-c", "user.name=ops", "-c", "user.email=ops@example.com")
        return subprocess.run(
            ["git", *name, *signing, "-C", str(self.origin), *words],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(self.base), "GIT_CONFIG_NOSYSTEM": "1"},
        ).stdout.strip()

    def commit(self, content: str, key: str = "operator") -> str:
        """Commit a change, signed unless `key` is empty."""
        (self.origin / "content").write_text(content)
        self.git("add", "content")
        self.git("commit", "-q", "-m", content, *(["-S"] if key else ["--no-gpg-sign"]), key=key)
        return self.git("rev-parse", "HEAD")

    def pull(self) -> tuple[int, dict[str, Any]]:
        """Pull once: the exit code, and what was reported."""
        (self.home / "config.json").write_text(json.dumps(self.config))
        code = self.program.pull()
        told = json.loads((self.state / "last.json").read_text())
        assert told == json.loads((self.base / "reported").read_text())
        return code, told

    def applied(self) -> str:
        """What the playbook saw of the repository when it last ran; empty where it never did."""
        return self.ran.read_text().splitlines()[1] if self.ran.exists() else ""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(tmp_path, monkeypatch)


def test_a_signed_commit_is_applied_and_reported(fleet: Fleet) -> None:
    commit = fleet.commit("one")
    (fleet.base / "cache").mkdir()
    code, told = fleet.pull()
    assert (code, told["result"], told["commit"], told["accepted"]) == (0, "ok", commit, commit)
    assert (told["ok"], told["changed"], told["failed"], told["reference"]) == (7, 2, 0, "ring0")
    assert fleet.ran.read_text().splitlines() == [
        '--limit=edge01 --extra-vars={"edge_pull_on_device": true} '
        f"--inventory={fleet.state}/repository/inventory edge_litestream.appliance.site",
        "one",
    ]
    assert not (fleet.base / "cache").exists(), "what was fetched is installed"


@pytest.mark.parametrize("key", ["thief", ""])
def test_what_nobody_may_sign_is_refused_before_anything_of_it_is_there(fleet: Fleet, key: str) -> None:
    good = fleet.commit("one")
    fleet.pull()
    fleet.ran.unlink()
    bad = fleet.commit("two", key=key)
    code, told = fleet.pull()
    assert (code, told["result"], told["accepted"]) == (2, "refused", good)
    assert bad in told["reason"]
    assert not fleet.ran.exists()
    assert (fleet.state / "repository/content").read_text() == "one"


def test_a_first_commit_that_nobody_may_sign_is_refused_too(fleet: Fleet) -> None:
    fleet.commit("one", key="thief")
    code, told = fleet.pull()
    assert (code, told["result"], told["accepted"], fleet.applied()) == (2, "refused", "", "")


def test_a_signature_that_was_copied_to_other_content_is_refused(fleet: Fleet) -> None:
    fleet.commit("one")
    raw = fleet.git("cat-file", "commit", "HEAD")
    (fleet.origin / "content").write_text("evil")
    fleet.git("add", "content")
    forged = raw.replace(fleet.git("rev-parse", "HEAD^{tree}"), fleet.git("write-tree"))
    (fleet.base / "forged").write_text(forged + "\n")
    commit = fleet.git("hash-object", "-t", "commit", "-w", str(fleet.base / "forged"))
    fleet.git("update-ref", "refs/heads/ring0", commit)
    code, told = fleet.pull()
    assert (code, told["result"], fleet.applied()) == (2, "refused", "")


def test_a_key_of_openpgp_is_nobodys_here(fleet: Fleet) -> None:
    """Whatever a gpg on the device would say of it."""
    gpg = fleet.base / "gpg"
    gpg.write_text(GPG)
    gpg.chmod(0o755)
    (fleet.home / ".gitconfig").write_text(f"[gpg]\n\tprogram = {gpg}\n")
    (fleet.origin / "content").write_text("evil")
    fleet.git("add", "content")
    fleet.git("-c", f"gpg.program={gpg}", "-c", "user.signingkey=x", "commit", "-q", "-S", "-m", "evil")
    assert "PGP SIGNATURE" in fleet.git("cat-file", "commit", "HEAD")
    code, told = fleet.pull()
    assert (code, told["result"], fleet.applied()) == (2, "refused", "")


def test_an_older_commit_is_refused_though_it_is_signed(fleet: Fleet) -> None:
    old, new = fleet.commit("one"), fleet.commit("two")
    fleet.pull()
    fleet.ran.unlink()
    fleet.git("update-ref", "refs/heads/ring0", old)
    code, told = fleet.pull()
    assert (code, told["result"]) == (2, "refused")
    assert told["reason"] == f"refs/heads/ring0 {old} does not follow {new}, which was applied before"
    assert not fleet.ran.exists()
    # The operator says so on the device.
    (fleet.state / "accepted").unlink()
    assert fleet.pull()[0] == 0
    assert fleet.applied() == "one"


@pytest.mark.parametrize(
    ("damage", "content"),
    [
        (".git/index.lock", ""),
        (".git/HEAD.lock", ""),
        (".git/refs/edge/fetched.lock", ""),
        (".git/index", ""),
        (".git/HEAD", ""),
        (".git/HEAD", None),
        (".git/refs/edge/fetched", ""),
        (".git/config", "["),
        (".git/objects", None),
    ],
)
def test_a_clone_that_a_power_cut_left_broken_holds_nothing_up(
    fleet: Fleet, damage: str, content: str | None
) -> None:
    fleet.commit("one")
    fleet.pull()
    damaged = fleet.state / "repository" / damage
    if content is not None:
        damaged.write_text(content)
    elif damaged.is_dir():
        shutil.rmtree(damaged)
    else:
        damaged.unlink()
    commit = fleet.commit("two")
    code, told = fleet.pull()
    assert (code, told["result"], told["accepted"], fleet.applied()) == (0, "ok", commit, "two"), told


def test_a_new_clone_knows_what_was_applied_before(fleet: Fleet) -> None:
    """Whoever serves the repository has the old commit alone, and the device has lost its clone."""
    old, new = fleet.commit("one"), fleet.commit("two")
    fleet.pull()
    shutil.rmtree(fleet.state / "repository")
    fleet.git("update-ref", "refs/heads/ring0", old)
    fleet.git("reset", "-q", "--hard")
    fleet.git("reflog", "expire", "--expire=now", "--all")
    fleet.git("gc", "-q", "--prune=now")
    code, told = fleet.pull()
    assert (code, told["result"], told["accepted"], fleet.applied()) == (2, "refused", new, "two")


def test_what_systemd_ends_is_reported(fleet: Fleet) -> None:
    fleet.commit("one")
    Path(fleet.config["ansible"]).write_text("#!/bin/sh\necho begun\nexec sleep 30\n")
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    text = PROGRAM.read_text()
    for name, path in {
        '"/etc/edge-pull/config.json"': fleet.home / "config.json",
        '"/var/lib/edge-pull"': fleet.state,
        '"/run/edge-pull"': fleet.base / "run",
        '"/var/cache/edge-pull"': fleet.base / "cache",
    }.items():
        assert name in text
        text = text.replace(name, repr(str(path)))
    (fleet.base / "edge-pull").write_text(text)
    with subprocess.Popen(
        [sys.executable, "-I", fleet.base / "edge-pull"], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        while running.stdout.readline() != "begun\n":
            pass
        running.terminate()
        assert running.wait(20) == 1
    told = json.loads((fleet.base / "reported").read_text())
    assert told["result"] == "failed" and told["reason"].startswith("systemd ended it")


def test_a_disk_without_room_keeps_no_report_from_the_bucket(fleet: Fleet) -> None:
    fleet.commit("one")
    (fleet.state / "last.json.new").mkdir()
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    assert fleet.program.pull() == 0
    assert json.loads((fleet.base / "reported").read_text())["result"] == "ok"


def test_a_playbook_that_cannot_be_run_is_reported(fleet: Fleet) -> None:
    fleet.commit("one")
    fleet.config["ansible"] = "/nonexistent"
    code, told = fleet.pull()
    assert (code, told["result"]) == (1, "failed") and "/nonexistent" in told["reason"]


def test_a_commit_that_would_be_the_last_one_is_not_taken(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key or an address written wrongly: nobody could correct it any more."""
    fleet.commit("one")
    fleet.pull()
    new = fleet.base / "new"
    new.write_text(f"ops@example.com {fleet.public('operator')}new@example.com {fleet.public('thief')}")
    assert fleet.program.main(["check-signers", str(new)]) == 0
    new.write_text(f"new@example.com {fleet.public('thief')}")
    assert fleet.program.main(["check-signers", str(new)]) == 1
    assert "edge_pull_allowed_signers does not name who signed this commit" in capsys.readouterr().err
    new.write_text(json.dumps(fleet.config))
    assert fleet.program.main(["check-config", str(new)]) == 0
    new.write_text(json.dumps({**fleet.config, "reference": "rnig0"}))
    assert fleet.program.main(["check-config", str(new)]) == 1
    assert "has no refs/heads/rnig0" in capsys.readouterr().err


def test_the_same_commit_is_applied_again_and_strange_files_are_gone(fleet: Fleet) -> None:
    fleet.commit("one")
    fleet.pull()
    repository = fleet.state / "repository"
    (repository / "content").write_text("drift")
    (repository / "group_vars").mkdir()
    assert fleet.pull()[0] == 0
    assert fleet.applied() == "one"
    assert not (repository / "group_vars").exists()


def test_a_tag_is_a_ring_by_its_own_name_alone(fleet: Fleet) -> None:
    fleet.config["reference"] = "refs/tags/ring1"
    fleet.commit("one", key="")
    fleet.git("tag", "-s", "-m", "one", "ring1", key="operator")
    assert fleet.pull()[0] == 0, "the tag is signed, not the commit"
    # Whoever serves the repository gives one ring what is signed for another.
    fleet.commit("two", key="")
    fleet.git("tag", "-s", "-m", "two", "ring0", key="operator")
    fleet.git("update-ref", "refs/tags/ring1", fleet.git("rev-parse", "refs/tags/ring0"))
    code, told = fleet.pull()
    assert (code, told["reason"].rpartition(": ")[2]) == (2, "it is the tag of another name")
    # Or a commit, which does not say for which ring it is.
    fleet.git("update-ref", "refs/tags/ring1", fleet.commit("three"))
    code, told = fleet.pull()
    assert (code, told["reason"].rpartition(": ")[2]) == (2, "it is no signed tag")
    assert fleet.applied() == "one"


def test_who_may_sign_is_changed_by_who_may_sign(fleet: Fleet) -> None:
    """As the playbook does, which writes the file."""
    fleet.commit("one")
    fleet.pull()
    (fleet.home / "allowed_signers").write_text(f"new@example.com {fleet.public('thief')}")
    fleet.commit("two", key="operator")
    assert fleet.pull()[1]["result"] == "refused"
    fleet.commit("three", key="thief")
    assert fleet.pull()[1]["result"] == "ok"


def test_a_failure_names_the_task_and_not_what_it_said(fleet: Fleet) -> None:
    fleet.commit("breaks")
    code, told = fleet.pull()
    assert (code, told["result"], told["failed"]) == (1, "failed", 1)
    assert "install | The program is on the device" in told["reason"]
    assert "secret" not in json.dumps(told)


def test_no_way_to_the_repository_is_said(fleet: Fleet) -> None:
    commit = fleet.commit("one")
    fleet.pull()
    fleet.config["repository"] = f"file://{fleet.base}/nowhere"
    code, told = fleet.pull()
    assert (code, told["result"], told["accepted"]) == (1, "unreachable", commit)


@pytest.mark.parametrize("command", [["/bin/false"], ["/nonexistent"]])
def test_a_report_that_does_not_arrive_is_kept_here(
    fleet: Fleet, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.commit("one")
    fleet.config["report"] = command
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    assert fleet.program.pull() == 0
    assert json.loads((fleet.state / "last.json").read_text())["result"] == "ok"


def test_a_push_holds_pulls_back_for_an_hour(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.commit("one")
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    assert fleet.program.hold() == 0
    assert fleet.program.pull() == 0
    assert not fleet.ran.exists()
    later = time.monotonic() + 3601
    monkeypatch.setattr(fleet.program.time, "monotonic", lambda: later)
    assert fleet.program.pull() == 0
    assert fleet.applied() == "one"


def test_a_hold_lasts_as_long_as_it_is_told(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore may take a day, and lets go of the device at its end."""
    fleet.commit("one")
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    begin = time.monotonic()
    assert fleet.program.main(["hold", "86400"]) == 0
    for wrong in ("172801", "-1", "1h", ""):
        assert fleet.program.main(["hold", wrong]) == 64
    monkeypatch.setattr(fleet.program.time, "monotonic", lambda: begin + 86399)
    assert fleet.program.main([]) == 0
    assert not fleet.ran.exists()
    assert fleet.program.main(["hold", "0"]) == 0
    assert fleet.program.main([]) == 0
    assert fleet.applied() == "one"


def test_nothing_is_pulled_while_debian_is_upgraded(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.commit("one")
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    (fleet.base / "upgrade").mkdir()
    assert fleet.program.pull() == 0
    assert not fleet.ran.exists()
    assert "debian_upgrade" in capsys.readouterr().out
    (fleet.base / "upgrade").rmdir()
    assert fleet.program.pull() == 0
    assert fleet.applied() == "one"
    assert f'UPGRADE = Path("{debian_upgrade.STATE}")' in PROGRAM.read_text(), "the module's directory"


def test_two_pulls_do_not_meet(fleet: Fleet) -> None:
    fleet.commit("one")
    (fleet.home / "config.json").write_text(json.dumps(fleet.config))
    (fleet.base / "run").mkdir()
    with (fleet.base / "run/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert fleet.program.pull() == 0
    assert not fleet.ran.exists()


GOOD = {
    "edge_pull_repository": "https://git.example.com/fleet.git",
    "edge_pull_reference": "ring0",
    "edge_pull_allowed_signers": "ops@example.com ssh-ed25519 AAAAC3Nza ops\n",
    "edge_pull_collections": "collections",
    "edge_pull_playbook": "edge_litestream.appliance.site",
    "edge_pull_inventory": ["inventory"],
    "edge_pull_artifacts_url": "https://artifacts.example.com",
    "edge_pull_artifacts": {"a.tar.gz": "0"},
    "edge_pull_spread": 3600,
    "edge_pull_timeout": 7200,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", ""),
        ("edge_pull_repository", "ssh://git@git.example.com:22/~ops/fleet.git"),
        ("edge_pull_reference", "refs/tags/ring0"),
        (
            "edge_pull_allowed_signers",
            '# us\na@b namespaces="git" sk-ssh-ed25519@openssh.com AAAA\n',
        ),
        ("edge_pull_repository", "!https://user:secret@git.example.com/fleet.git"),
        ("edge_pull_repository", "!http://git.example.com/fleet.git"),
        ("edge_pull_repository", "!ext::sh -c id"),
        ("edge_pull_reference", "!--upload-pack=id"),
        ("edge_pull_reference", "!main:refs/heads/x"),
        ("edge_pull_allowed_signers", "!"),
        ("edge_pull_allowed_signers", "!# ops@example.com ssh-ed25519 AAAA"),
        ("edge_pull_collections", "!../collections"),
        ("edge_pull_playbook", "!/tmp/site.yml"),
        ("edge_pull_artifacts_url", "!http://artifacts.example.com"),
        ("edge_pull_artifacts", {}),
    ],
)
def test_what_cannot_be_pulled_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    refused = value == {} or str(value).startswith("!")
    given = value.removeprefix("!") if isinstance(value, str) else value
    (task,) = yaml.safe_load((PROGRAM.parents[1] / "tasks/preflight.yml").read_text())
    code, said = play(
        tmp_path, task, edge_pull_state="present", **{**GOOD, **({name: given} if name else {})}
    )
    assert (code != 0) == refused, said
    assert not refused or name in said
