"""What operators run from the control node after the first converge."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiment import observe
from experiment.installed import NAME, ROOT, Operator, build
from experiment.phases import assert_lossless, play, wait_for
from lab.settings import paths

pytestmark = pytest.mark.timeout(400)


def test_status_tells_of_the_fleet(host: Any, only_one: None, tmp_path: Path) -> None:
    """And of a device that there is none of, which looks like one that is off."""
    off, page = tmp_path / "off.yml", tmp_path / "status.html"
    off.write_text("edge_devices: {hosts: {edge99: {ansible_host: 10.83.0.99}}}")
    variables = {"status_page": str(page)}

    def told() -> bool:
        done = play("status", variables=variables, options=(f"--inventory={off}",))
        assert done.code == 0, done.text
        assert "changed=0" in done.text
        return "1 unreachable, 2 ok" in done.text

    wait_for(told, 60)
    data = json.loads(page.with_suffix(".json").read_text())
    assert data["counts"] == {"unreachable": 1, "ok": 2}
    found = {one["device"]: (one["level"], one["litestream"]) for one in data["devices"]}
    assert found == {
        "edge01": ("ok", "0.5.17"),
        "edge02": ("ok", "0.5.17"),
        "edge99": ("unreachable", None),
    }
    assert all(name in page.read_text() for name in found)


def test_installed_collection_finds_nothing_to_change(only_one: None, tmp_path: Path) -> None:
    """What a clone converged, a collection from the archive does not change: both ways mean the same."""
    operator = Operator(tmp_path / "home")
    operator.install(build(tmp_path))
    shutil.copytree(ROOT / "inventory/lab", operator.directory / "inventory")
    done = operator.run("ansible-playbook", "-i", "inventory", "--limit", "edge02", f"{NAME}.site")
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, text
    assert re.search(r"edge02 : ok=\d+ changed=0 unreachable=0 failed=0", text), text


def test_rotate_proves_that_credentials_are_new(host: Any, name: str, secret_file: str) -> None:
    before = host.file(secret_file).content_string
    done = play("rotate", name)
    assert done.code == 0, done.text
    assert host.file(secret_file).content_string != before


def test_restore_wants_the_name_twice(host: Any, name: str) -> None:
    done = play("restore", name)
    assert done.code != 0
    assert "run it with --limit DEVICE -e restore_confirm=DEVICE" in done.text
    assert "say the same of a group" in play("restore", "edge_devices", {"restore_confirm": name}).text
    assert "changed=0" in done.text
    assert host.service("sample-app").is_running


def test_restore_gives_every_row_back(host: Any, name: str) -> None:
    before = observe.rows(name, observe.DATABASE).rows
    done = play("restore", name, {"restore_confirm": name})
    assert done.code == 0, done.text
    after = observe.rows(name, observe.DATABASE)
    assert after.integrity == "ok"
    assert after.rows[: len(before)] == before
    assert host.check_output(f"ls -d {observe.DATABASE}.before-*"), "the old one is kept"
    wait_for(lambda: len(observe.rows(name, observe.DATABASE).rows) > len(after.rows))
    assert_lossless(host, name)


# Somebody whom no restore stops has the database open.
HOLD = f"sudo systemd-run --unit=holder sh -c 'exec 9<{observe.DATABASE}; exec sleep 300'"
# The disk has been exchanged: neither database nor what Litestream keeps beside it.
LOSE = (
    "sudo systemctl stop litestream.path sample-app litestream && "
    f"sudo sh -c 'rm -rf {observe.DATABASE}* /var/lib/litestream/var'"
)


def test_many_are_restored_and_one_that_fails_stops_no_other(host: Any, only_one: None) -> None:
    """It is named, its application was never stopped, and the next run goes on with it alone."""
    held, lost = "edge01", "edge02"
    report = paths().state / "restore.report"
    observe.finish_replication(lost)
    before = observe.rows(lost, observe.DATABASE).rows
    observe.run(lost, LOSE)
    observe.run(held, HOLD)
    since = observe.now(held)
    done = play("restore", "edge_devices", {"restore_confirm": "edge_devices"})
    assert done.code != 0
    assert re.search(
        rf"{held} +failed .*{observe.DATABASE} is open in sleep \(\d+\) of holder.service", done.text
    )
    assert re.search(rf"{lost} +restored +{observe.DATABASE}: restored", done.text), done.text
    assert "2 devices: 1 failed, 1 restored" in done.text
    assert observe.starts(held, "sample-app.service", since) == []
    assert observe.rows(lost, observe.DATABASE).rows[: len(before)] == before
    assert report.read_text().split() == [held]

    observe.run(held, "sudo systemctl stop holder")
    rest = f"@{report}"
    done = play("restore", rest, {"restore_confirm": rest})
    assert done.code == 0, done.text
    assert re.search(rf"{held} +same +{observe.DATABASE}: same", done.text), "it had all, and was left alone"
    assert not report.exists()
    for device in (held, lost):
        wait_for(
            lambda device=device: "ok" in observe.run(device, "sudo edge-rotator status", check=False).split()
        )
    assert observe.rows(lost, observe.DATABASE).rows[: len(before)] == before


def test_no_converge_comes_into_a_restore_that_goes_on(host: Any, only_one: None, name: str) -> None:
    """Its playbook was ended; it holds its lock, and whoever starts Litestream now ruins it."""
    host.check_output("systemd-run --unit=restoring flock /run/litestream-restore.lock sleep 300")
    try:
        done = play("site", name)
    finally:
        host.check_output("systemctl stop restoring")
    assert done.code != 0
    assert f"A restore is under way on {name}" in done.text
    assert "changed=0" in done.text


def test_upgrade_goes_on_only_where_the_device_is_well(host: Any, name: str) -> None:
    if name != "edge02":
        pytest.skip("one device shows it, whose Litestream no rotation restarts: it has always replicated")
    # Younger than nothing: a gate that no device can pass.
    stopped = play("upgrade", name, {"healthy_replication_age": -1, "healthy_retries": 1})
    assert stopped.code != 0
    assert "ring first stops the roll-out" in stopped.text
    assert "last replicated more than -1 s ago" in stopped.text, "the reason is shown"
    passed = play("upgrade", name)
    assert passed.code == 0, passed.text


def test_rollback_without_an_older_version_changes_nothing(host: Any, only_one: None, name: str) -> None:
    done = play("rollback", name)
    assert done.code == 0, done.text
    assert "no older version than 0.5.17 is installed" in done.text
    assert "changed=0" in done.text


def test_the_next_run_makes_good_what_one_left_that_broke_off(host: Any, name: str) -> None:
    """Its handlers never ran: what is on the disk is not what runs. And somebody has left the operators."""
    if name != "edge02":
        pytest.skip("one device shows it")
    since = observe.now(name)
    host.check_output("touch /etc/litestream.yml")
    certificate = host.file("/etc/edge-identity/device.crt").sha256sum
    # As a text, which is what `-e name=value` gives.
    done = play("site", name, {"edge_rotator_operators": [], "device_identity_renew_before_days": "60"})
    assert done.code == 0, done.text
    assert host.file("/etc/edge-identity/device.crt").sha256sum == certificate, "it has a year"
    assert len(observe.starts(name, "litestream.service", since)) == 1
    assert host.group("edge-operators").members == []


PUMP = "/var/lib/pump/pump.db"
# As an application's package would.
PUMP_INSTALL = f"""
groupadd --force --system pump-data
useradd --system --no-create-home --gid pump-data pump
install --directory --owner=pump --group=pump-data {Path(PUMP).parent}
printf '[Service]\\nUser=pump\\nGroup=pump-data\\nUMask=0007\\nExecStart=%s\\n' \\
    '/usr/bin/python3 -I /usr/local/lib/sample-app/writer.py {PUMP} 0.5' >/etc/systemd/system/pump.service
