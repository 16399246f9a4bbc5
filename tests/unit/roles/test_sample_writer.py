"""The sample application is an example: a row that it has written survives a power cut."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

WRITER = Path(__file__).resolve().parents[3] / "roles/sample_app/files/writer.py"
# Runs the writer as its unit does, asks its own connection after the first row, and ends it as systemd would.
SPY = """
import os, runpy, signal, sqlite3, sys

class Connection(sqlite3.Connection):
    def execute(self, statement, *values):
        done = super().execute(statement, *values)
        # Whoever measures coverage writes into a database, too.
        if statement.startswith("INSERT INTO Sample"):
            for name in ("synchronous", "journal_mode"):
                print(name, *super().execute(f"PRAGMA {name}").fetchone())
            os.kill(os.getpid(), signal.SIGTERM)
        return done

connect = sqlite3.connect
sqlite3.connect = lambda *names, **options: connect(*names, factory=Connection, **options)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_each_row_is_on_the_disk_before_it_is_reported(tmp_path: Path) -> None:
    """FULL is 2; with NORMAL, 1, a power cut takes rows that were reported."""
    database = tmp_path / "sample.db"
    done = subprocess.run(
        [sys.executable, "-I", "-c", SPY, WRITER, database, "0.01"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.splitlines() == ["synchronous 2", "journal_mode wal"]
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT count(*) FROM Sample").fetchone() == (1,)
    connection.close()
