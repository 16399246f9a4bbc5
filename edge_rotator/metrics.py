"""Metrics for node_exporter's textfile collector: one file, replaced whole, readable by all.

Everything that has an age is a timestamp, so that the file is right between two refreshes.
"""

from __future__ import annotations

import os

from edge_rotator import __version__, schedule, token
from edge_rotator.clock import read_clock
from edge_rotator.errors import RotatorError
from edge_rotator.files import write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edge_rotator.clock import Clock
    from edge_rotator.config import Config
    from edge_rotator.schedule import Facts
    from edge_rotator.state import State

REFRESH = 60.0  # s; a tick that has nothing else to do rewrites an older file

Samples = list[tuple[dict[str, str], float]]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, kind: str, text: str, samples: Samples) -> str:
    """Render one metric; nothing if there is nothing to tell."""
    if not samples:
        return ""
    lines = [f"# HELP edge_rotator_{name} {text}\n# TYPE edge_rotator_{name} {kind}\n"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escape(item)}"' for key, item in labels.items())
        # Whole seconds are exact enough, and 17 digits are not read any better.
        lines.append(f"edge_rotator_{name}{'{' + inner + '}' if inner else ''} {value:.3f}\n")
    return "".join(lines)


def _one(value: float) -> Samples:
    return [({}, float(value))]


def _replication(config: Config, clock: Clock) -> tuple[Samples, Samples]:
    """Last sync by database, and whether Litestream answered."""
    if not config.litestream_socket:
        return [], []
    from edge_rotator import replication

    ages, why = replication.try_ages(config.litestream_socket)
    if why:
        return [], _one(False)
    # Those it does not know were never synced either: without a sample no alert could miss them.
    found = {**dict.fromkeys(config.databases), **ages}
    synced = [({"db": path}, 0.0 if age is None else clock.wall - age) for path, age in found.items()]
    return synced, _one(True)


def _certificate(config: Config) -> tuple[Samples, Samples]:
    """When the certificate expires and how long it is valid in all; nothing if it cannot be read."""
    try:
        start, end = token.certificate_validity(config.certificate_file)
    except RotatorError:
        return [], []
    return _one(end), _one(end - start)


def render(config: Config, state: State, facts: Facts, clock: Clock) -> str:
    """Write all metrics in the text format."""
    success = state.success
    left = schedule.remaining(state, clock) if facts.credentials else 0.0
    expiry = 0.0
    if left:
        expiry = clock.wall + left
    elif success:
        expiry = min(clock.wall, success.wall + success.usable)
    synced, answers = _replication(config, clock)
    certificate_end, validity = _certificate(config)
    build = {"version": __version__, "backend": config.backend, "mode": config.mode}
    pending = schedule.restart_pending(state, facts, config.mode, clock)
    attempts = {"rotated": 0, **state.attempts}
    families: tuple[tuple[str, str, str, Samples], ...] = (
        ("build_info", "gauge", "What is installed and how it works; always 1.", [(build, 1.0)]),
        ("updated_timestamp_seconds", "gauge", "When this file was written.", _one(clock.wall)),
        (
            "credentials_expiry_timestamp_seconds",
            "gauge",
            "When the credentials handed to Litestream expire; 0 if there never were any.",
            _one(expiry),
        ),
        (
            "last_success_timestamp_seconds",
            "gauge",
            "When credentials were last fetched and handed over; 0 if never.",
            _one(success.wall if success else 0.0),
        ),
        (
            "attempts_total",
            "counter",
            "Attempts by what became of them: rotated, or the class of the error.",
            [({"class": key}, float(value)) for key, value in sorted(attempts.items())],
        ),
        ("failing", "gauge", "1 while the last attempt failed.", _one(state.failure is not None)),
        (
            "pin_latched",
            "gauge",
            "1 while nothing is tried because the token refused the PIN.",
            _one(schedule.latched(state, facts)),
        ),
        (
            "restart_pending",
            "gauge",
            "1 while Litestream has yet to be restarted with the present credentials.",
            _one(pending),
        ),
        (
            "clock_skew_seconds",
            "gauge",
            "Our clock minus the provider's at its last answer.",
            _one(-state.clock_skew),
        ),
        (
            "certificate_expiry_timestamp_seconds",
            "gauge",
            "When the device's certificate expires.",
            certificate_end,
        ),
        (
            "certificate_validity_seconds",
            "gauge",
            "How long the device's certificate is valid from its first day to its last.",
            validity,
        ),
        ("litestream_up", "gauge", "1 if Litestream answers on its control socket.", answers),
        (
            "replication_last_sync_timestamp_seconds",
            "gauge",
            "When Litestream last synced the database with its replica, by its own word; 0 if never.",
            synced,
        ),
    )
    return "".join(_family(*family) for family in families)


def write(config: Config, state: State, facts: Facts) -> None:
    """Replace the file, if one is configured. Raises `write_failed`."""
    if not config.metrics_file:
        return
    data = render(config, state, facts, read_clock()).encode()
    try:
        # Not durable: after a power cut the next tick writes it again.
        write_atomic(config.metrics_file, data, 0o644, durable=False)
    except OSError as exc:
        raise RotatorError("write_failed", f"{config.metrics_file}: {exc.strerror}") from None


def stale(config: Config) -> bool:
    """Whether the file is old enough to be written again, and ours to write."""
    if not config.metrics_file or (os.geteuid() == 0 and config.user != "root"):
        return False
    try:
        age = read_clock().wall - os.stat(config.metrics_file).st_mtime
    except OSError:
        return True
    return not 0 <= age < REFRESH
