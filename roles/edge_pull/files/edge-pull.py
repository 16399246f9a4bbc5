"""Apply what a signed git reference says to this device; edge-pull.service runs it.

    edge-pull         fetch, verify, and run the playbook
    edge-pull hold [SECONDS]    wait for a pull that runs, and let none begin for an hour, or so long: a push
                                does this first; 0 lets them begin again
    edge-pull check-signers FILE, check-config FILE    whether a pull goes on with a new one of these

Nothing of a commit is checked out or run before its signature is verified and it is known to follow the one
that was applied before.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

CONFIG = Path("/etc/edge-pull/config.json")
STATE = Path("/var/lib/edge-pull")
RUN = Path("/run/edge-pull")
CACHE = Path("/var/cache/edge-pull")
# There while Debian is upgraded (playbook debian_upgrade), over reboots and broken-off runs too.
UPGRADE = Path("/var/lib/edge-debian-upgrade")
HOLD_S, MOST_HOLD_S = 3600, 2 * 86400
# For a fetch over a bad link, and for all else of git.
FETCH_S, GIT_S = 1800, 300
REPORT_S = 60
FETCHED = "refs/edge/fetched"
FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--force")
# No protocol but the repository's, no hooks, and nothing that an OpenPGP or X.509 on the device trusts.
SETTINGS = {
    "protocol.allow": "never",
    "core.hooksPath": "/dev/null",
    "transfer.fsckObjects": "true",
    "gpg.program": "/bin/false",
    "gpg.x509.program": "/bin/false",
    "gpg.ssh.program": "/usr/bin/ssh-keygen",
    "gpg.minTrustLevel": "fully",
    # What is on the disk is whole after a power cut, and nothing runs beside the playbook.
    "core.fsync": "all",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "100",
    "http.lowSpeedTime": "60",
    "advice.detachedHead": "false",
}


class StoppedError(Exception):
    """Why a pull ended before its playbook did; `result` is what the report says."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result


