"""What a restore of many devices notes: who is done, who is left, and what a device's word is worth."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import restores
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.rollout import RingError

DEVICES = ["edge01", "edge02", "edge03"]


def result(verdict: Any = "restored", **more: Any) -> dict[str, Any]:
    return {"database": "/var/lib/app/app.db", "verdict": verdict, "aside": "", **more}


def plan(path: Path, request: str = "latest", again: bool = False) -> list[str]:
    with restores.opened(str(path)) as report:
        done = restores.planned(report, DEVICES, request, again)
        report.write()
    return list(done)


def note(path: Path, device: str, results: Any, failure: str = "") -> None:
    with restores.opened(str(path)) as report:
        report.note(device, *restores.verdict(results, failure))
        report.write()


def test_who_is_done_is_not_restored_again(tmp_path: Path) -> None:
    """Unless something else is asked for, or the device itself by name."""
    path = tmp_path / "restore.report"
    assert plan(path) == []
    assert path.read_text().split() == DEVICES, "a run that is killed leaves who waits"
    note(path, "edge01", [result()])
    note(path, "edge02", [result("newer"), result("same")])
    note(path, "edge03", [], "Credentials are fresh: no\nnetwork\x1b[2J")
    assert path.read_text().split() == ["edge03"]
    assert plan(path) == ["edge01", "edge02"]
    assert path.read_text().split() == ["edge03"]
    known = json.loads(Path(f"{path}.json").read_text())["devices"]
    assert (known["edge02"]["verdict"], known["edge03"]["verdict"]) == ("newer", "waiting")
    assert plan(path, request="2026-11-22T10:00:00Z") == []
    note(path, "edge01", [result()])
    assert plan(path, request="2026-11-22T10:00:00Z", again=True) == []
    for device in DEVICES:
        note(path, device, [result()])
    assert plan(path, request="2026-11-22T10:00:00Z") == [], "that restore was over, and this is another one"


def test_nobody_is_left(tmp_path: Path) -> None:
    """An empty list would mean every device."""
    path = tmp_path / "restore.report"
    plan(path)
    for device in DEVICES:
        note(path, device, [result(aside="/var/lib/app/app.db.before-x")])
    assert not path.exists()
    with restores.opened(str(path)) as report:
        assert restores.summary(report, DEVICES, "x") == ["3 devices: 3 restored"]
        assert restores.line(report, "edge01").endswith("(the old one is in /var/lib/app/app.db.before-x)")


@pytest.mark.parametrize(
    "said",
    [
        [],
        None,
        "restored",
        [{"unreachable": True}],
        [result(), {"verdict": ["restored"]}],
        [result("anything")],
        [7],
    ],
)
def test_what_is_no_answer_of_ours_is_no_success(said: Any) -> None:
    assert restores.verdict(said, "")[0] == "vanished"


def test_a_devices_words_are_made_plain() -> None:
    word, reason = restores.verdict([result(database="/a\x1b[2J", aside=["x"])], "")
    assert word == "restored"
    assert reason.isprintable()
    assert restores.verdict([result()], "a\nb\x07") == ("failed", "a b?")


def worker(path: Path, number: int) -> None:
    note(path, f"edge{number}", [result()])


def test_many_note_at_once(tmp_path: Path) -> None:
    """Each in a process of its own, as Ansible has them."""
    path = tmp_path / "restore.report"
    with ProcessPoolExecutor(8) as pool:
        list(pool.map(worker, [path] * 60, range(60)))
    known = json.loads(Path(f"{path}.json").read_text())["devices"]
    assert len(known) == 60


def test_a_report_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "restore.report"
    Path(f"{path}.json").write_text("{}")
    with pytest.raises(RingError, match="remove it to begin anew"), restores.opened(str(path)):
        pass
