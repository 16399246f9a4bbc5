"""What the phases of this scenario share: AWS, playbooks, and what a device is given and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from experiment import observe
from experiment.phases import ROOT, Played, lab, name, pytest_runtest_makereport, wait_for
from lab.settings import paths

__all__ = [
    "BY_FLEET_CA",
    "WRITTEN",
    "Aws",
    "Playbook",
    "certificate",
    "killed",
    "lab",
    "name",
    "newest_key",
    "pytest_runtest_makereport",
    "refused",
]

# What the playbooks write is an operator's inventory as well.
WRITTEN = paths().state / "life"
INVENTORIES = (ROOT / "inventory/lab", ROOT / "molecule/life/inventory", WRITTEN)
BUCKET = "edge-backups"
# The fleet CA signs for this one, AWS for the other.
BY_FLEET_CA = "edge02"
PROGRAM = str(Path(sys.executable).with_name("ansible-playbook"))
ENVIRONMENT = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}


class Aws:
    """The control plane, as an operator uses it."""

    def __init__(self) -> None:
        self.iot, self.iam, self.s3 = (boto3.client(service) for service in ("iot", "iam", "s3"))

    def certificates(self, thing: str) -> dict[str, str]:
        """Return the status of each certificate that is attached to a thing, by id."""
        found = self.iot.list_thing_principals(thingName=thing)["principals"]
        ids = [arn.rpartition("/")[2] for arn in found]
        return {
            each: self.iot.describe_certificate(certificateId=each)["certificateDescription"]["status"]
            for each in ids
        }

    def active(self, thing: str) -> list[str]:
        """Return the ids of a thing's active certificates."""
        return [each for each, status in self.certificates(thing).items() if status == "ACTIVE"]

    def objects(self, thing: str) -> list[str]:
        """Return the keys below a thing's prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{thing}/")
        return [each["Key"] for page in pages for each in page.get("Contents", [])]


@pytest.fixture(scope="session")
def aws() -> Aws:
    """Return AWS's control plane."""
    return Aws()


Playbook = Callable[..., Played]


@pytest.fixture(scope="session")
def playbook() -> Playbook:
    """Return how to run a playbook as an operator does, with further words; it has to end in 10 minutes."""

    def run(name: str, *words: str) -> Played:
        command = [*command_line(name), *words]
        done = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600
        )
        return Played(done.returncode, " ".join((done.stdout + done.stderr).split()))

    return run


def command_line(name: str) -> list[str]:
    """Return how an operator runs a playbook against this inventory."""
    return [PROGRAM, *(f"--inventory={each}" for each in INVENTORIES), f"playbooks/{name}.yml"]


def killed(task: str, name: str, *words: str) -> None:
    """Run a playbook, and kill it with all its children once a task is over everywhere."""
    running = subprocess.Popen(
        [*command_line(name), *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    try:
        headers = (line for line in running.stdout if line.startswith("TASK ["))
        assert any(line.startswith(f"TASK [{task}]") for line in headers), f"'{task}' was never reached"
        next(headers)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=60)


def certificate(host: Any) -> str:
    """Return the id of the certificate that a device has, as AWS knows it."""
    der = "openssl x509 -in /etc/edge-identity/device.crt -outform DER | sha256sum"
    return str(host.check_output(der)).split()[0]


def newest_key(thing: str) -> str:
    """Return the newest access key that a thing was issued."""
    issued = json.loads(observe.run(observe.CLOUD, f"sudo cloudctl issued {thing} --json"))
    return str(issued[-1]["access_key"])


def refused(thing: str, access_key: str) -> bool:
    """Tell whether S3 comes to refuse a key what its thing may do; IAM takes a second."""
    return bool(wait_for(lambda: observe.probe(thing, access_key) == (403, "AccessDenied"), 10))
