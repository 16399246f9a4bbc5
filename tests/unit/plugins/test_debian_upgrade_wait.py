"""A phase is waited for over what may happen on the way: lost connections, and a Python that is exchanged."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.action import debian_upgrade

RUNS = {"finished": False, "token": "t", "line": "Unpacking libc6"}
ENDED = {"finished": True, "token": "t"}
NO_PYTHON = {"failed": True, "msg": "Module result deserialization failed"}
LOST = AnsibleConnectionFailure("no route")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Wait for a device that gives these answers; its clock goes on by ten seconds for each."""

    def run(*answers: Any, **more: Any) -> tuple[dict[str, Any], Mock]:
        clock = Mock(side_effect=range(0, 100000, 5))
        monkeypatch.setattr(debian_upgrade, "time", Mock(monotonic=clock))
        monkeypatch.setattr(ActionBase, "run", lambda *_: {})
        action = object.__new__(debian_upgrade.ActionModule)
        action._task = Mock(args={"state": "finished", "phase": "upgrade", "token": "t", **more})
        action._connection = Mock()
        asked = Mock(side_effect=answers)
        monkeypatch.setattr(action, "_ask", asked)
        return action.run(None, {"inventory_hostname": "edge1"}), asked

    return run


def test_what_happens_on_the_way_is_waited_out(wait: Any) -> None:
    answer, asked = wait(RUNS, LOST, LOST, NO_PYTHON, RUNS, ENDED)
    assert answer == ENDED
    assert asked.call_count == 6


def test_a_phase_that_failed_is_told(wait: Any) -> None:
    failed = {"failed": True, "finished": False, "msg": "dpkg"}
    assert wait(RUNS, failed)[0] == failed


def test_a_device_that_stays_away_is_given_up(wait: Any) -> None:
    with pytest.raises(AnsibleConnectionFailure):
        wait(RUNS, *[LOST] * 50, silence=60)


def test_one_that_gives_no_answer_is_given_up(wait: Any) -> None:
    assert wait(RUNS, *[NO_PYTHON] * 50, silence=60)[0] == NO_PYTHON


def test_what_takes_too_long_goes_on_and_is_told(wait: Any) -> None:
    answer, _unused = wait(*[RUNS] * 50, timeout=100)
    assert answer["failed"]
    assert "upgrade still runs after 100 s" in answer["msg"]
