"""What the power cuts' verdict takes for lost, for a hole and for the replica being ahead."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from experiment.power_cuts import WRITER, Cut, PowerCuts, Tally, board, table
from experiment.stage import hosts_file
from lab.shell import wait_until


def rows(*ids: int) -> list[str]:
    return [f"{number}|then" for number in ids]


def test_a_row_that_was_told_and_is_gone_is_lost() -> None:
    assert Cut(rows(1, 2, 3), rows(1, 2)).lost == rows(3)
    # In flight: it was written, and nobody had been told yet.
    assert Cut(rows(1, 2), rows(1, 2, 3)).lost == []


def test_another_row_in_a_lost_ones_place_does_not_hide_it() -> None:
    """As when the application went on after the boot, and SQLite gave the number again."""
    assert Cut(["1|then", "2|then"], ["1|then", "2|later"]).lost == ["2|then"]


def test_what_survives_is_a_prefix() -> None:
    assert Cut([], rows(1, 2, 3)).holes == []
    assert Cut([], rows(1, 2, 4, 6)).holes == [3, 5]
    assert Cut([], []).holes == []


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("rows_lost", 1),
        ("cuts_with_holes", 1),
        ("replicas_that_differ", 1),
        ("corrupt", 1),
        ("not_well", 1),
        ("broken", ["cut 1: state"]),
    ],
)
def test_each_of_them_fails_the_run(name: str, bad: object) -> None:
    good = Tally(7, cuts=3, rows_acknowledged=99, rows_only_in_replica=2)
    assert not good.failed()
    setattr(good, name, bad)
    assert good.failed()
    assert str(bad if isinstance(bad, int) else "cut 1: state") in table(good)


def test_each_converge_that_is_cut_changes_something(tmp_path: Path) -> None:
    hosts = hosts_file(tmp_path, board("edge05"))
    experiment = PowerCuts(7, "FULL", "converges", tmp_path, hosts)
    first, second, third = (experiment.change(number) for number in range(3))
    assert first["edge_rotator_refresh_margin"] != second["edge_rotator_refresh_margin"]
    assert "litestream_version" not in second, "back to the pinned one"
    assert first == third
    assert re.search(r"/litestream/([\d.]+)-arm64-\w+/litestream$", first["litestream_archive"])


def test_a_board_is_one_of_the_scenarios() -> None:
    assert board("edge05")["edge05"]["lab_kind"] == "vm"
    with pytest.raises(SystemExit, match="no board 'edge99'"):
        board("edge99")


def test_the_writer_tells_each_row_once_it_is_there(tmp_path: Path) -> None:
    database = tmp_path / "sample.db"
    sample = Path(__file__).parents[3] / "roles/sample_app/files/writer.py"
    with subprocess.Popen([sys.executable, sample, str(database), "60"]) as application:
        assert wait_until(lambda: Path(f"{database}-wal").exists(), 10)
        application.terminate()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database), "0.01", "FULL"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(3)]
        writer.kill()
    with sqlite3.connect(database) as look:
        there = [f"{number}|{at}" for number, at in look.execute("SELECT * FROM Sample")]
    # The application may have ended before its own first row.
    first = there.index(told[0])
    assert first <= 1
    assert there[first : first + 3] == told
