"""`edge-rotator status`: one screen for people, JSON and an exit code for monitoring."""

from __future__ import annotations

import json
import math
import os
import textwrap
from typing import Any

from edge_rotator import __version__, delivery, litestream, lock, rotation, schedule, systemd, token
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import Clock, format_iso, read_clock
from edge_rotator.config import Config
from edge_rotator.errors import KINDS, STATUS, RotatorError, plain
from edge_rotator.state import LastError, State

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
LEVELS = ("ok", "warning", "critical", "unknown")
CERTIFICATE_WARNING = 30 * 86400.0  # s; less for a certificate that never had three times that
CLOCK_SLACK = 60.0  # s that the clock may be behind the configuration's own date
WIDTH = 80
MOST_PROBLEMS = 5
MOST_DATABASES = 3
RESTART_GRACE = 30.0  # s; a restart takes one, and longer where a last sync has to be waited for
ROOM = 1048576  # bytes; less is too little for the rotator's own files
DATABASE_ROOM = 33554432  # bytes; less is too little for a database, or for what waits to be uploaded
INODES = 100
TICKS = {  # class and whether it ticks: the problem
    ("timer_stopped", False): "the timer does not tick; nothing is tried until it does",
    ("timer_stopped", True): "the timer is not enabled; a reboot ends its ticks",
    ("unit_broken", False): "systemd cannot start the rotator; nothing is tried until it can",
}


