"""What the stand-in for AWS knows: role aliases, certificates, issued keys, active faults.

One SQLite file, shared by the provider (which issues), the gate (which checks) and cloudctl
(which changes the world under both). Every method is one short transaction.
"""

import base64
import json
import secrets
import sqlite3
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, astuple, dataclass, replace
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
    thing TEXT, alias TEXT, serial TEXT, issued_ms INTEGER NOT NULL, expires_s INTEGER,
    iam_role TEXT);
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
    # The control plane's role whose session this is; None for a key of which only the ledger knows.
    iam_role: str | None = None

    def __repr__(self) -> str:
        """Name the key without its secrets."""
        return f"Key({self.access_key}, thing={self.thing})"

    def public(self) -> dict[str, Any]:
        """Return all that may be printed and logged."""
        return {
            name: value for name, value in asdict(self).items() if name not in {"secret", "token", "role"}
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
    """The shared state; safe to use from several processes."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")

    def _value(self, query: str, *values: object) -> Any:
        """Return the first column of the first row; None when there is no row."""
        row = self._db.execute(query, values).fetchone()
        return row[0] if row else None

    def _keys(self, where: str, *values: object) -> list[Key]:
        rows = self._db.execute(f"SELECT * FROM key WHERE {where} ORDER BY issued_ms", values)  # noqa: S608
        return [Key(*row) for row in rows]

    def create(self, alias: str, lifetime_s: int) -> None:
        """Make the tables, a first role alias and the auditor's key, whichever are missing."""
        self._db.executescript(_SCHEMA)
        # SQLite makes it 0644 at most, and its -wal and -shm like the database.
        self._path.chmod(0o660)
        self._db.execute("INSERT OR IGNORE INTO alias VALUES (?, ?)", (alias, lifetime_s))
        if self.auditor() is None:
            self._insert(_new_key(AUDITOR, self.now()))

    # Time

    def now(self) -> float:
        """Return AWS's idea of the time, in seconds; `set_clock` moves it."""
        return time.time() + (self._value("SELECT value FROM setting WHERE name = 'clock_s'") or 0.0)

    def set_clock(self, offset_s: float) -> None:
        """Let AWS's clock differ from the machine's, as if every device's clock were wrong."""
        self._db.execute("INSERT OR REPLACE INTO setting VALUES ('clock_s', ?)", (offset_s,))

    # Role aliases

    def lifetime(self, alias: str) -> int | None:
        """Return how long an alias's credentials live, in seconds; None if there is no such."""
        found: int | None = self._value("SELECT lifetime_s FROM alias WHERE name = ?", alias)
        return found

    def set_lifetime(self, alias: str, lifetime_s: int) -> None:
        """Set an alias's life time, making the alias if need be."""
        self._db.execute("INSERT OR REPLACE INTO alias VALUES (?, ?)", (alias, lifetime_s))

    def aliases(self) -> dict[str, int]:
        """Return all aliases with their life times in seconds."""
        return dict(self._db.execute("SELECT name, lifetime_s FROM alias ORDER BY name"))

    # Things and certificates

    def knows(self, serial: str) -> bool:
        """Tell whether a certificate was seen or revoked here before."""
        return self._value("SELECT 1 FROM certificate WHERE serial = ?", serial) is not None

    def certificate_active(self, serial: str, thing: str | None) -> bool:
        """Tell whether a certificate may be used; one never seen is registered as active."""
        self._db.execute("INSERT OR IGNORE INTO certificate (serial, thing) VALUES (?, ?)", (serial, thing))
        return bool(self._value("SELECT active FROM certificate WHERE serial = ?", serial))

    def set_certificates(self, thing: str, active: bool, serial: str | None = None) -> int:
        """Revoke or restore a thing's certificates, or the one with `serial`; how many it were."""
        if serial is not None:
            self._db.execute("INSERT OR REPLACE INTO certificate VALUES (?, ?, ?)", (serial, thing, active))
            return 1
        change = "UPDATE certificate SET active = ? WHERE thing = ?"
        return self._db.execute(change, (active, thing)).rowcount

    def certificates(self) -> list[dict[str, Any]]:
        """Return every certificate ever seen."""
        rows = self._db.execute("SELECT serial, thing, active FROM certificate ORDER BY rowid")
        return [{"serial": s, "thing": t, "active": bool(a)} for s, t, a in rows]

    def set_attached(self, thing: str, attached: bool) -> None:
        """Attach a thing to the certificates that bear its name, or detach it."""
        if attached:
            self._db.execute("DELETE FROM detached WHERE thing = ?", (thing,))
        else:
            self._db.execute("INSERT OR IGNORE INTO detached VALUES (?)", (thing,))

    def attached(self, thing: str) -> bool:
        """Tell whether a thing is attached."""
        return self._value("SELECT 1 FROM detached WHERE thing = ?", thing) is None

    # Keys

    def issue(
        self, thing: str | None, alias: str, serial: str, lifetime_s: int, iam_role: str | None = None
    ) -> Key:
        """Issue credentials to a device and remember them."""
        now = self.now()
        key = _new_key(DEVICE, now, _random(600), thing, alias, serial, int(now) + lifetime_s)
        key = replace(key, iam_role=iam_role)
        self._insert(key)
        return key

    def _insert(self, key: Key) -> None:
        self._db.execute("INSERT INTO key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(key))

    def key(self, access_key: str) -> Key | None:
        """Look a key up; None when it was never issued."""
        return next(iter(self._keys("access_key = ?", access_key)), None)

    def issued(self, thing: str) -> list[Key]:
        """Return all that a thing was issued, oldest first."""
        return self._keys("thing = ?", thing)

    def auditor(self) -> Key | None:
        """Return the long-lived key that may read the whole bucket."""
        return next(iter(self._keys("role = ?", AUDITOR)), None)

    def expire(self, thing: str) -> int:
        """Let a thing's live credentials expire now; how many there were."""
        now = int(self.now())
        expire = "UPDATE key SET expires_s = ? WHERE thing = ? AND expires_s > ?"
        return self._db.execute(expire, (now, thing, now)).rowcount

    # Faults

    def add_fault(self, name: str, options: dict[str, Any], thing: str | None, times: int | None) -> None:
        """Let a fault happen from now on: `times` times, or until healed."""
        spec = json.dumps({"name": name, **options})
        self._db.execute("INSERT INTO fault (spec, thing, remaining) VALUES (?, ?, ?)", (spec, thing, times))

    def clear_faults(self) -> None:
        """Heal every fault."""
        self._db.execute("DELETE FROM fault")

    def faults(self) -> list[Fault]:
        """Return the active faults, oldest first."""
        rows = self._db.execute("SELECT id, spec, thing, remaining FROM fault ORDER BY id")
        return [_fault(*row) for row in rows]

    def take_faults(
        self,
        names: Iterable[str],
        thing: str | None,
        fits: Callable[[dict[str, Any]], bool] = lambda _options: True,
    ) -> list[Fault]:
        """Return the active faults of these names that concern a thing and fit, and count them down."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            hits = [
                f
                for f in self.faults()
                if f.name in set(names) and f.thing in {None, thing} and fits(f.options)
            ]
            for fault in hits:
                self._db.execute("UPDATE fault SET remaining = remaining - 1 WHERE id = ?", (fault.number,))
            self._db.execute("DELETE FROM fault WHERE remaining <= 0")
        finally:
            self._db.execute("COMMIT")
        return hits


def _fault(number: int, spec: str, thing: str | None, remaining: int | None) -> Fault:
    options = json.loads(spec)
    return Fault(number, options.pop("name"), options, thing, remaining)


def _new_key(
    role: str,
    now: float,
    token: str | None = None,
    thing: str | None = None,
    alias: str | None = None,
    serial: str | None = None,
    expires_s: int | None = None,
) -> Key:
    """Make credentials that look like AWS's: ASIA… and a token for those that expire."""
    letters = string.ascii_uppercase + "234567"
    access_key = ("ASIA" if token else "AKIA") + "".join(secrets.choice(letters) for _ in range(16))
    return Key(access_key, _random(30), token, role, thing, alias, serial, int(now * 1000), expires_s)


def _random(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()
