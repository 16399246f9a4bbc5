"""Bad input stops before anything changes, and the message names variable, value and fix."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import yaml

from experiment.phases import ROOT, play, refused_by_preflight

# All cases are one run.
pytestmark = pytest.mark.timeout(400)
LAB = yaml.safe_load((ROOT / "inventory/lab/hosts.yml").read_text())["all"]["children"]

REPLICA = {"type": "s3", "bucket": "edge-backups", "path": "edge01/sample.db"}
DATABASE = {"path": "/var/lib/sample-app/sample.db", "replica": REPLICA}

BAD = {
    "role alias": (
        {"edge_rotator_role_alias": "my alias!"},
        ["edge_rotator_role_alias is 'my alias!'", "must be 1 to 128 of"],
    ),
    "endpoint with a scheme": (
        {"edge_rotator_endpoint": "https://abc.credentials.iot.eu-central-1.amazonaws.com"},
        ["edge_rotator_endpoint is 'https://abc", "without a scheme"],
    ),
    "margin longer than the life time": (
        {"edge_rotator_expected_lifetime": 900, "edge_rotator_refresh_margin": 901},
        ["edge_rotator_refresh_margin is 901", "must be less than edge_rotator_expected_lifetime (900 s)"],
    ),
    "one name for two databases": (
        {"edge_databases_b": {"sample": {"path": "/var/lib/b/b.db"}}},
        ["edge_databases_b.sample has the name of edge_databases.sample", "call one of the two something"],
    ),
    "a misspelt mapping of databases": (
        {"edge_database_b": {"b": {"path": "/var/lib/b/b.db"}}},
        ["edge_database_b is read by nobody", "call it edge_databases or edge_databases_GROUP"],
    ),
    "relative database path": (
        {"litestream_config": {"dbs": [{**DATABASE, "path": "sample.db"}]}},
        ["litestream_config.dbs[0].path is 'sample.db'", "absolute"],
    ),
    "unknown litestream key": (
        {"litestream_config": {"dbs": [DATABASE], "snapshot-interval": "1h"}},
        ["litestream_config.snapshot-interval is not a key of Litestream 0.5.17", "remove it"],
    ),
    "keys in YAML": (
        {
            "litestream_config": {
                "dbs": [{**DATABASE, "replica": {**REPLICA, "secret-access-key": "HUSHHUSH"}}]
            }
        },
        ["secret-access-key (value hidden)", "the rotator delivers the credentials"],
    ),
    "token in YAML": (
        {"litestream_config": {"dbs": [DATABASE], "session-token": "HUSHHUSH"}},
        ["session-token (value hidden)", "remove it"],
    ),
    "PIN with a newline": (
        {"pkcs11_pin": "HUSHHUSH\n"},
        ["pkcs11_pin (value hidden", "with a line break", "write '|-'"],
    ),
    "two databases with one replica path": (
        {"litestream_config": {"dbs": [DATABASE, {**DATABASE, "path": "/var/lib/b/b.db"}]}},
        ["edge-backups/edge01/sample.db", "give each its own"],
    ),
    "a directory that its user could exchange": (
        {"litestream_config": {"dbs": [{**DATABASE, "path": "/home/admin/app/app.db"}]}},
        ["/home/admin/app is below /home/admin", "belong to root and writable for nobody else"],
    ),
    "two applications that would read each other's databases": (
        {
            "litestream_config": {
                "dbs": [
                    DATABASE,
                    {"path": "/var/lib/b/b.db", "replica": {**REPLICA, "path": "edge01/b.db"}},
                ]
            }
        },
        ["litestream_config.dbs[1].path is '/var/lib/b/b.db'", "name the group of /var/lib/b"],
    ),
    "an endpoint without TLS": (
        {"litestream_config": {"dbs": [DATABASE], "endpoint": "http://s3.lab.test:9000"}},
        ["litestream_config.endpoint is 'http://s3.lab.test:9000'", "data goes by TLS alone"],
    ),
    "0.3 with restarts and retention that never happens": (
        {
            "litestream_version": "0.3.13",
            "litestream_config": {
                "dbs": [
                    {"path": DATABASE["path"], "replicas": [{**REPLICA, "retention-check-interval": "1h"}]}
                ]
            },
        },
        ["retention-check-interval is '1h'", "would never delete anything", "edge_rotator_delivery: process"],
    ),
    "another thing's prefix": (
        {"litestream_config": {"dbs": [{**DATABASE, "replica": {**REPLICA, "path": "edge02/sample.db"}}]}},
        ["has path 'edge02/sample.db'", "start it with 'edge01/'"],
    ),
    "a certificate for a device without a key": (
        {"device_identity_certificate": "{{ lab_fleet_ca_file }}"},
        [
            "device_identity_certificate",
            "cannot be compared with the key",
            "the program that asks is not there yet",
            "edge_litestream.appliance.enroll",
        ],
    ),
    "a token that nobody chose": (
        {"pkcs11_profile": ""},
        ["pkcs11_profile is not set for edge01", "'tpm2'", "'cryptoauthlib'", "'custom'", "'softhsm2'"],
    ),
    "a program for another machine": (
        {
            "litestream_source": "url",
            "litestream_archive": "https://example.com/litestream-0.5.17-linux-armv7.tar.gz",
            "litestream_archive_sha256": "0" * 64,
        },
        ["linux-armv7.tar.gz', a program for armv7", "edge01 is a x86_64"],
    ),
    "a token that is root's": ({"pkcs11_user": "root"}, ["pkcs11_user is 'root'", "who is not root"]),
    "delivery that does not exist": ({"edge_rotator_delivery": "magic"}, ["edge_rotator_delivery", "magic"]),
}


def fingerprint(host: Any) -> str:
    """Everything a role could change: packages, users, files with their times and modes."""
    return str(
        host.check_output(
            "dpkg-query -W; getent passwd; getent group; "
            "find /etc /opt /usr /var/lib /home -xdev -printf '%p %s %m %u %g %C@\\n' "
            "| grep -v -e ' /var/lib/systemd' -e '^/var/lib/systemd' -e '^/home/admin/.ansible' | sort"
        )
    )


@pytest.fixture(scope="module")
def untouched(host: Any) -> str:
    """Fingerprint of the device before any of these runs."""
    return fingerprint(host)


@pytest.fixture(scope="module")
def told(host: Any, untouched: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run playbooks/site.yml once: each case is a host of its own, and all of them are edge01.

    Return what was said to each, with the name that it had for the time being.
    """
    assert untouched
    if host.backend.hostname != "edge01":
        pytest.skip("one device shows it")
    hosts = {}
    for number, (variables, _said) in enumerate(BAD.values(), 1):
        known = json.loads(json.dumps(variables).replace("edge01", f"bad{number:02}"))
        # What the lab replicates stands aside for a configuration that is written as a whole.
        aside = {"edge_databases": {}} if "litestream_config" in known else {}
        hosts[f"bad{number:02}"] = {**LAB["edge_devices"]["hosts"]["edge01"], **aside, **known}
    file = tmp_path_factory.mktemp("cases") / "hosts.yml"
    file.write_text(yaml.safe_dump({"edge_devices": {"hosts": hosts}}))
    # Not more at a time than sshd allows on a connection.
    done = play("site", "bad*", options=(f"--inventory={file}", "--forks=8"))
    assert done.code != 0
    said = dict.fromkeys(hosts, "")
    for name, text in re.findall(r"fatal: \[(bad\d+)\]: (.*?)(?=fatal: \[|PLAY RECAP)", done.text):
        said[name] += text.replace("''", "'")
    for name in hosts:
        assert re.search(rf"{name} : ok=\d+ changed=0 unreachable=0 failed=1", done.text), done.text
    assert "HUSHHUSH" not in done.text, "a secret was repeated"
    return said


