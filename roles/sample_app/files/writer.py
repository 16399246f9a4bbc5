"""Write a row into table Sample every few seconds, over one connection that stays open.

An application that opens and closes per write makes Litestream upload the whole database at each restart.
"""

import os
import signal
import sqlite3
import sys
import threading


def main(path: str, interval_s: float) -> None:
    """Write until SIGTERM or SIGINT, then close cleanly."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # SQLite itself would create it 0640, and Litestream could not write it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o660))
    # busy_timeout: Litestream holds the write lock for moments while it checkpoints.
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a power cut loses no row that was reported as written
    connection.execute(
        "CREATE TABLE IF NOT EXISTS Sample"
        " (id INTEGER PRIMARY KEY, created_at TEXT DEFAULT CURRENT_TIMESTAMP)"
    )
    while not stop.is_set():
        connection.execute("INSERT INTO Sample DEFAULT VALUES")
        stop.wait(interval_s)
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
