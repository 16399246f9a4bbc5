#!/usr/bin/python3 -I
"""Apply what a signed git reference says to this device; edge-pull.service runs it.

    edge-pull         fetch, verify, and run the playbook
    edge-pull hold    wait for a pull that runs, and let none begin for an hour: a push does this first

Nothing of a commit is checked out or run before its signature is verified and it is known to follow the one
that was applied before.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
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
HOLD_S = 3600
# For a fetch over a bad link, and for all else of git.
FETCH_S, GIT_S = 1800, 300
REPORT_S = 120
FETCHED, ACCEPTED = "refs/edge/fetched", "refs/edge/accepted"
# No protocol but the repository's, no hooks, and nothing that an OpenPGP or X.509 on the device trusts.
SETTINGS = {
    "protocol.allow": "never",
    "core.hooksPath": "/dev/null",
    "transfer.fsckObjects": "true",
    "gpg.program": "/bin/false",
    "gpg.x509.program": "/bin/false",
    "gpg.ssh.program": "/usr/bin/ssh-keygen",
    "gpg.minTrustLevel": "fully",
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
        """Fetch, and return the commit that may be applied. Raises StoppedError."""
        if not (self.directory / ".git").is_dir():
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.said("failed", "init", "--quiet", "--template=")
        reference = self.config["reference"]
        wanted = reference if reference.startswith("refs/") else f"refs/heads/{reference}"
        fetch = (
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--force",
        )
        self.said("unreachable", *fetch, self.config["repository"], f"{wanted}:{FETCHED}", timeout=FETCH_S)
        signed = self.said("failed", "rev-parse", "--verify", FETCHED)
        commit = self.said("refused", "rev-parse", "--verify", f"{signed}^{{commit}}")
        if self.said("failed", "cat-file", "-t", signed) == "tag":
            verify = self.git("verify-tag", signed)
            name = re.search(r"^tag (.*)$", self.said("failed", "cat-file", "tag", signed), re.MULTILINE)
            # A signed tag says what it is called: another ring's is not this one's.
            if name is None or f"refs/tags/{name[1]}" != wanted:
                raise StoppedError("refused", f"{wanted} is the tag of another name")
        else:
            verify = self.git("verify-commit", signed)
        if verify.returncode:
            why = (verify.stderr.strip().splitlines() or ["it has no signature"])[-1]
            raise StoppedError("refused", f"{wanted} {commit}: {why}")
        before = self.git("rev-parse", "--verify", "--quiet", ACCEPTED).stdout.strip()
        if before and self.git("merge-base", "--is-ancestor", before, commit).returncode:
            raise StoppedError(
                "refused", f"{wanted} {commit} does not follow {before}, which was applied before"
            )
        self.said("failed", "update-ref", ACCEPTED, commit)
        self.said("failed", "checkout", "--quiet", "--force", "--detach", commit)
        self.said("failed", "clean", "--quiet", "-ffdx")
        return commit


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
    fresh = STATE / "last.json.new"
    fresh.write_text(text)
    fresh.replace(STATE / "last.json")
    try:
        done = subprocess.run(
            config["report"], input=text, text=True, capture_output=True, timeout=REPORT_S, check=False
        )
        why = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        print(f"the report is in {STATE}/last.json alone: {why}", file=sys.stderr)


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
    repository = Repository(config, STATE / "repository", CONFIG.parent)
    result: dict[str, Any] = {
        "host": config["host"],
        "reference": config["reference"],
        "began": round(time.time()),
    }
    try:
        result["commit"] = repository.commit()
        result |= play(config, repository.directory)
    except StoppedError as stopped:
        result |= {"result": stopped.result, "reason": str(stopped)}
        print(f"{stopped.result}: {stopped}", file=sys.stderr)
    before = repository.git("rev-parse", "--verify", "--quiet", ACCEPTED).stdout.strip()
    result |= {"accepted": before, "ended": round(time.time())}
    report(config, result)
    return {"ok": 0, "refused": 2}.get(result["result"], 1)


def hold() -> int:
    """Let no pull begin for an hour, counted by the clock that nobody sets."""
    with locked(wait=True):
        (RUN / "held").write_text(str(time.monotonic() + HOLD_S))
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(hold() if sys.argv[1:] == ["hold"] else pull())
