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
        *("AWS knows everywhere that the old ones are inactive", "The prefix is open to credentials from now on"),
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
    for limit, known, word in (
        ([], {}, "name the new device with --limit, one at a time"),
        (["--limit=edge_devices"], {}, "name the new device with --limit, one at a time"),
        (["--limit=edge-0003"], {}, "AWS IoT has no thing ''edge-0003''"),
        ([f"--limit={THING}"], {}, f"{THING} is not lost, and its device would get no credentials any more"),
        ([f"--limit={THING}"], {"replace_alive": OTHER}, f"{THING} is not lost"),
        ([f"--limit={THING}"], {"fleet_bucket": ""}, "fleet_bucket or edge_rotator_role_alias is not set"),
    ):
        code, said = account.play("replace", "--inventory=hosts.yml", *limit, **known)
        assert code != 0
        assert word in said, said
        assert "changed=0" in said
    (tmp_path / "hosts.yml").write_text(HOSTS.replace("edge-0003:", f"edge-0003: {{edge_rotator_thing_name: {THING}}}"))
    code, said = account.play("replace", "--inventory=hosts.yml", "--limit=edge-0003", replace_alive=THING)
    assert code != 0
    assert "edge_rotator_thing_name is the same on more than one host" in said, said
    assert account.state() == WELL
