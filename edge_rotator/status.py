"""`edge-rotator status`: one screen for people, JSON and an exit code for monitoring."""

from __future__ import annotations

import json
import os

from edge_rotator import replication, rotation, schedule, token
from edge_rotator.clock import Clock, format_iso, read_clock
from edge_rotator.errors import KINDS, RotatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from edge_rotator.config import Config
    from edge_rotator.schedule import Facts
    from edge_rotator.state import State

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
LEVELS = ("ok", "warning", "critical", "unknown")
CERTIFICATE_WARNING = 30 * 86400.0  # s
REPLICATION_WARNING = 300.0  # s; Litestream's longest back-off


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


def _error(state: State, clock: Clock) -> dict[str, Any] | None:
    last = state.last_error
    if not last:
        return None
    kind = KINDS[last["kind"]]
    return {
        "class": kind.name,
        "exit_code": kind.exit_code,
        "detail": last["detail"],
        "mend": kind.mend,
        "at": format_iso(last["wall"]),
        "age_s": max(0.0, clock.wall - last["wall"]),
        "current": state.failure is not None,
    }


def _certificate(config: Config, clock: Clock) -> dict[str, Any]:
    try:
        end = token.certificate_end(config.certificate_file)
    except RotatorError as error:
        return {"error": error.detail}
    return {"expires": format_iso(end), "remaining_s": end - clock.wall}


def collect(config: Config, state: State, facts: Facts, clock: Clock) -> dict[str, Any]:
    """Gather all that is known, without touching the token or the network."""
    decision = schedule.decide(state, facts, clock, config.mode)
    fresh, why = replication.try_ages(config.litestream_socket)
    success = state.success
    left = schedule.remaining(state, clock) if facts.credentials else 0.0
    report: dict[str, Any] = {
        "thing": config.thing_name,
        "endpoint": config.endpoint,
        "role_alias": config.role_alias,
        "mode": config.mode,
        "credentials": {"file": config.credentials_file, "remaining_s": left},
        "last_rotation": format_iso(success.wall) if success else None,
        "next_attempt_in_s": decision.wait,
        "next_reason": decision.reason,
        "last_error": _error(state, clock),
        "pin_latched": schedule.latched(state, facts),
        "restart_pending": schedule.restart_pending(state, facts, config.mode, clock),
        "clock_skew_s": -state.clock_skew,
        "attempts": state.attempts,
        "replication": {
            "error": why or None,
            "databases": {path: {"age_s": age} for path, age in fresh.items()},
        },
        "certificate": _certificate(config, clock),
        "token": {
            "backend": config.backend,
            "module": config.module,
            "label": config.label,
            "key_label": config.key_label,
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
    error = report["last_error"]
    if error and error["current"]:
        found.append((WARNING, f"the last attempt failed: {error['class']}"))
    if report["restart_pending"]:
        found.append((WARNING, "Litestream has yet to be restarted"))
    if abs(report["clock_skew_s"]) > rotation.CLOCK_TOLERANCE:
        found.append((WARNING, f"the clock was {report['clock_skew_s']:+.0f} s off"))
    remaining = report["certificate"].get("remaining_s")
    if remaining is None:
        found.append((WARNING, "the certificate cannot be read"))
    elif remaining < CERTIFICATE_WARNING:
        level = CRITICAL if remaining <= 0 else WARNING
        found.append((level, "the certificate has expired or soon will"))
    if report["replication"]["error"]:
        found.append((WARNING, "Litestream does not answer"))
    for path, database in report["replication"]["databases"].items():
        if database["age_s"] is None or database["age_s"] > REPLICATION_WARNING:
            found.append((WARNING, f"{path} has not been replicated lately"))
    return max((level for level, _ in found), default=OK), [text for _, text in found]


def render(report: dict[str, Any]) -> str:
    """Write the report for people, on one screen."""
    left = report["credentials"]["remaining_s"]
    wait = report["next_attempt_in_s"]
    rows = [
        ("status", report["level"] + "".join(f"\n{'':14}{text}" for text in report["problems"])),
        ("thing", f"{report['thing']}, {report['mode']} mode"),
        ("provider", f"{report['endpoint']}, role alias {report['role_alias']}"),
        ("credentials", f"last {span(left)} more" if left > 0 else "none that are valid"),
        ("last rotation", report["last_rotation"] or "never"),
        ("next attempt", f"in {span(wait)} ({report['next_reason']})" if wait else "at next tick"),
    ]
    error = report["last_error"]
    if error:
        when = "now" if error["current"] else f"mended since, {span(error['age_s'])} ago"
        rows += [
            ("last error", f"{error['class']} ({when}) {error['detail']}"),
            ("  its mend", error["mend"]),
        ]
    for path, database in report["replication"]["databases"].items():
        age = database["age_s"]
        rows.append(("replica", f"{path}: " + ("never" if age is None else f"{span(age)} ago")))
    if report["replication"]["error"]:
        rows.append(("replica", f"unknown: {report['replication']['error']}"))
    certificate = report["certificate"]
    rows += [
        ("certificate", certificate.get("error") or f"until {certificate['expires']}"),
        ("clock", f"{report['clock_skew_s']:+.0f} s against the provider's at the last answer"),
        ("token", f"{report['token']['label']} by {report['token']['backend']}"),
    ]
    return "\n".join(f"{name:14}{text}" for name, text in rows) + "\n"


def run(path: str, as_json: bool) -> int:
    """Print the report; return 0 ok, 1 warning, 2 critical, 3 unknown."""
    try:
        config, state = rotation.load(path)
        # What cannot be read must not look like a device without credentials.
        if not os.access(config.state_directory, os.R_OK | os.X_OK):
            raise RotatorError("state_failed", f"cannot read {config.state_directory}: run as root")
    except RotatorError as error:
        unknown = {"level": "unknown", "exit_code": UNKNOWN, "problems": [error.detail]}
        print(
            json.dumps(unknown, indent=2) if as_json else f"status        unknown\n{error.detail}"
        )
        return UNKNOWN
    report = collect(config, state, rotation.gather(config), read_clock())
    print(json.dumps(report, indent=2) if as_json else render(report), end="\n" if as_json else "")
    return int(report["exit_code"])