def span(seconds: float) -> str:
    """Render a duration for people: `45 s`, `12 min`, `5 h 20 min`, `29 d`."""
    whole = int(abs(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d"


def _under_way(state: State, clock: Clock) -> bool:
    """Whether a rotation is under way, which looks like one that was interrupted."""
    failure = state.failure
    return bool(failure and failure.kind == "interrupted" and 0 <= clock.boot - failure.boot < lock.LIMIT)


def _error(state: State, clock: Clock, pending: bool, stuck: str) -> dict[str, Any] | None:
    last, failure = state.last_error, state.failure
    if _under_way(state, clock):
        failure = state.before
    # What the next attempt waits for goes before what came after it, such as a restart that failed too.
    if failure:
        last = LastError(failure.kind, failure.detail, failure.wall)
    if stuck:  # before all: it keeps anything else from being tried
        last = LastError("lock_stuck", stuck, clock.wall)
    if not last:
        return None
    kind = KINDS[last.kind]
    current = (
        failure is not None
        or bool(stuck)
        or (kind.name == "restart_failed" and pending)
        or (kind.name == "clock_wrong" and abs(state.clock_skew) > delivery.CLOCK_TOLERANCE)
    )
    return {
        "class": kind.name,
        "exit_code": kind.exit_code,
        "detail": last.detail,
        "fix": kind.advice if current else kind.fix,
        "at": format_iso(last.wall),
        "age_s": max(0.0, clock.wall - last.wall),
        "current": current,
    }


def _next(config: Config, state: State, clock: Clock) -> tuple[float, str]:
    """Seconds until the next run, and what it waits for or will do."""
    entry = schedule.read_next(config.directory)
    if entry is None or entry.due(clock.boot):
        return 0.0, rotation.decide(config, state, entry, clock)[1]
    if schedule.latched(state, config.pin_file):
        reason = "pin_latched"
    else:
        reason = "backoff" if state.failure else "fresh"
    return entry.at - clock.boot, reason


def _wait(state: State, clock: Clock, reason: str) -> str:
    """Say for people why the next attempt waits, and who wants it to."""
    if reason != "backoff" or not state.failure:
        return reason
    if _under_way(state, clock):
        return "unless the one under way succeeds"
    asked = state.failure.retry_after
    by = "" if asked is None else f"; the provider asked for {asked:.0f} s, Retry-After"
    return f"backoff after {state.failure.kind}{by}"


def _databases(config: Config, answer: litestream.Answer, why: str) -> dict[str, Any]:
    known = answer.databases
    problems = {} if why else litestream.problems(config, answer)
    return {
        "socket": config.litestream_socket,
        "error": why or None,
        "version": answer.version or None,
        "limit_s": litestream.limit(config),
        # What the application writes now is replicated all the same: no reason against `ok`.
        "behind": {name: format_iso(at) for name, at in answer.behind.items()},
        "databases": {
            path: {
                "age_s": known[path].age if path in known else None,
                "known": path in known,
                "problem": problems.get(path),
            }
            for path in {**known, **problems}
        },
    }


def _rooms(config: Config, answer: litestream.Answer) -> dict[str, str]:
    """Directories without room for what is written there, and what they lack."""
    rooms = {path: (room, inodes, DATABASE_ROOM) for path, (room, inodes) in answer.rooms.items()}
    for path in (config.directory, config.state_directory):
        try:
            found = os.statvfs(path)
        except OSError:
            continue  # a rotation tells
        rooms[path] = found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None, ROOM
    lacks = {}
    for path, (room, inodes, least) in rooms.items():
        if room < least:
            lacks[path] = f"{room / 1048576:.1f} MiB left"
        elif inodes is not None and inodes < INODES:
            lacks[path] = f"{inodes} inodes left"
    return lacks


def _certificate(config: Config, clock: Clock) -> dict[str, Any]:
    try:
        start, end = token.certificate_validity(config.certificate_file)
    except RotatorError as error:
        return {"error": error.detail}
    return {
        "expires": format_iso(end),
        "remaining_s": end - clock.wall,
        "warning_s": min(CERTIFICATE_WARNING, (end - start) / 3),
        "not_yet_valid": clock.wall < start,
    }


def collect(config: Config, state: State, clock: Clock) -> dict[str, Any]:
    """Gather all that is known, without touching the token or the network."""
    success = state.success
    present = os.path.exists(config.credentials_file)
    wait, reason = _next(config, state, clock)
    pending = rotation.restart_pending(config, state, clock)
    ticks = systemd.ticks()
    restarted = None
    if success and present and clock.boot >= success.boot and config.mode == "environment":
        restarted = clock.boot - success.boot
    installed = os.stat(config.path).st_mtime
    answer, why = litestream.look(config.litestream_socket)
    report: dict[str, Any] = {
        "version": __version__,
        "thing": config.thing_name,
        "endpoint": config.endpoint,
        "role_alias": config.role_alias,
        "mode": config.mode,
        "credentials": {
            "file": config.credentials_file,
            "remaining_s": state.remaining(clock, config.credentials_file),
        },
        "last_rotation": format_iso(success.wall) if success else None,
        "next_attempt_in_s": wait,
        "next_reason": reason,
        "next_waits": _wait(state, clock, reason),
        "timer": {**ticks._asdict(), "fix": KINDS[ticks.error].fix if ticks.error else None},
        "last_error": _error(state, clock, pending, lock.stuck(config)),
        "pin_latched": schedule.latched(state, config.pin_file),
        "restart_pending": pending,
        "restarted_s_ago": restarted,
        "now": format_iso(clock.wall),
        "clock_set": clock.wall >= installed - CLOCK_SLACK,
        "clock_skew_s": -state.clock_skew,
        "attempts": state.attempts,
        "replication": _databases(config, answer, why),
        "no_room": _rooms(config, answer),
        "certificate": _certificate(config, clock),
        "token": {
            "backend": config.backend,
            "module": config.module,
            "label": config.label,
            "key_label": config.key_label,
            "key_file": config.key_file if config.backend == "file" else None,
            "pin": config.backend != "file" and bool(config.pin_file),
        },
    }
    level, problems = judge(report)
    report["level"] = LEVELS[level]
    report["exit_code"] = level
    report["problems"] = problems
    return report


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Weigh a report: the level, and what speaks against `ok`."""
    found: list[tuple[int, str]] = []
    if report["credentials"]["remaining_s"] <= 0:
        found.append((CRITICAL, "no valid credentials"))
    if report["pin_latched"]:
        found.append((CRITICAL, "the token refused the PIN; nothing is tried until it changes"))
    ticks = report["timer"]
    if not ticks["known"]:
        found.append((WARNING, "systemd does not say whether the timer ticks"))
    elif ticks["error"]:
        found.append((WARNING if ticks["runs"] else CRITICAL, TICKS[ticks["error"], ticks["runs"]]))
    error = report["last_error"]
    skewed = abs(report["clock_skew_s"]) > delivery.CLOCK_TOLERANCE
    # Of these two the credentials are good; they have lines of their own.
    told = error and (error["class"] == "restart_failed" or (error["class"] == "clock_wrong" and skewed))
    if error and error["class"] == "lock_stuck" and error["current"]:
        found.append((CRITICAL, "the lock is held and not let go; nothing is tried until it is"))
    elif error and error["current"] and not told:
        found.append((WARNING, f"the last attempt failed: {error['class']}"))
    if report["restart_pending"] and not _restarting(report):
        found.append((WARNING, "Litestream has yet to be restarted"))
    if not report["clock_set"]:
        found.append((WARNING, f"the clock is not set: it says {report['now']}"))
    if skewed:
        found.append((WARNING, f"the clock was {report['clock_skew_s']:+.0f} s off"))
    remaining = report["certificate"].get("remaining_s")
    if remaining is None:
        found.append((WARNING, "the certificate cannot be read"))
    elif report["certificate"]["not_yet_valid"]:
        found.append((WARNING, "the certificate is not valid yet: the clock is wrong"))
    elif remaining < report["certificate"]["warning_s"]:
        level = CRITICAL if remaining <= 0 else WARNING
        found.append((level, "the certificate has expired or soon will"))
    found += [(WARNING, f"hardly any room in {path}: {lack}") for path, lack in report["no_room"].items()]
    found += [(WARNING, text) for text in _replication_problems(report)]
    return max((level for level, _ in found), default=OK), [text for _, text in found]


def _restarting(report: dict[str, Any]) -> bool:
    """Whether the restart that follows a rotation is under way."""
    since, error = report["restarted_s_ago"], report["last_error"]
    if not report["restart_pending"] or since is None or since >= RESTART_GRACE:
        return False
    return not (error and error["class"] == "restart_failed" and error["age_s"] <= since)


def _replication_problems(report: dict[str, Any]) -> list[str]:
    """List what speaks against the replica."""
    replica = report["replication"]
    if replica["error"]:
        return ["Litestream does not answer"] if replica["socket"] and not _restarting(report) else []
    return [f"{path} {each['problem']}" for path, each in replica["databases"].items() if each["problem"]]


def _lateness(database: dict[str, Any]) -> float:
    return math.inf if database["age_s"] is None else float(database["age_s"])


def _replicated(database: dict[str, Any]) -> str:
    if database["age_s"] is None:
        return "never synced"
    # Litestream goes on to sync what it had before it could not read the database any more.
    return f"{'last ' if database['problem'] else ''}synced {span(database['age_s'])} ago"


def _replicas(report: dict[str, Any]) -> list[str]:
    """List the databases, those longest without a sync first."""
    if report["replication"]["error"]:
        return [f"unknown: {report['replication']['error']}"]
    databases = report["replication"]["databases"]
    order = sorted(databases, key=lambda path: -_lateness(databases[path]))
    rows = [f"{path}: {_replicated(databases[path])}" for path in order]
    if len(rows) > MOST_DATABASES:
        rows[MOST_DATABASES - 1 :] = [f"and {len(rows) - MOST_DATABASES + 1} more, synced later than these"]
    behind = [f"{name} at {at}" for name, at in report["replication"]["behind"].items()]
    if behind:
        rows.append(f"was ahead of {', '.join(behind)}: rows that the device lost may be in its past")
    return rows or ["Litestream has no database"]


def _schedule(report: dict[str, Any]) -> str:
    """When the next attempt is, if there is one, and when the last tick was."""
    ago, wait = report["timer"]["ago"], report["next_attempt_in_s"]
    last = "unknown" if ago is None else f"{span(ago)} ago"
    if not report["timer"]["runs"]:
        return f"none until the timer ticks again, last tick {last}"
    if report["next_reason"] == "pin_latched":
        return f"none until the PIN file changes, last tick {last}"
    when = f"in {span(wait)} ({report['next_waits']})" if wait else "at the next tick"
    return f"{when}, last tick {last}"


def render(report: dict[str, Any]) -> str:
    """Write the report for people: at most 80 by 24 characters, or more for a fix that needs it."""
    left = report["credentials"]["remaining_s"]
    problems = report["problems"]
    if len(problems) > MOST_PROBLEMS:
        problems = [*problems[: MOST_PROBLEMS - 1], f"and {len(problems) - MOST_PROBLEMS + 1} more (--json)"]
    rows = [
        ("status", report["level"]),
        *(("", text) for text in problems),
        ("thing", f"{report['thing']}, {report['mode']} mode"),
        ("provider", f"{report['endpoint']}, role alias {report['role_alias']}"),
        ("credentials", f"last {span(left)} more" if left > 0 else "none that are valid"),
        ("last rotation", report["last_rotation"] or "never"),
        ("next attempt", _schedule(report)),
    ]
    if report["timer"]["error"]:
        rows += [("timer", report["timer"]["detail"]), ("  its fix", report["timer"]["fix"])]
    error = report["last_error"]
    if error:
        when = "now" if error["current"] else f"fixed since, {span(error['age_s'])} ago"
        rows += [
            ("last error", f"{error['class']} ({when}) {error['detail']}"),
            ("  its fix", error["fix"]),
        ]
    rows += [("replica" if not n else "", text) for n, text in enumerate(_replicas(report))]
    certificate, token_ = report["certificate"], report["token"]
    until = certificate.get("error") or (
        f"until {certificate['expires']}, {span(certificate['remaining_s'])} "
        + ("more" if certificate["remaining_s"] > 0 else "ago")
    )
    key = f"{token_['label']}, key {token_['key_label']}, {'with' if token_['pin'] else 'no'} PIN"
    rows += [
        ("certificate", until),
        ("clock", f"{report['now']}, {report['clock_skew_s']:+.0f} s against the provider's"),
        ("token", f"{token_['key_file'] or key}, by {token_['backend']}"),
    ]
    lines = []
    for name, text in rows:
        # A command that is cut is none.
        most = None if name == "  its fix" else 2
        parts = textwrap.wrap(
            plain(text), WIDTH - 14, max_lines=most, placeholder=" …", break_on_hyphens=False
        ) or [""]
        lines += [f"{name if not n else '':14}{part}" for n, part in enumerate(parts)]
    return "\n".join(lines) + "\n"


def run(path: str, as_json: bool) -> int:
    """Print the report; return 0 ok, 1 warning, 2 critical, 3 unknown."""
    try:
        config = configuration.as_user(path)
        # What cannot be read must not look like a device without credentials.
        if not os.access(config.state_directory, os.R_OK | os.X_OK):
            raise RotatorError("state_failed", f"cannot read {config.state_directory}: run `{STATUS}`")
    except RotatorError as error:
        unknown = {"level": "unknown", "exit_code": UNKNOWN, "problems": [error.detail]}
        print(json.dumps(unknown, indent=2) if as_json else f"status        unknown\n{error.detail}")
        return UNKNOWN
    report = collect(config, states.load(config.state_directory), read_clock())
    print(json.dumps(report, indent=2) if as_json else render(report), end="\n" if as_json else "")
    return int(report["exit_code"])
