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


def plan(path: Path, devices: list[str] = DEVICES) -> None:
    with restores.opened(str(path)) as report:
        restores.planned(report, devices)
        report.write()


def note(path: Path, device: str, results: Any, failure: str = "", warning: str = "") -> None:
    with restores.opened(str(path)) as report:
        report.note(device, *restores.verdict(results, failure, warning))
        report.write()


def left(path: Path) -> list[str]:
    return path.read_text().split()


def test_whoever_is_named_has_a_turn(tmp_path: Path) -> None:
    """The list of who is left has nobody who was restored; any other limit begins anew, for all of them."""
    path = tmp_path / "restore.report"
    plan(path)
    assert left(path) == DEVICES, "a run that is killed leaves who waits"
    note(path, "edge01", [result()])
    note(path, "edge02", [result("newer"), result("same")])
    note(path, "edge03", [], "Credentials are fresh: no\nnetwork\x1b[2J")
    assert left(path) == ["edge03"]
    plan(path, left(path))
    known = json.loads(Path(f"{path}.json").read_text())["devices"]
    assert [known[device]["verdict"] for device in DEVICES] == ["restored", "newer", "waiting"]
    plan(path)
    assert left(path) == DEVICES, "one that was off in an old restore lets nobody be skipped in a new one"


def test_one_that_differs_is_left_and_nothing_is_done_by_itself(tmp_path: Path) -> None:
    """With restore_over those who go on are the ones that differ."""
    path = tmp_path / "restore.report"
    plan(path)
    note(path, "edge01", [result(), result("differs")])
    note(path, "edge02", [result("newer"), result("restored", aside="/a.before-x")])
    note(path, "edge03", [result("differs")], "not well")
    assert left(path) == ["edge01", "edge03"]
    known = json.loads(Path(f"{path}.json").read_text())["devices"]
    assert "restore_over=true" in known["edge01"]["reason"]
    assert known["edge02"]["verdict"] == "restored"
    assert "newer (the replica lacks rows" in known["edge02"]["reason"]


@pytest.mark.parametrize(
    ("failure", "warning", "word"),
    [("", "the certificate ends soon", "restored"), ("not well: no network", "", "unwell")],
)
def test_one_that_is_restored_and_not_well_is_not_restored_again(
    tmp_path: Path, failure: str, warning: str, word: str
) -> None:
    """Else the next run would have the replica's over what it has written since."""
    path = tmp_path / "restore.report"
    plan(path, ["edge01"])
    note(path, "edge01", [result(aside="/a.before-x")], failure, warning)
    assert not path.exists()
    with restores.opened(str(path)) as report:
        known = report.devices["edge01"]
        assert known["verdict"] == word
        assert "(the old one is in /a.before-x)" in known["reason"]
        assert failure + warning in known["reason"]
        assert restores.unfinished(report, ["edge01"]) == (["edge01"] if failure else [])
        assert len(restores.summary(report, ["edge01"], "x")) == (2 if failure else 1)


def test_where_the_old_one_is_is_told_of_one_that_failed_too() -> None:
    word, reason = restores.verdict([result(aside="/a.before-x"), {"failed": True}], "no room")
    assert (word, "/a.before-x" in reason, reason.startswith("no room")) == ("failed", True, True)


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
    assert restores.verdict([], "a\nb\x07") == ("failed", "a b?")


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
