"""Who is changed when, how a device stands against what it was, and what the report keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import rollout
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.rollout import Report, RingError

CERTIFICATE = "the certificate has expired or soon will"
DEVICES = [f"edge{number:02}" for number in range(1, 21)]


def answer(
    level: str = "ok", *problems: str, ages: dict[str, Any] | None = None, version: str = "0.5.17"
) -> Any:
    """Make the registered result of a look at a device."""
    databases = {path: {"age_s": age} for path, age in (ages or {}).items()}
    status = {"level": level, "problems": problems, "replication": {"databases": databases}}
    return {"stdout": f"{version}\n2.0.0\n{json.dumps(status, indent=2)}", "rc": 0}


def look(*told: Any, **more: Any) -> dict[str, Any]:
    return dict(rollout.seen(answer(*told, **more)))


UNREACHABLE = rollout.seen({"unreachable": True, "msg": "No route to host"})
SILENT = rollout.seen({"stdout": "\n\n", "stderr": "edge-rotator: not found", "rc": 127})


def test_what_a_look_tells() -> None:
    seen = look("warning", CERTIFICATE, ages={"/a.db": 3, "/b.db": None})
    assert seen == {
        "level": "warning",
        "problems": [CERTIFICATE],
        "late": ["/b.db"],
        "ages": {"/a.db": 3.0},
        "versions": {"litestream": "0.5.17", "edge-rotator": "2.0.0"},
    }
    assert UNREACHABLE["level"] == rollout.seen({})["level"] == "unreachable"
    assert (SILENT["level"], SILENT["versions"]) == ("silent", {})
    assert "litestream" not in look(version="../../etc")["versions"]


@pytest.mark.parametrize(
    ("before", "after", "judged", "why"),
    [
        (look(), look(), "same", "ok"),
        (look(version="0.5.16"), look(), "same", "ok litestream 0.5.16 -> 0.5.17"),
        # What was so before is nobody's fault.
        (look("warning", CERTIFICATE), look("warning", CERTIFICATE), "same", "warning"),
        (look("critical", "a"), look("warning", "a"), "better", "warning"),
        (look("warning", "a", "b"), look("warning", "b"), "better", "warning"),
        (look(), look("warning", CERTIFICATE), "worse", f"it was ok and is warning: {CERTIFICATE}"),
        (look("warning", CERTIFICATE), look("critical", "none"), "worse", "is critical: none"),
        # Of the same level, and yet something else.
        (
            look("warning", CERTIFICATE),
            look("warning", CERTIFICATE, "Litestream does not answer"),
            "worse",
            "new is: Litestream does not answer",
        ),
        # One problem whose number goes on, and two that differ by a number in a path.
        (look("warning", "the clock was +9 s off"), look("warning", "the clock was -12 s off"), "same", ""),
        (
            look("warning", "it says 2026-11-24T10:00:00Z"),
            look("warning", "it says 2026-11-24T11:23:45Z"),
            "same",
            "",
        ),
        (look("warning", "in /a: 3.5 MiB left"), look("warning", "in /a: 12.0 MiB left"), "same", ""),
        (look("warning", "/srv/1.db is gone"), look("warning", "/srv/2.db is gone"), "worse", "/srv/2.db"),
        (look(), UNREACHABLE, "vanished", "does not any more"),
        (look(), SILENT, "worse", "is silent: its status is no JSON"),
        # A device that had no rotator before.
        (SILENT, look("warning", CERTIFICATE), "better", "litestream none -> 0.5.17"),
        (SILENT, look("critical", "a"), "worse", "it is critical: a"),
        (SILENT, SILENT, "same", "it is silent as before"),
        ({**look("critical", "a"), "mended": True}, look("critical", "a"), "worse", "was to be made well: a"),
        ({**look("critical", "a"), "mended": True}, look("warning", "a"), "better", ""),
        # Litestream runs, and what was replicated before is not yet again.
        (look(ages={"/a.db": 1}), look(ages={"/a.db": None}), "worse", "since Litestream started: /a.db"),
        (look(ages={}), look(ages={"/a.db": None}), "worse", "/a.db"),
        (look(ages={"/a.db": None}), look(ages={"/a.db": None}), "same", "ok"),
        (SILENT, look(ages={"/a.db": None}), "worse", "/a.db"),
    ],
)
def test_verdict(before: Any, after: Any, judged: str, why: str) -> None:
    found, reason = rollout.verdict(before, after)
    assert found == judged, reason
    assert why in reason


def test_verdict_asks_for_a_younger_replica_where_somebody_wants_it() -> None:
    now = look(ages={"/a.db": 40, "/b.db": 3})
    assert rollout.verdict(now, now, 60)[0] == "same"
    assert rollout.verdict(now, now, 30) == ("worse", "last replicated more than 30 s ago: /a.db")


def test_long_lists_are_cut() -> None:
    late = {f"/{number}.db": None for number in range(9)}
    assert "/0.db, /1.db, /2.db and 6 more" in rollout.verdict(look(), look(ages=late))[1]


RINGS = rollout.rings_of(
    [{"name": "first", "size": 1}, {"name": "tenth", "size": "10%"}, {"name": "rest"}], 300
)


def test_devices_without_a_ring_are_dealt_out() -> None:
    dealt = rollout.deal(RINGS, dict.fromkeys(DEVICES, ""), dict.fromkeys(DEVICES, "ok"))
    assert dealt == {"first": DEVICES[:1], "tenth": DEVICES[1:3], "rest": DEVICES[3:]}


def test_a_ring_with_a_size_has_a_device_in_a_small_fleet() -> None:
    dealt = rollout.deal(RINGS, dict.fromkeys(DEVICES[:4], ""), dict.fromkeys(DEVICES, "ok"))
    assert dealt == {"first": DEVICES[:1], "tenth": DEVICES[1:2], "rest": DEVICES[2:4]}


@pytest.mark.parametrize("level", ["unreachable", "silent", "critical", "warning"])
def test_a_device_that_is_off_or_ill_is_not_among_the_first(level: str) -> None:
    levels = {device: level if device in DEVICES[:2] else "ok" for device in DEVICES}
    dealt = rollout.deal(RINGS, dict.fromkeys(DEVICES, ""), levels)
    assert dealt == {"first": DEVICES[2:3], "tenth": DEVICES[3:5], "rest": [*DEVICES[:2], *DEVICES[5:]]}


def test_a_variable_names_the_ring() -> None:
    rings = rollout.rings_of([{"name": "canary"}, {"name": "early", "size": "50%"}, {"name": "rest"}], 0)
    named = {"edge01": "", "edge02": "canary", "edge03": "rest", "edge04": ""}
    assert rollout.deal(rings, named, dict.fromkeys(named, "ok")) == {
        "canary": ["edge02"],
        "early": ["edge01", "edge04"],
        "rest": ["edge03"],
    }


def test_few_devices_fill_the_first_rings() -> None:
    assert rollout.deal(RINGS, {"edge01": ""}, {"edge01": "unreachable"}) == {
        "first": ["edge01"],
        "tenth": [],
        "rest": [],
    }


def test_a_ring_that_is_none_is_refused() -> None:
    with pytest.raises(RingError, match=r"rollout_ring of edge01 is 'canary'.*\(first, tenth, rest\)"):
        rollout.deal(RINGS, {"edge01": "canary"}, {})


@pytest.mark.parametrize(
    ("rings", "said"),
    [
        ([], "rollout_rings is empty"),
        ("canary", "rollout_rings is empty or no list"),
        (["canary"], "give each ring a name"),
        ([{"size": 1}], "give each ring a name"),
        ([{"name": "a"}, {"name": "a"}], "has a twice"),
        ([{"name": "a", "batch": 3}], "gives a batch, which no ring has"),
        ([{"name": "a", "size": "many"}], "the size of ring a in rollout_rings is 'many'"),
        ([{"name": "a", "size": True}], "is True"),
        ([{"name": "a", "tolerate": "101%"}], "tolerate of ring a in rollout_rings is '101%'"),
        ([{"name": "a", "tolerate": -1}], "is -1"),
        ([{"name": "a", "soak": "soon"}], "soak time of ring a"),
        ([{"name": "a", "soak": -1}], "soak time of ring a"),
    ],
)
def test_rings_that_make_no_sense_are_refused(rings: Any, said: str) -> None:
    with pytest.raises(RingError, match=said.replace("(", r"\(")):
        rollout.rings_of(rings, 300)


@pytest.mark.parametrize(("value", "devices"), [(0, 0), (3, 3), ("3", 3), ("10%", 2), ("5%", 1), ("4%", 0)])
def test_amounts(value: Any, devices: int) -> None:
    assert rollout.amount(value, 20, "it") == devices


def test_report_names_who_is_left(tmp_path: Path) -> None:
    report = Report(str(tmp_path / "upgrade.report"))
    for device, judged in {"edge01": "same", "edge02": "worse", "edge03": "off", "edge04": "better"}.items():
        report.note(device, judged, "why", ring="first")
    report.write()
    assert (tmp_path / "upgrade.report").read_text() == "edge02\nedge03\n"
    again = Report(str(tmp_path / "upgrade.report"))
    assert again.devices == report.devices
    assert again.line("edge02").split() == ["edge02", "first", "worse", "why"]


def test_nobody_left_is_no_list_at_all(tmp_path: Path) -> None:
    """To --limit an empty list means everybody."""
    report = Report(str(tmp_path / "upgrade.report"))
    report.note("edge01", "off", "")
    report.write()
    report.note("edge01", "same", "")
    report.write()
    assert [path.name for path in tmp_path.iterdir()] == ["upgrade.report.json"]


@pytest.mark.parametrize("judged", rollout.TOUCHED)
def test_a_device_is_compared_with_what_it_was_before_all_runs(tmp_path: Path, judged: str) -> None:
    """Or the second run of a broken release would find everything as before."""
    report = Report(str(tmp_path / "upgrade.report"))
    report.note("edge01", judged, "", before=look())
    assert report.baseline("edge01", look("critical", "a")) == look()


@pytest.mark.parametrize("judged", ["same", "better", "off", "waiting"])
def test_a_device_that_is_well_or_unchanged_is_compared_with_what_it_is_now(
    tmp_path: Path, judged: str
) -> None:
    report = Report(str(tmp_path / "upgrade.report"))
    report.note("edge01", judged, "", before=look())
    now = look("warning", CERTIFICATE)
    assert report.baseline("edge01", now) == report.baseline("edge02", now) == now


@pytest.mark.parametrize("text", ["", "[]", "{", '{"devices": 3}', '{"devices": {"edge01": {}}}'])
def test_a_report_that_is_none_is_told_of(tmp_path: Path, text: str) -> None:
    (tmp_path / "upgrade.report.json").write_text(text)
    with pytest.raises(RingError, match=r"upgrade\.report\.json cannot be read .* remove it to begin anew"):
        Report(str(tmp_path / "upgrade.report"))
