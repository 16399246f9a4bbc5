"""Metrics for node_exporter's textfile collector: one file, replaced whole, readable by all.

Everything that has an age is a timestamp, so that the file is right between two refreshes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_rotator import __version__, files, lock, replication, rotation, schedule, systemd, timer, token
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import Clock, read_clock
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError
from edge_rotator.state import State

LABEL_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


@dataclass
class Metric:
    """One metric; without samples it is left out."""

    name: str
    kind: str
    text: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """Add a sample."""
        self.samples.append((labels, float(value)))

    def render(self) -> str:
        """Write it in the text format."""
        if not self.samples:
            return ""
        lines = [
            f"# HELP edge_rotator_{self.name} {self.text}",
            f"# TYPE edge_rotator_{self.name} {self.kind}",
        ]
        for labels, value in self.samples:
            inner = ",".join(f'{key}="{text.translate(LABEL_ESCAPES)}"' for key, text in labels.items())
            # Whole seconds are exact enough, and 17 digits are not read any better.
            lines.append(f"edge_rotator_{self.name}{'{' + inner + '}' if inner else ''} {value:.3f}")
        return "\n".join(lines) + "\n"


def _table() -> dict[str, Metric]:
    """All metrics, yet without samples."""
    return {
        name: Metric(name, kind, text)
        for name, kind, text in (
            ("build_info", "gauge", "What is installed and how it works; always 1."),
            ("updated_timestamp_seconds", "gauge", "When this file was written."),
            (
                "credentials_expiry_timestamp_seconds",
                "gauge",
                "When the credentials handed to Litestream expire; 0 if there never were any.",
            ),
            (
                "last_success_timestamp_seconds",
                "gauge",
                "When credentials were last fetched and handed over; 0 if never.",
            ),
            (
                "attempts_total",
                "counter",
                "Attempts by what became of them: rotated, or the class of the error.",
            ),
            ("failing", "gauge", "1 while the last attempt failed."),
            ("pin_latched", "gauge", "1 while nothing is tried because the token refused the PIN."),
            ("lock_stuck", "gauge", "1 while a process holds the lock for longer than any run takes."),
            ("timer_up", "gauge", "1 if systemd says that the rotator's timer ticks and its unit can start."),
            (
                "restart_pending",
                "gauge",
                "1 while Litestream has yet to be restarted with the present credentials.",
            ),
            ("clock_skew_seconds", "gauge", "Our clock minus the provider's at its last answer."),
            ("certificate_expiry_timestamp_seconds", "gauge", "When the device's certificate expires."),
            (
                "certificate_validity_seconds",
                "gauge",
                "How long the device's certificate is valid from its first day to its last.",
            ),
            ("litestream_up", "gauge", "1 if Litestream answers."),
            (
                "litestream_restarts_total",
                "counter",
                "Times systemd started Litestream again, since it was last started on purpose.",
            ),
            (
                "replication_last_sync_timestamp_seconds",
                "gauge",
                "When Litestream last synced the database with its replica, by its own word; 0 if never.",
            ),
            (
                "replicated",
                "gauge",
                "1 if what an application wrote to the database a moment ago is in its replica.",
            ),
        )
    }


def _add_state(table: dict[str, Metric], config: Config, state: State, clock: Clock) -> None:
    success = state.success
    left = state.remaining(clock) if os.path.exists(config.credentials_file) else 0.0
    expiry = 0.0
    if left:
        expiry = clock.wall + left
    elif success:
        expiry = min(clock.wall, success.wall + success.usable)
    table["credentials_expiry_timestamp_seconds"].add(expiry)
    table["last_success_timestamp_seconds"].add(success.wall if success else 0.0)
    for outcome, count in sorted({"rotated": 0, **state.attempts}.items()):
        table["attempts_total"].add(count, **{"class": outcome})
    table["failing"].add(state.failure is not None)
    table["pin_latched"].add(schedule.latched(state, config.pin_file))
    table["lock_stuck"].add(bool(lock.stuck(config)))
    table["restart_pending"].add(rotation.restart_pending(config, state, clock))
    table["clock_skew_seconds"].add(-state.clock_skew)


def _add_certificate(table: dict[str, Metric], config: Config) -> None:
    """Add nothing if it cannot be read."""
    try:
        start, end = token.certificate_validity(config.certificate_file)
    except RotatorError:
        return
    table["certificate_expiry_timestamp_seconds"].add(end)
    table["certificate_validity_seconds"].add(end - start)


def _add_replication(table: dict[str, Metric], config: Config, clock: Clock) -> None:
    if not config.litestream_socket:
        return
    answer, why = replication.try_look(config.litestream_socket)
    table["litestream_up"].add(not why)
    restarts = systemd.restarts(config.service)
    if restarts is not None:
        table["litestream_restarts_total"].add(restarts)
    problems = replication.problems(config, answer)
    # Those it does not know were never synced either: without a sample no alert could miss them.
    for path in {**dict.fromkeys(replication.unknown(config, answer.databases)), **answer.databases}:
        age = answer.databases[path].age if path in answer.databases else None
        if not why:
            table["replication_last_sync_timestamp_seconds"].add(
                0.0 if age is None else clock.wall - age, db=path
            )
        table["replicated"].add(age is not None and path not in problems, db=path)


def render(metrics: Iterable[Metric]) -> str:
    """Write metrics in the text format."""
    return "".join(metric.render() for metric in metrics)


def collect(config: Config, state: State, clock: Clock) -> list[Metric]:
    """Gather all metrics, without touching the token or the network."""
    table = _table()
    table["build_info"].add(1, version=__version__, backend=config.backend, mode=config.mode)
    table["updated_timestamp_seconds"].add(clock.wall)
    _add_state(table, config, state, clock)
    ticks = timer.look()
    if ticks.known:
        table["timer_up"].add(ticks.runs)
    _add_certificate(table, config)
    _add_replication(table, config, clock)
    return list(table.values())


def run(path: str) -> int:
    """Replace the file. Raises `config_invalid` if none is named, `write_failed`."""
    config = configuration.load(path)
    if not config.metrics_file:
        raise RotatorError("config_invalid", f"{path}: service.metrics_file names no file")
    files.become(config.user)
    state = states.load(config.state_directory)
    data = render(collect(config, state, read_clock())).encode()
    try:
        # Not durable: after a power cut it is written again within a minute.
        files.write_atomic(config.metrics_file, data, 0o644, durable=False)
    except OSError as exc:
        raise RotatorError("write_failed", f"{config.metrics_file}: {exc.strerror}") from None
    return 0
