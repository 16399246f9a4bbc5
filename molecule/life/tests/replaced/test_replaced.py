"""New hardware takes a dead thing's name and rows, and what the old device had is of no use."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from conftest import WRITTEN, Aws, Playbook, certificate, lab, newest_key, refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from experiment import observe
from experiment.phases import assert_lossless, wait_for
from lab.settings import paths

pytestmark = pytest.mark.timeout(900)
DEAD = "edge01"
# The lab's AWS knows at once what has changed.
WAIT = "--extra-vars=replace_wait=2"
REPORT = paths().state / "replace.report"


class Replacement(NamedTuple):
    """What the old device was."""

    rows: list[str]
    certificate: str
    access_key: str
    identity: str


def certificate_id(pem: str) -> str:
    """Return the id by which AWS knows a certificate."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


# Token, PIN, certificate and state, by which a device is the thing; in text.
TAKE = (
    "sudo tar -C / -cz etc/edge-identity etc/edge-token var/lib/edge-token var/lib/edge-rotator | base64 -w0"
)
# The old device is switched on again: its identity in the place of the new one's, for the rotator of one run.
RETURN = """
set -e
mkdir -p /root/old && echo {identity} | base64 -d | tar -C /root/old -xz
install -d -o edge-rotator -g edge-rotator -m 750 /root/old/run
systemd-run --quiet --wait --pipe --property=User=edge-rotator --property=Group=edge-rotator \
    --property=LoadCredential=pin:/root/old/etc/edge-token/pin --property="BindPaths={binds}" \
    /usr/local/bin/edge-rotator rotate --force 2>&1
"""
PLACES = {
    "etc/edge-identity": "/etc/edge-identity",
    "etc/edge-token": "/etc/edge-token",
    "var/lib/edge-token": "/var/lib/edge-token",
    "var/lib/edge-rotator": "/var/lib/edge-rotator",
    "run": "/run/edge-rotator",
}


class Failure(NamedTuple):
    """What is left of a replacement that failed, and what the old device was."""

    old: Replacement
    text: str
    certificates: dict[str, str]
    groups: int
    attributes: dict[str, str]
    kept: str
    units: list[str]


@pytest.fixture(scope="module")
def failure(aws: Aws, playbook: Playbook) -> Failure:
    """Put a bare machine in the place of a device whose rows are all in S3. The provider is away."""
    observe.finish_replication(DEAD)
    (active,) = aws.active(DEAD)
    identity = observe.run(DEAD, TAKE)
    old = Replacement(observe.rows(DEAD, observe.DATABASE).rows, active, newest_key(DEAD), identity)
    lab("down", DEAD)
    assert playbook("lost", f"--extra-vars=thing={DEAD}").code == 0
    lab("up", DEAD)
    observe.run(observe.CLOUD, "sudo systemctl stop edge-cloud-provider")
    done = playbook("replace", f"--limit={DEAD}", WAIT)
    observe.run(observe.CLOUD, "sudo systemctl start edge-cloud-provider")
    asked = "litestream.service sample-app.service edge-rotator.timer litestream.path"
    units = observe.run(DEAD, f"systemctl is-active {asked}", check=False)
    return Failure(
        old,
        done.text,
        aws.certificates(DEAD),
        len(aws.iot.list_thing_groups_for_thing(thingName=DEAD)["thingGroups"]),
        aws.iot.describe_thing(thingName=DEAD)["attributes"],
        (WRITTEN / f"certificates/{DEAD}.crt").read_text(),
        units.split(),
    )


@pytest.fixture(scope="module")
def replacement(playbook: Playbook, failure: Failure) -> Replacement:
    """Run it again, for those who are left."""
    rest = f"@{REPORT}"
    done = playbook("replace", f"--limit={rest}", f"--extra-vars=replace_confirm={rest}", WAIT)
    assert not REPORT.exists()
    assert done.code == 0, done.text
    return failure.old


def test_what_fails_leaves_all_as_it_was(failure: Failure) -> None:
    assert "What failed is 'It earns credentials'" in failure.text
    assert failure.certificates == {failure.old.certificate: "INACTIVE"}
    assert (failure.groups, "lost" in failure.attributes) == (0, True)
    assert certificate_id(failure.kept) == failure.old.certificate
    assert failure.units == ["inactive"] * 4


def test_it_has_the_only_active_certificate(host: Any, name: str, aws: Aws, replacement: Replacement) -> None:
    if name != DEAD:
        pytest.skip("this one lives")
    new = certificate(host)
    assert new != replacement.certificate
    assert aws.certificates(DEAD) == {new: "ACTIVE", replacement.certificate: "INACTIVE"}
    assert len(aws.iot.list_thing_groups_for_thing(thingName=DEAD)["thingGroups"]) == 1
    assert refused(DEAD, replacement.access_key)


def test_the_old_device_that_comes_back_is_refused(
    host: Any, name: str, aws: Aws, replacement: Replacement
) -> None:
    """Its key and its certificate earn nothing, and the new device goes on: there is one writer."""
    if name != DEAD:
        pytest.skip("this one lives")
    before, new = newest_key(DEAD), certificate(host)
    binds = " ".join(f"/root/old/{place}:{where}" for place, where in PLACES.items())
    said = host.run(RETURN.format(identity=replacement.identity.strip(), binds=binds))
    assert said.rc != 0
    assert "certificate_inactive" in said.stdout, said.stdout
    issued = observe.run(observe.CLOUD, f"sudo cloudctl log provider --thing {DEAD} --errors")
    assert "Certificate is invalid on this endpoint" in issued
    since = observe.now(observe.CLOUD)
    wait_for(lambda: observe.uploads(observe.s3_requests(DEAD, since)), 30)
    assert newest_key(DEAD) == before or aws.active(DEAD) == [new]
    assert aws.certificates(DEAD)[replacement.certificate] == "INACTIVE"


def test_it_goes_on_where_the_old_one_ended(host: Any, name: str, replacement: Replacement) -> None:
    if name != DEAD:
        pytest.skip("this one lives")
    old = replacement.rows
    assert old
    rows = wait_for(lambda: (found := observe.rows(DEAD, observe.DATABASE).rows)[len(old) :] and found)
    assert rows[: len(old)] == old
    assert assert_lossless(host, DEAD)[: len(old)] == old
    wait_for(lambda: host.run("edge-rotator status").rc == 0)