systemctl daemon-reload && systemctl start pump.service
"""
OPEN = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM Sample')"
S3 = {"bucket": "{{ lab_bucket }}", "endpoint": "{{ lab_s3_endpoint }}", "force-path-style": True}


def test_applications_of_two_groups_are_replicated_and_restored_apart(
    host: Any, name: str, tmp_path: Path
) -> None:
    """Each group of devices names its application's database; neither application opens the other's.

    The next converge knows nothing of the second one.
    """
    if name != "edge02":
        pytest.skip("one device shows it")
    host.check_output(PUMP_INSTALL)
    databases = {"pump": {"path": PUMP, "replica": S3}}
    group = {"hosts": {name: {}}, "vars": {"edge_databases_pumps": databases}}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"pumps": group}))
    done = play("site", name, options=(f"--inventory={inventory}",))
    assert done.code == 0, done.text
    known = json.loads(host.check_output("edge-rotator status --json"))["replication"]["databases"]
    assert set(known) == {observe.DATABASE, PUMP}

    paths = {"sample-app": observe.DATABASE, "pump": PUMP}
    for user, path in itertools.product(paths, paths.values()):
        opened = host.run(f"runuser -u {user} -- python3 -I -c {shlex.quote(OPEN)} {path}")
        assert (opened.rc == 0) == (path == paths[user]), (user, path, opened.stderr)

    for user, path in paths.items():
        before = observe.rows(name, path).rows
        variables = {"restore_database": path, "restore_units": [f"{user}.service"], "restore_confirm": name}
        done = play("restore", name, variables)
        assert done.code == 0, done.text
        assert observe.rows(name, path).rows[: len(before)] == before
    host.check_output(
        "systemctl stop pump && userdel pump && rm -r /var/lib/pump /etc/systemd/system/pump.service"
    )


def test_a_device_whose_user_was_made_again_keeps_its_identity(host: Any, name: str) -> None:
    """Its token seems to be gone, nothing that it wrote is its own, and AWS has revoked its certificate.

    The first converge stops and says how to give the token back. The second repairs the rest, and ends by
    saying that the device is not well.
    """
    if name != "edge02":
        pytest.skip("one device shows it")
    identity = "sha256sum /etc/edge-identity/*; ls /var/lib/edge-token; id -u edge-rotator"
    before = host.check_output(identity).splitlines()
    host.check_output(
        "systemctl stop edge-rotator.timer edge-rotator-due.path && systemctl start edge-rotator.service; "
        "number=$(id -u edge-rotator); userdel edge-rotator && useradd --system --uid $number squatter "
        "&& useradd --system --no-create-home edge-rotator"
    )
    refused = play("site", name)
    assert refused.code != 0
    store = "/var/lib/edge-token"
    command = f"chown --recursive --no-dereference edge-rotator {store} && chmod --recursive u+rwX {store}"
    assert f"Give them back: {command}" in refused.text
    after = host.check_output(identity).splitlines()
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1], "it has another number"

    host.check_output(command)
    observe.run(observe.CLOUD, f"sudo cloudctl revoke {name}")
    host.check_output("rm /run/edge-rotator/credentials.json")
    told = play("site", name, {"healthy_retries": 1})
    observe.run(observe.CLOUD, f"sudo cloudctl unrevoke {name}")
    assert told.code != 0
    assert f"{name} is not well:" in told.text
    assert "status critical" in told.text
    assert "certificate_inactive" in told.text
    assert host.check_output(identity).splitlines()[:-1] == before[:-1]
    assert host.check_output("find /run/edge-rotator /var/lib/edge-rotator -not -user edge-rotator") == ""
    assert host.file("/run/litestream-query.sock").group == "edge-rotator"

    host.check_output("systemctl start edge-rotator-force.service; userdel squatter")
    wait_for(lambda: host.run("edge-rotator status").rc == 0)
