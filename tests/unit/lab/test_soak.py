"""The soak's pure parts: what a seed draws, what counts as lost, what as refused outside of faults."""

from itertools import islice
from pathlib import Path

import yaml

from experiment.observe import Request
from experiment.soak import ALL, Drawn, Tally, Window, kinds, lost, outside, replicated, sequence, shared
from experiment.stage import record

DEVICES = {"edge01": "environment", "edge02": "process", "edge03": "environment"}
ROWS = kinds()


def drawn(seed: int, count: int) -> list[Drawn]:
    return list(islice(sequence(seed, DEVICES, ROWS), count))


def test_what_loses_rows_or_needs_a_playbook_is_not_drawn(tmp_path: Path) -> None:
    plain = {"name": "plain", "what": "x", "inject": [{"device": "true"}], "ok_within_s": 1}
    rows = [
        plain,
        {**plain, "name": "loses", "lost": "some"},
        {**plain, "name": "converges", "mend": [{"control": "ansible-playbook playbooks/site.yml"}]},
        {**plain, "name": "database-replaced"},
    ]
    table = tmp_path / "table.yml"
    table.write_text(yaml.safe_dump({"group": rows}))
    own = {"device-cut-off", "power-cut", "application-killed", "litestream-halted", "s3-store-down"}
    assert set(kinds(table)) == {"plain", *own}
    assert len(ROWS) > 50


def test_a_seed_draws_the_same_faults_and_another_seed_others() -> None:
    assert drawn(7, 100) == drawn(7, 100) != drawn(8, 100)


def test_every_kind_comes_once_in_each_round() -> None:
    faults = drawn(7, 2 * len(ROWS))
    first, second = ([fault.kind for fault in part] for part in (faults[: len(ROWS)], faults[len(ROWS) :]))
    assert sorted(first) == sorted(second) == sorted(ROWS)
    assert first != second


def test_a_fault_of_the_cloud_is_everybodys_and_any_other_one_devices_of_its_mode() -> None:
    assert shared(ROWS["s3-store-down"])
    assert not shared(ROWS["power-cut"])
    assert not shared(ROWS["policy-denied"])
    for fault in drawn(7, 3 * len(ROWS)):
        row = ROWS[fault.kind]
        assert fault.device == ALL if shared(row) else DEVICES[fault.device] in row.modes


def test_lost_is_what_was_seen_or_is_there_and_is_not_in_the_replica() -> None:
    here = ["1|a", "2|b", "3|c"]
    assert not lost({2: "b"}, here, here)
    assert lost({}, here, here[:2]) == {"3|c"}
    # A tail that a power cut took, whose number was given again.
    assert lost({3: "z"}, here, here) == {"3|z"}
    # The writer deletes nothing, so a hole is a row that was.
    assert lost({}, ["1|a", "3|c"], ["1|a", "3|c"]) == {"2|"}


def test_outside_is_what_lies_in_no_fault() -> None:
    windows = [Window("power cut", 10, 20), Window("S3 down", 30, 40)]
    assert outside([5, 10, 15, 20, 25, 35, 41], windows) == [5, 25, 41]


def test_the_longest_time_to_heal_is_kept_by_kind_and_who_never_healed_is_named(tmp_path: Path) -> None:
    tally = Tally(7)
    for kind, healed in (("power cut", 3.0), ("power cut", 2.0), ("S3 down", 9.04), ("S3 down", None)):
        tally.count(kind, healed)
    assert tally.faults == {"power cut": 2, "S3 down": 2}
    assert tally.longest_heal_s == {"power cut": 3.0, "S3 down": 9.0}
    assert tally.not_healed == ["S3 down"]
    assert tally.worst() == "9.0 s (S3 down)"
    path = tmp_path / "docs/soak.yml"
    record(path, "make soak", vars(tally))
    assert yaml.safe_load(path.read_text()) == vars(tally)
    assert "\nnot_healed:\n  - S3 down\n" in path.read_text()


def test_healed_is_who_uploads_fresh_rows_and_not_who_compacts_old_ones() -> None:
    compacted = Request(1, "PUT", "edge01/sample.db/0001/1.ltx", 200, "", "key")
    refused = Request(2, "PUT", "edge01/sample.db/0000/1.ltx", 403, "", "key")
    fresh = Request(3, "PUT", "edge01/sample.db/0000/1.ltx", 200, "", "key")
    assert replicated([compacted, refused]) is None
    assert replicated([compacted, refused, fresh]) == 3