class Repository:
    """The clone, in which a commit is nothing but an object until it is accepted."""

    def __init__(self, config: dict[str, Any], directory: Path, home: Path) -> None:
        self.config, self.directory = config, directory
        allowed = {
            "gpg.ssh.allowedSignersFile": str(home / "allowed_signers"),
            f"protocol.{urlsplit(config['repository']).scheme}.allow": "always",
        }
        self.options = [
            word for name, value in (SETTINGS | allowed).items() for word in ("-c", f"{name}={value}")
        ]
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            # The operator's .netrc is there.
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": (
                f"ssh -F none -o BatchMode=yes -o IdentityFile={home}/ssh_key "
                f"-o UserKnownHostsFile={home}/known_hosts"
            ),
            **({"GIT_SSL_CAINFO": config["ca_file"]} if config["ca_file"] else {}),
        }

    def git(self, *words: str, timeout: float = GIT_S) -> subprocess.CompletedProcess[str]:
        """Run git; the caller looks at its exit code."""
        command = ["/usr/bin/git", *self.options, "-C", str(self.directory), *words]
        try:
            return subprocess.run(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(
                command, 1, "", f"git {words[0]} took more than {timeout:.0f} s"
            )

    def said(self, result: str, *words: str, timeout: float = GIT_S) -> str:
        """Return what git prints. Raises StoppedError with its last line."""
        done = self.git(*words, timeout=timeout)
        if done.returncode:
            raise StoppedError(result, (done.stderr.strip().splitlines() or [f"git {words[0]} failed"])[-1])
        return done.stdout.strip()

    def commit(self) -> str:
        """Fetch, and return the commit that may be applied. Raises StoppedError.

        A clone that a power cut left broken is made anew, once.
        """
        fresh = not self.directory.exists()
        try:
            return self._commit(fresh)
        except StoppedError as stopped:
            if fresh or stopped.result != "failed":
                raise
            print(f"the clone is made anew: {stopped}", file=sys.stderr)
            shutil.rmtree(self.directory)
            return self._commit(fresh=True)

    def _commit(self, fresh: bool) -> str:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Of a git that was ended; no other runs.
        for pattern in ("*.lock", "tmp_*"):
            for left in (self.directory / ".git").rglob(pattern):
                left.unlink()
        self.said("failed", "init", "--quiet", "--template=")
        signed = self.fetched()
        commit = self.said("refused", "rev-parse", "--verify", f"{signed}^{{commit}}")
        if verify := self.unsigned(signed):
            raise StoppedError("refused", f"{wanted(self.config)} {commit}: {verify}")
        before = accepted()
        follows = self.git("merge-base", "--is-ancestor", before, commit).returncode if before else 0
        # Of a clone that has just been made it is known that it has no such commit.
        if follows == 1 or (follows and fresh):
            why = f"does not follow {before}, which was applied before"
            raise StoppedError("refused", f"{wanted(self.config)} {commit} {why}")
        if follows:
            raise StoppedError("failed", f"{before}, which was applied before, cannot be read")
        accept(commit)
        self.said("failed", "checkout", "--quiet", "--force", "--detach", commit)
        self.said("failed", "clean", "--quiet", "-ffdx")
        return commit

    def fetched(self) -> str:
        """Fetch the reference and return what it names, a commit or a tag. Raises StoppedError."""
        ref = wanted(self.config)
        done = self.git(*FETCH, self.config["repository"], f"{ref}:{FETCHED}", timeout=FETCH_S)
        if done.returncode:
            # Where the server can be asked, it is the clone.
            result = "failed" if self.reached() else "unreachable"
            raise StoppedError(result, (done.stderr.strip().splitlines() or ["git fetch failed"])[-1])
        return self.said("failed", "rev-parse", "--verify", FETCHED)

    def reached(self) -> bool:
        """Tell whether the repository has the reference."""
        return not self.git(
            "ls-remote", "--exit-code", self.config["repository"], wanted(self.config)
        ).returncode

    def unsigned(self, signed: str) -> str:
        """Say why nobody who may has signed it; nothing if somebody has."""
        ref = wanted(self.config)
        if self.said("failed", "cat-file", "-t", signed) == "tag":
            name = re.search(r"^tag (.*)$", self.said("failed", "cat-file", "tag", signed), re.MULTILINE)
            # A signed tag says what it is called: another ring's is not this one's.
            if name is None or f"refs/tags/{name[1]}" != ref:
                return "it is the tag of another name"
            verify = self.git("verify-tag", signed)
        elif ref.startswith("refs/tags/"):
            # A commit does not say for which ring it was signed.
            return "it is no signed tag"
        else:
            verify = self.git("verify-commit", signed)
        if verify.returncode:
            return (verify.stderr.strip().splitlines() or ["it has no signature"])[-1]
        return ""


def wanted(config: dict[str, Any]) -> str:
    """Return the full name of the reference."""
    reference: str = config["reference"]
    return reference if reference.startswith("refs/") else f"refs/heads/{reference}"


def accepted() -> str:
    """Return the commit that was applied before; empty where there was none."""
    try:
        return (STATE / "accepted").read_text().strip()
    except FileNotFoundError:
        return ""


def accept(commit: str) -> None:
    """Let nothing older be applied any more, also after a power cut."""
    with (STATE / "accepted.new").open("w") as file:
        file.write(f"{commit}\n")
        file.flush()
        os.fsync(file.fileno())
    (STATE / "accepted.new").replace(STATE / "accepted")
    directory = os.open(STATE, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def play(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Run the playbook on this device alone; return what Ansible counted, and the task that failed."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": str(STATE),
        "ANSIBLE_HOME": str(STATE / "ansible"),
        "ANSIBLE_REMOTE_TMP": str(STATE / "ansible/tmp"),
        "ANSIBLE_COLLECTIONS_PATH": str(directory / config["collections"]),
        "ANSIBLE_INJECT_FACT_VARS": "False",
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "EDGE_CACHE_DIR": str(CACHE),
        **({"SSL_CERT_FILE": config["ca_file"]} if config["ca_file"] else {}),
    }
    command = [
        config["ansible"],
        f"--limit={config['host']}",
        f"--extra-vars={json.dumps(config['variables'])}",
    ]
    command += [f"--inventory={directory / one}" for one in config["inventory"]]
    running = subprocess.Popen(
        [*command, config["playbook"]],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    counted: dict[str, Any] = {}
    task = failed = ""
    for line in running.stdout or ():
        # To the journal. What failed is named in the report, and what it said is not.
        print(line, end="", flush=True)
        if found := re.match(r"TASK \[(.*)\]", line):
            task = found[1]
        elif line.startswith(("fatal: ", "failed: ")):
            failed = task
        elif line.startswith(f"{config['host']} ") and (
            numbers := re.findall(r"(ok|changed|failed)=(\d+)", line)
        ):
            counted = {name: int(number) for name, number in numbers}
    code = running.wait()
    if code == 0 and counted:
        # What was fetched is installed.
        shutil.rmtree(CACHE, ignore_errors=True)
        return {"result": "ok", **counted}
    reason = (
        failed and f"the task '{failed}' failed"
    ) or f"ansible-playbook ended with {code}, the journal says why"
    return {"result": "failed", "reason": reason, **counted}


def report(config: dict[str, Any], result: dict[str, Any]) -> None:
    """Keep the result here, and have the rotator put it below the device's own prefix."""
    text = json.dumps(result, indent=1) + "\n"
    try:
        done = subprocess.run(
            config["report"], input=text, text=True, capture_output=True, timeout=REPORT_S, check=False
        )
        why = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        print(f"the report is in {STATE}/last.json alone: {why}", file=sys.stderr)
    # Last: where the disk is full, the network may still be there.
    try:
        (STATE / "last.json.new").write_text(text)
        (STATE / "last.json.new").replace(STATE / "last.json")
    except OSError as error:
        print(f"{STATE}/last.json: {error.strerror}", file=sys.stderr)


def locked(wait: bool) -> IO[str]:
    """Take the lock of pulls, which lasts as long as this process. Raises BlockingIOError."""
    RUN.mkdir(mode=0o700, exist_ok=True)
    lock = (RUN / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return lock


def pull() -> int:
    """Pull once; return the exit code: 0 applied or not now, 1 failed, 2 refused."""
    config = json.loads(CONFIG.read_text())
    try:
        _lock = locked(wait=False)
    except BlockingIOError:
        print("another pull runs")
        return 0
    held = RUN / "held"
    if held.exists() and time.monotonic() < float(held.read_text() or 0):
        print("somebody else is changing this device: the next pull is the timer's")
        return 0
    if UPGRADE.exists():
        print(f"Debian is being upgraded ({UPGRADE}): run debian_upgrade for this device until it has ended")
        return 0
    repository = Repository(config, STATE / "repository", CONFIG.parent)
    result: dict[str, Any] = {
        "host": config["host"],
        "reference": config["reference"],
        "began": round(time.time()),
    }
    try:
        result["commit"] = repository.commit()
        result |= play(config, repository.directory)
    except (StoppedError, OSError) as stopped:
        result |= {"result": getattr(stopped, "result", "failed"), "reason": str(stopped)}
        print(f"{result['result']}: {stopped}", file=sys.stderr)
    result |= {"accepted": accepted(), "ended": round(time.time())}
    report(config, result)
    return {"ok": 0, "refused": 2}.get(result["result"], 1)


def hold(seconds: int = HOLD_S) -> int:
    """Let no pull begin for so long, by the clock that nobody sets; return 64 where it is above two days."""
    if seconds > MOST_HOLD_S:
        print(f"give at most {MOST_HOLD_S} seconds", file=sys.stderr)
        return 64
    with locked(wait=True):
        (RUN / "held").write_text(str(time.monotonic() + seconds))
    return 0


def check_signers(path: str) -> int:
    """Whether the commit that is being applied is signed by somebody whom a new file names, too; 0 if so.

    Else whoever wrote a key wrongly would be heard no more.
    """
    repository = Repository(json.loads(CONFIG.read_text()), STATE / "repository", CONFIG.parent)
    repository.options += ["-c", f"gpg.ssh.allowedSignersFile={path}"]
    why = repository.unsigned(repository.said("failed", "rev-parse", "--verify", FETCHED))
    if why:
        print(
            f"edge_pull_allowed_signers does not name who signed this commit, and is not taken: {why}",
            file=sys.stderr,
        )
    return 1 if why else 0


def check_config(path: str) -> int:
    """Whether what a new configuration wants to pull is there; 0 if so."""
    config = json.loads(Path(path).read_text())
    there = Repository(config, STATE / "repository", CONFIG.parent).reached()
    if not there:
        print(
            f"{config['repository']} has no {wanted(config)}, or cannot be asked: not taken", file=sys.stderr
        )
    return 0 if there else 1


def ended(*_: object) -> None:
    """Let the report say that systemd ended the pull."""
    raise StoppedError(
        "failed", "systemd ended it: it took longer than edge_pull_timeout, or the device shut down"
    )


def main(words: list[str]) -> int:
    """Do what is asked for."""
    match words:
        case []:
            signal.signal(signal.SIGTERM, ended)
            return pull()
        case ["hold"]:
            return hold()
        case ["hold", seconds] if re.fullmatch("[0-9]{1,9}", seconds):
            return hold(int(seconds))
        case ["check-signers", path]:
            return check_signers(path)
        case ["check-config", path]:
            return check_config(path)
    print(__doc__, file=sys.stderr)
    return 64


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
