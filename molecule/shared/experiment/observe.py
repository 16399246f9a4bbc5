"""What can be seen of a device and of the cloud, over ssh."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab.settings import paths

DATABASE = "/var/lib/sample-app/sample.db"
CLOUD = "cloud01"
# systemd's catalogue: "Subject: A start job for unit UNIT has finished successfully".
UNIT_STARTED = "39f53479d3a045ac8e11786248231fbf"
_ROWS = (
    "import sqlite3,sys;"
    "c=sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',uri=True);"
    "print(c.execute('PRAGMA integrity_check').fetchone()[0]);"
    "[print(*row,sep='|') for row in c.execute('SELECT id,created_at FROM Sample ORDER BY id')]"
)


class CommandError(Exception):
    """A command on a machine failed; says which, where, and its last words."""


def run(host: str, command: str | Sequence[str], check: bool = True, timeout_s: float = 120) -> str:
    """Run a command on a machine as the admin user; a text goes through the shell.

    Raises CommandError where it fails and `check` is set.
    """
    text = command if isinstance(command, str) else shlex.join(command)
    done = subprocess.run(
        ["ssh", "-F", str(paths().ssh_config), host, text],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise CommandError(f"{host}: {text!r} ended with {done.returncode}: " + " / ".join(words))
    return done.stdout


def now(host: str) -> float:
    """Seconds since 1970 by the machine's clock."""
    return float(run(host, "date +%s.%N"))


def mode(host: str) -> str:
    """Tell how a device hands credentials over."""
    return run(host, "sudo sed -n 's/^mode = //p' /etc/edge-rotator/config.toml").strip().strip('"')


@dataclass
class Event:
    """One line of the rotator: its time and its fields."""

    at: float
    fields: dict[str, str]


def events(host: str, name: str, since: float) -> list[Event]:
    """Events of that name since a time, oldest first."""
    units = "-u edge-rotator.service -u edge-rotator-force.service"
    found = []
    for entry in _journal(host, f"{units} -t edge-rotator", since):
        fields = dict(part.partition("=")[::2] for part in shlex.split(str(entry["MESSAGE"])))
        if fields.get("event") == name:
            found.append(Event(int(str(entry["__REALTIME_TIMESTAMP"])) / 1e6, fields))
    return found


def starts(host: str, unit: str, since: float) -> list[float]:
    """When a unit was started since a time, by systemd's own entries."""
    entries = _journal(host, f"MESSAGE_ID={UNIT_STARTED} UNIT={unit}", since)
    return [int(str(entry["__REALTIME_TIMESTAMP"])) / 1e6 for entry in entries]


def starts_between_rotations(host: str, unit: str, since: float) -> list[int]:
    """How often a unit was started after each rotation since a time and before the next one.

    What follows the last rotation is not told: it may still be under way.
    """
    rotated = [event.at for event in events(host, "rotated", since)]
    started = starts(host, unit, since)
    return [sum(earlier <= at < later for at in started) for earlier, later in itertools.pairwise(rotated)]


def _journal(host: str, match: str, since: float) -> list[dict[str, object]]:
    text = run(host, f"sudo journalctl -o json --no-pager --since=@{since:.6f} {match}")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@dataclass
class Request:
    """One request S3 saw."""

    at: float
    method: str
    key: str
    status: int
    error: str
    access_key: str
    bytes_in: int = 0
    query: str = ""
    bytes_out: int = 0


def s3_requests(thing: str, since: float) -> list[Request]:
    """List requests of a thing since a time, oldest first, by the S3 gate's log."""
    text = run(CLOUD, f"sudo cloudctl log gate --thing {thing} --since {since * 1000:.0f}")
    return [
        Request(
            line["at_ms"] / 1000,
            line.get("method") or "",
            line.get("key") or "",
            int(line.get("status") or 0),
            line.get("error") or "",
            line.get("access_key") or "",
            int(line.get("bytes_in") or 0),
            line.get("query") or "",
            int(line.get("bytes_out") or 0),
        )
        for line in map(json.loads, text.splitlines())
    ]


def uploads(requests: list[Request]) -> list[float]:
    """List the times of uploads that succeeded."""
    return [request.at for request in requests if request.method == "PUT" and request.status == 200]


def refused(requests: list[Request]) -> list[Request]:
    """List requests refused for their credentials."""
    return [request for request in requests if request.status in (400, 401, 403)]


def probe(thing: str, access_key: str, prefix: str = "") -> tuple[int, str]:
    """Use a key a thing was issued, as a thief would; return S3's status and error code."""
    command = ["sudo", "cloudctl", "probe", thing, "--key", access_key, "--prefix", prefix or thing]
    answer = json.loads(run(CLOUD, command))
    return int(answer["status"]), str(answer["error"] or "")


def largest_gap(times: list[float]) -> float:
    """Longest time between two neighbours, in seconds; 0 for fewer than two."""
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


@dataclass
class Rows:
    """Content of a database: SQLite's own check, and `id|created_at` per row."""

    integrity: str
    rows: list[str]


def rows(host: str, path: str) -> Rows:
    """Read table Sample of a database on a machine."""
    lines = run(host, ["sudo", "python3", "-I", "-c", _ROWS, path]).splitlines()
    return Rows(lines[0], lines[1:])


def finish_replication(host: str) -> None:
    """Stop the writer, and wait until Litestream says that everything is in S3."""
    run(host, "sudo systemctl stop sample-app.service")
    if run(host, "litestream version").startswith("v0.3"):
        # Nothing can be asked of it; its last sync is part of its orderly end.
        run(host, "sudo systemctl restart litestream.service")
        return
    socket = "/run/litestream/litestream.sock"
    deadline = time.monotonic() + 60
    while True:
        try:
            run(host, f"sudo litestream sync -wait -timeout 20 -socket {socket} {DATABASE}")
            return
        except CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


# Seconds: unlike S3, the stand-in may list a directory as it was up to 2 s ago.
_LISTING_AGE = 2.5


def restore(thing: str) -> Rows:
    """Restore a thing's replica on the cloud machine with a key of its own, and read it."""
    path = f"/tmp/restored-{thing}.db"
    time.sleep(_LISTING_AGE)
    run(CLOUD, f"sudo rm -f {path} {path}-*")
    run(CLOUD, f"sudo cloudctl restore {thing}/sample.db {path}")
    return rows(CLOUD, path)