@pytest.mark.parametrize("case", list(BAD))
def test_stops_in_preflight(told: dict[str, str], case: str) -> None:
    number = list(BAD).index(case) + 1
    for part in BAD[case][1]:
        assert part.replace("edge01", f"bad{number:02}") in told[f"bad{number:02}"]


def test_the_device_is_as_before(host: Any, untouched: str) -> None:
    assert fingerprint(host) == untouched


BY_HAND = {
    "/usr/local/bin/litestream": "program\n",
    "/usr/local/bin/rotate": "role-aliases; AWS_SECRET_ACCESS_KEY=$secret; systemctl restart litestream\n",
    "/etc/systemd/system/litestream.service": (
        "[Service]\nEnvironmentFile=/etc/litestream.env\nExecStart=/usr/local/bin/litestream replicate\n"
    ),
    "/etc/litestream.env": "AWS_SECRET_ACCESS_KEY=HUSHHUSH\n",
    "/etc/litestream.yml": "secret-access-key: HUSHHUSH\n",
    "/etc/cron.d/rotate": "17 * * * * root AWS_SECRET_ACCESS_KEY=HUSHHUSH /usr/local/bin/rotate\n",
    "/root/.aws/credentials": "aws_secret_access_key = HUSHHUSH\n",
}


def test_what_a_hand_install_left_is_named_at_once(host: Any, name: str) -> None:
    if name != "edge01":
        pytest.skip("one device shows it")
    host.check_output("mkdir -p /root/.aws /etc/cron.d")
    for path, content in BY_HAND.items():
        host.check_output(f"printf %s {shlex.quote(content)} >{path}")
    before = fingerprint(host)
    text = refused_by_preflight({})
    assert fingerprint(host) == before
    for path in BY_HAND.keys() - {"/usr/local/bin/rotate"}:
        assert f"{path} " in text
        host.check_output(f"rm {path}")
    host.check_output("rm /usr/local/bin/rotate; rmdir --ignore-fail-on-non-empty /root/.aws /etc/cron.d")
    assert "systemctl disable --now litestream.service" in text
    assert "remove line 1" in text
    assert "set litestream_takeover to true" in text
    assert "HUSHHUSH" not in text, "a secret was repeated"
