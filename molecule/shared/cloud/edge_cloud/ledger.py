"""What the stand-in for AWS knows: role aliases, certificates, issued keys, active faults.

One SQLite file, shared by the provider (which issues), the gate (which checks) and cloudctl
(which changes the world under both). Every method is one short transaction.
"""

import base64
import json
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value REAL NOT NULL);
CREATE TABLE IF NOT EXISTS alias (name TEXT PRIMARY KEY, lifetime_s INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS certificate
    (serial TEXT PRIMARY KEY, thing TEXT, active INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS detached (thing TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS key (
    access_key TEXT PRIMARY KEY, secret TEXT NOT NULL, token TEXT, role TEXT NOT NULL,
    thing TEXT, alias TEXT, serial TEXT, issued_ms INTEGER NOT NULL, expires_s INTEGER);
CREATE INDEX IF NOT EXISTS key_thing ON key (thing, issued_ms);
CREATE TABLE IF NOT EXISTS fault
    (id INTEGER PRIMARY KEY, spec TEXT NOT NULL, thing TEXT, remaining INTEGER);
"""

DEVICE = "device"
AUDITOR = "auditor"


@dataclass(frozen=True)
class Key:
    """One set of credentials; a long-lived one has neither token nor expiry."""

    access_key: str
    secret: str
    token: str | None
    role: str
    thing: str | None
    alias: str | None
    serial: str | None
    issued_ms: int
    expires_s: int | None

    def __repr__(self) -> str:
        """Name the key without its secrets."""
        return f"Key({self.access_key}, thing={self.thing})"

    def public(self) -> dict[str, Any]:
        """Return all that may be printed and logged."""
        return {
            "access_key": self.access_key,
            "thing": self.thing,
            "alias": self.alias,
            "serial": self.serial,
            "issued_ms": self.issued_ms,
            "expires_s": self.expires_s,
        }


@dataclass(frozen=True)
class Fault:
    """One fault that is to be injected: its name and its parameters."""

    number: int
    name: str
    options: dict[str, Any]
    thing: str | None
    remaining: int | None


class Ledger:
    """The shared state; safe to use from several threads and processes."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def _db(self) -> sqlite3.Connection:
        # One for all threads: SQLite keeps the files of closed connections open while others hold a lock.
        with self._lock:
            if self._connection is None:
                db = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = OFF")
                self._connection = db
            return self._connection

    def create(self, alias: str, lifetime_s: int) -> None:
        """Make the tables, a first role alias and the auditor's key, whichever are missing."""
        self._db().executescript(_SCHEMA)
        # SQLite makes it 0644 at most, and its -wal and -shm like the database.
        Path(self._path).chmod(0o660)
        self._db().execute("INSERT OR IGNORE INTO alias VALUES (?, ?)", (alias, lifetime_s))
        if self.auditor() is None:
            self._insert(_new_key(AUDITOR, self.now(), token=False))

    # Time

    def now(self) -> float:
        """Return AWS's idea of the time, in seconds; `set_clock` moves it."""
        row = self._db().execute("SELECT value FROM setting WHERE name = 'clock_s'").fetchone()
        return time.time() + (row[0] if row else 0.0)

    def set_clock(self, offset_s: float) -> None:
        """Let AWS's clock differ from the machine's, as if every device's clock were wrong."""
        self._db().execute("INSERT OR REPLACE INTO setting VALUES ('clock_s', ?)", (offset_s,))

    # Role aliases

    def lifetime(self, alias: str) -> int | None:
        """Return how long an alias's credentials live, in seconds; None if there is no such."""
        row = self._db().execute("SELECT lifetime_s FROM alias WHERE name = ?", (alias,)).fetchone()
        return int(row[0]) if row else None

    def set_lifetime(self, alias: str, lifetime_s: int) -> None:
        """Set an alias's life time, making the alias if need be."""
        self._db().execute("INSERT OR REPLACE INTO alias VALUES (?, ?)", (alias, lifetime_s))

    def aliases(self) -> dict[str, int]:
        """Return all aliases with their life times in seconds."""
        return dict(self._db().execute("SELECT name, lifetime_s FROM alias ORDER BY name"))

    # Things and certificates

    def certificate_active(self, serial: str, thing: str | None) -> bool:
        """Tell whether a certificate may be used; one never seen is registered as active."""
        self._db().execute("INSERT OR IGNORE INTO certificate (serial, thing) VALUES (?, ?)", (serial, thing))
        row = self._db().execute("SELECT active FROM certificate WHERE serial = ?", (serial,))
        return bool(row.fetchone()[0])

    def set_certificates(self, thing: str, active: bool, serial: str | None = None) -> int:
        """Revoke or restore a thing's certificates, or the one with `serial`; how many it were."""
        if serial is not None:
            self._db().execute("INSERT OR REPLACE INTO certificate VALUES (?, ?, ?)", (serial, thing, active))
            return 1
        return (
            self._db().execute("UPDATE certificate SET active = ? WHERE thing = ?", (active, thing)).rowcount
        )

    def certificates(self) -> list[dict[str, Any]]:
        """Return every certificate ever seen."""
        rows = self._db().execute("SELECT serial, thing, active FROM certificate ORDER BY rowid")
        return [{"serial": s, "thing": t, "active": bool(a)} for s, t, a in rows]

    def set_attached(self, thing: str, attached: bool) -> None:
        """Attach a thing to the certificates that bear its name, or detach it."""
        if attached:
            self._db().execute("DELETE FROM detached WHERE thing = ?", (thing,))
        else:
            self._db().execute("INSERT OR IGNORE INTO detached VALUES (?)", (thing,))

    def attached(self, thing: str) -> bool:
        """Tell whether a thing is attached."""
        row = self._db().execute("SELECT 1 FROM detached WHERE thing = ?", (thing,))
        return row.fetchone() is None

    # Keys

    def issue(self, thing: str | None, alias: str, serial: str, lifetime_s: int) -> Key:
        """Issue credentials to a device and remember them."""
        key = _new_key(
            DEVICE,
            self.now(),
            token=True,
            thing=thing,
            alias=alias,
            serial=serial,
            lifetime_s=lifetime_s,
        )
        self._insert(key)
        return key

    def _insert(self, key: Key) -> None:
        self._db().execute(
            "INSERT INTO key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(key.access_key, key.secret, key.token, key.role, key.thing, key.alias),
                *(key.serial, key.issued_ms, key.expires_s),
            ),
        )

    def key(self, access_key: str) -> Key | None:
        """Look a key up; None when it was never issued."""
        row = self._db().execute("SELECT * FROM key WHERE access_key = ?", (access_key,)).fetchone()
        return Key(*row) if row else None

    def issued(self, thing: str) -> list[Key]:
        """Return all that a thing was issued, oldest first."""
        rows = self._db().execute("SELECT * FROM key WHERE thing = ? ORDER BY issued_ms", (thing,))
        return [Key(*row) for row in rows]

    def auditor(self) -> Key | None:
        """Return the long-lived key that may read the whole bucket."""
        row = self._db().execute("SELECT * FROM key WHERE role = ?", (AUDITOR,)).fetchone()
        return Key(*row) if row else None

    def expire(self, thing: str) -> int:
        """Let a thing's live credentials expire now; how many there were."""
        now = int(self.now())
        return (
            self._db()
            .execute("UPDATE key SET expires_s = ? WHERE thing = ? AND expires_s > ?", (now, thing, now))
            .rowcount
        )

    # Faults

    def add_fault(self, name: str, options: dict[str, Any], thing: str | None, times: int | None) -> None:
        """Let a fault happen from now on: `times` times, or until healed."""
        spec = json.dumps({"name": name, **options})
        self._db().execute(
            "INSERT INTO fault (spec, thing, remaining) VALUES (?, ?, ?)", (spec, thing, times)
        )

    def clear_faults(self) -> None:
        """Heal every fault."""
        self._db().execute("DELETE FROM fault")

    def faults(self) -> list[Fault]:
        """Return the active faults, oldest first."""
        rows = self._db().execute("SELECT id, spec, thing, remaining FROM fault ORDER BY id")
        return [_fault(*row) for row in rows]

    def take_faults(self, names: Iterable[str], thing: str | None) -> list[Fault]:
        """Return the active faults of these names that concern a thing, and count them down."""
        wanted = set(names)
        with self._lock:
            db = self._db()
            db.execute("BEGIN IMMEDIATE")
            try:
                hits = [f for f in self.faults() if f.name in wanted and f.thing in {None, thing}]
                for fault in hits:
                    if fault.remaining == 1:
                        db.execute("DELETE FROM fault WHERE id = ?", (fault.number,))
                    elif fault.remaining is not None:
                        db.execute("UPDATE fault SET remaining = remaining - 1 WHERE id = ?", (fault.number,))
            finally:
                db.execute("COMMIT")
            return hits


def _fault(number: int, spec: str, thing: str | None, remaining: int | None) -> Fault:
    options = json.loads(spec)
    return Fault(number, options.pop("name"), options, thing, remaining)


def _new_key(
    role: str,
    now: float,
    *,
    token: bool,
    thing: str | None = None,
    alias: str | None = None,
    serial: str | None = None,
    lifetime_s: int | None = None,
) -> Key:
    """Make credentials that look like AWS's: ASIA… and a token for those that expire."""
    letters = string.ascii_uppercase + "234567"
    return Key(
        access_key=("ASIA" if token else "AKIA") + "".join(secrets.choice(letters) for _ in range(16)),
        secret=base64.b64encode(secrets.token_bytes(30)).decode(),
        token=base64.b64encode(secrets.token_bytes(600)).decode() if token else None,
        role=role,
        thing=thing,
        alias=alias,
        serial=serial,
        issued_ms=int(now * 1000),
        expires_s=None if lifetime_s is None else int(now) + lifetime_s,
    )
