"""playbooks/replace.yml: in which order things happen, and what it refuses before anything happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.aws.test_lost import OTHER, THING, WELL, Account, account

__all__ = ["account"]
ROOT = Path(__file__).resolve().parents[3]
# The device is this machine; no task is reached that changes anything.
HOSTS = f"""
edge_devices:
  vars: {{ansible_connection: local, ansible_become: false}}
  hosts:
    {THING}:
    edge-0003:
"""


def steps(listed: Any) -> Iterator[str]:
    """Name every task of a playbook, in the order in which they come, with what it does."""
    for item in listed or []:
        if not ({"tasks", "block"} & item.keys()):
            yield f"{item['name']}: {next((str(item[key]) for key in item if key.count('.') == 2), '')}"
        for key in ("tasks", "block", "rescue"):
            yield from steps(item.get(key))


def test_nothing_runs_between_the_hold_and_the_restore() -> None:
    """An empty database must never be replicated over the thing's."""
    order = list(steps(yaml.safe_load((ROOT / "playbooks/replace.yml").read_text())))

    def at(name: str) -> int:
        (found,) = (number for number, step in enumerate(order) if step.startswith(f"{name}:"))
        return found

    sequence = [
        *("Neither application nor Litestream runs, or starts", "The new device is ready"),
        *("Old certificates are inactive, and the prefix is closed", "The new certificate is active"),
        *(
            "AWS knows everywhere that the old ones are inactive",
            "The prefix is open to credentials from now on",
        ),
        *("It earns credentials", "The databases are those of the replica", "They are all there"),
        *("Application and Litestream may start", "They run", "The device is well"),
        *("Application and Litestream do not run", "The new certificate is gone"),
        *("The thing is in its groups, and not lost any more", "The device knows it"),
    ]
    assert [at(name) for name in sequence] == sorted(at(name) for name in sequence)
    held, restored = at(sequence[0]), at("They are all there")
    assert not any("'started'" in step for step in order[held:restored] if "edge-rotator-force" not in step)


@pytest.mark.timeout(300)
def test_what_is_wrong_is_told_before_anything_changes(account: Account, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "twice.yml").write_text(
        HOSTS.replace("edge-0003:", f"edge-0003: {{edge_rotator_thing_name: {THING}}}")
    )
    # The device has the thing's certificate, and what an earlier replacement for another thing has left.
    (tmp_path / "identity").mkdir()
    told = account.iot.describe_certificate(certificateId=account.certificates[THING])
    (tmp_path / "identity/device.crt").write_text(told["certificateDescription"]["certificatePem"])
    (tmp_path / "identity/replacing").write_text(f"replaces {OTHER}\n")
    own = {"device_identity_dir": str(tmp_path / "identity")}
    not_lost = f"{THING} is not lost, and its device would get no credentials any more"
    for inventory, limit, known, words in (
        ("hosts", "edge_devices", {}, ["-e replace_confirm=north"]),
        ("hosts", "edge-0003", {}, ["AWS IoT has no thing 'edge-0003'"]),
        ("hosts", THING, {"replace_alive": OTHER, **own}, [not_lost, f"{THING} is {THING} already"]),
        ("hosts", THING, {"fleet_bucket": ""}, ["fleet_bucket or edge_rotator_role_alias is not set"]),
        ("twice", "edge-0003", {"replace_alive": THING}, ["is the same on more than one host"]),
    ):
        code, said = account.play("replace", f"--inventory={inventory}.yml", f"--limit={limit}", **known)
        assert code != 0
        for word in words:
            assert word in said.replace("''", "'"), said
        assert "changed=0" in said
    assert account.state() == WELL
    (tmp_path / "identity/device.crt").unlink()
    # One that lives, whose replacement broke off, is not taken for one that was lost before.
    (tmp_path / "identity/replacing").write_text(f"replaces {THING}\nalive\n")
    memory = {"attributes": {"lost": "since=2026-01-01T00:00:00Z"}, "merge": True}
    account.iot.update_thing(thingName=THING, attributePayload=memory)
    code, said = account.play("replace", "--inventory=hosts.yml", f"--limit={THING}", **own)
    assert code != 0
    assert not_lost in said, said


def test_a_database_that_would_begin_empty_is_named(account: Account, tmp_path: Path) -> None:
    """Each host of this play is a case."""
    _first, _second, play, _last = yaml.safe_load((ROOT / "playbooks/replace.yml").read_text())
    (block,) = (task for task in play["tasks"] if task["name"] == "It takes over, or all is as it was")
    (known,) = (task for task in block["block"] if task["name"] == "Every database is known by its path")
    cases = {
        "every": {},
        "one": {"replace_databases": ["/a"]},
        "said": {"replace_databases": ["/a"], "replace_empty": ["/b"]},
        "rest": {"replace_empty": ["/b"]},
        "none": {"replace_empty": ["/a", "/b"]},
    }
    variables = {name: value for name, value in play["vars"].items() if name.startswith("__replace_")}
    variables["__replace_written"] = {"dbs": [{"path": "/a"}, {"path": "/b"}]}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"cases": {"hosts": cases, "vars": variables}}))
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [known]}])
    )
    _code, said = account.play(str(tmp_path / "play"), "--inventory=hosts.yml")
    assert "replace_databases leaves out /b" in said, said
    for case in cases:
        ends = "failed=1" if case in {"one", "none"} else "ok=1"
        assert ends in said.partition("RECAP")[2].partition(f"{case} :")[2].partition(" : ")[0], (case, said)
