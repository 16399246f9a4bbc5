"""Metrics for node_exporter's textfile collector: one file, replaced whole, readable by all.

Everything that has an age is a timestamp, so that the file is right between two refreshes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from edge_rotator import __version__, files, litestream, lock, rotation, schedule, systemd, token
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import Clock, read_clock
from edge_rotator.config import Config
from edge_rotator.errors import RotatorError
from edge_rotator.state import State

LABEL_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
# Name, type and meaning. A blank at the beginning of a line: the meaning goes on.
_TABLE = """\
build_info                              gauge    What is installed and how it works; always 1.
updated_timestamp_seconds               gauge    When this file was written.
credentials_expiry_timestamp_seconds    gauge    When the credentials handed to Litestream expire; 0 if there
                                                 never were any.
last_success_timestamp_seconds          gauge    When credentials were last fetched and handed over; 0 if
                                                 never.
attempts_total                          counter  Attempts by what became of them: rotated, or the class of the
                                                 error.
failing                                 gauge    1 while the last attempt failed.
pin_latched                             gauge    1 while nothing is tried because the token refused the PIN.
lock_stuck                              gauge    1 while a process holds the lock for longer than any run
                                                 takes.
timer_up                                gauge    1 if systemd says that the rotator's timer ticks and its unit
                                                 can start.
restart_pending                         gauge    1 while Litestream has yet to be restarted with the present
                                                 credentials.
clock_skew_seconds                      gauge    Our clock minus the provider's at its last answer.
certificate_expiry_timestamp_seconds    gauge    When the device's certificate expires.
certificate_validity_seconds            gauge    How long the device's certificate is valid from its first day
                                                 to its last.
litestream_up                           gauge    1 if Litestream answers.
litestream_restarts_total               counter  Times systemd started Litestream again, since it was last
                                                 started on purpose.
replication_last_sync_timestamp_seconds gauge    When Litestream last synced the database with its replica, by
                                                 its own word; 0 if never.
replication_limit_seconds               gauge    So long a sync may be ago: twice the sync-interval and 15 s.
replica_ahead_timestamp_seconds         gauge    When Litestream last found the database behind its replica;
                                                 without a sample where it did not within a day.
replicated                              gauge    1 if what an application wrote to the database a moment ago
                                                 is in its replica.
"""
Sample = tuple[str, dict[str, str], float]  # name, labels, value


def table() -> dict[str, tuple[str, str]]:
    """Every metric there is: its type and its meaning, by its name without the prefix `edge_rotator_`."""
    rows = (row.split(maxsplit=2) for row in _TABLE.replace("\n" + " " * 49, " ").splitlines())
    return {name: (kind, meaning) for name, kind, meaning in rows}


def render(samples: Iterable[Sample]) -> str:
    """Write samples in the text format, a metric's together; one without samples is left out."""
    by_name: dict[str, list[str]] = {}
    for name, labels, value in samples:
        inner = ",".join(f'{key}="{text.translate(LABEL_ESCAPES)}"' for key, text in labels.items())
        # Whole seconds are exact enough, and 17 digits are not read any better.
        line = f"edge_rotator_{name}{'{' + inner + '}' if inner else ''} {value:.3f}\n"
        by_name.setdefault(name, []).append(line)
    known = table()
    text = ""
    for name, lines in by_name.items():
        kind, meaning = known[name]
        text += f"# HELP edge_rotator_{name} {meaning}\n# TYPE edge_rotator_{name} {kind}\n"
        text += "".join(lines)
    return text


def collect(config: Config, state: State, clock: Clock) -> Iterator[Sample]:
    """Gather all samples, without touching the token or the network."""
    yield "build_info", {"version": __version__, "backend": config.backend, "mode": config.mode}, 1
    yield "updated_timestamp_seconds", {}, clock.wall
    success = state.success
    left = state.remaining(clock, config.credentials_file)
    expiry = min(clock.wall, success.wall + success.usable) if success else 0.0
    yield "credentials_expiry_timestamp_seconds", {}, clock.wall + left if left else expiry
    yield "last_success_timestamp_seconds", {}, success.wall if success else 0.0
    for outcome, count in sorted({"rotated": 0, **state.attempts}.items()):
        yield "attempts_total", {"class": outcome}, count
    yield "failing", {}, state.failure is not None
    yield "pin_latched", {}, schedule.latched(state, config.pin_file)
    yield "lock_stuck", {}, bool(lock.stuck(config))
    yield "restart_pending", {}, rotation.restart_pending(config, state, clock)
    yield "clock_skew_seconds", {}, -state.clock_skew
    ticks = systemd.ticks()
    if ticks.known:
        yield "timer_up", {}, ticks.runs
    # Nothing if it cannot be read.
    with suppress(RotatorError):
        start, end = token.certificate_validity(config.certificate_file)
        yield "certificate_expiry_timestamp_seconds", {}, end
        yield "certificate_validity_seconds", {}, end - start
    if config.litestream_socket:
        yield from _replication(config, clock)


def _replication(config: Config, clock: Clock) -> Iterator[Sample]:
    answer, why = litestream.look(config.litestream_socket)
    yield "litestream_up", {}, not why
    restarts = systemd.restarts(config.service)
    if restarts is not None:
        yield "litestream_restarts_total", {}, restarts
    yield "replication_limit_seconds", {}, litestream.limit(config)
    for name, at in answer.behind.items():
        yield "replica_ahead_timestamp_seconds", {"file": name}, at
    problems = litestream.problems(config, answer)
    # Those it does not know were never synced either: without a sample no alert could miss them.
    for path in {**dict.fromkeys(litestream.unknown(config, answer.databases)), **answer.databases}:
        age = answer.databases[path].age if path in answer.databases else None
        if not why:
            at = 0.0 if age is None else clock.wall - age
            yield "replication_last_sync_timestamp_seconds", {"db": path}, at
        yield "replicated", {"db": path}, age is not None and path not in problems


def run(path: str) -> int:
    """Replace the file. Raises `config_invalid` if none is named, `write_failed`."""
    config = configuration.as_user(path)
    if not config.metrics_file:
        raise RotatorError("config_invalid", f"{path}: service.metrics_file names no file")
    state = states.load(config.state_directory)
    data = render(collect(config, state, read_clock())).encode()
    try:
        # Not durable: after a power cut it is written again within a minute.
        files.write_atomic(config.metrics_file, data, 0o644, durable=False)
    except OSError as exc:
        raise RotatorError("write_failed", f"{config.metrics_file}: {exc.strerror}") from None
    return 0
