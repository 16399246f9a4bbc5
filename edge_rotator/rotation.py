"""One tick: lock, read the state, decide, fetch, check, write, restart or nudge, record."""

from __future__ import annotations

import fcntl
import os
import time

from edge_rotator import __version__, schedule
from edge_rotator import config as configuration
from edge_rotator import state as states
from edge_rotator.clock import Clock, read_clock
from edge_rotator.config import Config
from edge_rotator.errors import KINDS, LATCH, NONE, Kind, RotatorError, place_of
from edge_rotator.events import ERROR, NOTICE, WARNING, event
from edge_rotator.files import stat_of
from edge_rotator.schedule import Decision, Facts
from edge_rotator.state import Failure, State, Success

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edge_rotator.credentials import Credentials
    from edge_rotator.provider import Answer

CLOCK_TOLERANCE = 300.0  # s; S3 refuses signatures that are 900 s off
_LOCK_TRIES = 300  # of 0.1 s


def state_directory_guess() -> str:
    """Where the state is before any configuration has been read."""
    return os.environ.get("STATE_DIRECTORY") or configuration.DEFAULT_STATE_DIRECTORY


def cached_config(state: State, path: str, directory: str) -> Config | None:
    """Return the configuration as kept in the state, if file and version are still the same.

    Parsing TOML costs as much as starting Python.
    """
    cache = state.config
    if cache.get("version") != __version__ or cache.get("path") != path:
        return None
    if cache.get("stat") is None or cache["stat"] != stat_of(path):
        return None
    values = cache.get("values")
    config = configuration.restore(path, values) if isinstance(values, dict) else None
    return config if config and config.state_directory == directory else None


def load(path: str) -> tuple[Config, State]:
    """Read configuration and state, by the cheapest way there is. Raises `config_invalid`."""
    guess = state_directory_guess()
    state = states.load(guess)
    config = cached_config(state, path, guess)
    if config is None:
        stat = stat_of(path)
        config = configuration.load(path)
        state = states.load(config.state_directory, config.directory)
        state.config = {"version": __version__, "path": path, "stat": stat}
        state.config["values"] = configuration.values(config)
    elif stat_of(f"{config.directory}/{states.FILE_NAME}"):
        cache = state.config
        state = states.load(guess, config.directory)
        state.config = cache
    return config, state


def gather(config: Config) -> Facts:
    """Look at the files that the decision rests on."""
    named = (config.path, config.certificate_file, config.ca_file, config.pin_file, config.key_file)
    watched = {path: stat_of(path) for path in named if path}
    return Facts(stat_of(config.credentials_file), watched.get(config.pin_file), watched)


def decide(config: Config, state: State) -> Decision:
    """Return what this tick has to do."""
    return schedule.decide(state, gather(config), read_clock(), config.mode)


def lock(directory: str, patient: bool) -> int:
    """Take the lock that every user of the token takes; it lasts until the process ends.

    Raises `busy` if another run holds it (after 30 s if `patient`), `state_failed` without a place.
    """
    path = f"{directory}/lock"
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as first:
        try:
            # On a file system that has become read-only the file of an earlier run does as well.
            fd = os.open(path, flags | os.O_RDONLY)
        except OSError:
            raise RotatorError("state_failed", f"{path}: {first.strerror}") from None
    for _ in range(_LOCK_TRIES if patient else 1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            time.sleep(0.1 if patient else 0)
    os.close(fd)
    raise RotatorError("busy", path)


def _check_latch(state: State, facts: Facts) -> None:
    """Refuse even a forced login while the PIN is the one that the token refused."""
    if schedule.latched(state, facts):
        raise RotatorError("pin_refused", "latched since the last login: the PIN file is the same")


def latch(config: Config) -> None:
    """Remember that the token refused this PIN, so that nobody uses up another try."""
    _, state = load(config.path)
    state.latched = True
    state.pin = gather(config).pin
    _save(config, state)


def refuse_latched(config: Config) -> None:
    """Raise `pin_refused` if the PIN file is still the one the token refused."""
    _check_latch(load(config.path)[1], gather(config))


def _record_failure(config: Config, state: State, facts: Facts, error: RotatorError, clock: Clock) -> Failure:
    previous = state.failure
    alike = previous and KINDS[previous.kind].retry == error.kind.retry
    count = previous.count + 1 if previous and alike else 1
    jitter = os.urandom(1)[0] / 256
    delay = schedule.backoff(error.kind.name, count, config.expected_lifetime, error.retry_after, jitter)
    detail = error.detail
    state.failure = Failure(error.kind.name, detail, clock.wall, clock.boot, clock.boot_id, count, delay)
    state.watched = facts.watched
    return state.failure


def _save(config: Config, state: State, durable: bool = True) -> None:
    states.save(state, config.state_directory, config.directory, durable)


def _count(state: State, outcome: str) -> None:
    state.attempts[outcome] = state.attempts.get(outcome, 0) + 1


def _ask(config: Config) -> Answer:
    """Fetch; if the token was in the way, find out why without another login."""
    from edge_rotator import pin, provider

    try:
        path = pin.find(config.pin_file) if config.backend != "file" else ""
        answer = provider.fetch(config, path)
    except RotatorError as error:
        if error.kind.name != "token_failed" or config.backend == "file":
            raise
        from edge_rotator import token

        raise token.diagnose(config, error) from None
    refusal = provider.http_error(answer)
    if refusal:
        raise refusal
    return answer


def fetch_checked(config: Config, held: float) -> tuple[Credentials, float, float]:
    """Ask the provider and check its answer; return credentials, life time and clock skew (s).

    `held` is how long the present credentials still last (s).
    """
    from edge_rotator import credentials

    answer = _ask(config)
    parsed = credentials.parse(answer.body)
    # Without a Date the two clocks are taken to agree.
    date = answer.date if answer.date is not None else read_clock().wall
    # One answer with an absurd time must not outlast every good one that follows.
    lifetime = min(parsed.expiration - date, schedule.MAX_LIFETIME)
    credentials.check_lifetime(lifetime, config.expected_lifetime, held)
    return parsed, lifetime, answer.skew or 0.0


def _rotate(config: Config, state: State, facts: Facts, reason: str) -> None:
    """Fetch and hand over; the state is recorded before (as if killed) and after."""
    from edge_rotator import delivery

    start = read_clock()
    held = schedule.remaining(state, start) if facts.credentials else 0.0
    outage = held <= 0 or state.failure is not None
    previous = state.failure
    watched = state.watched
    # If we are killed from here on, the next run finds a failed attempt and waits its turn.
    _record_failure(config, state, facts, RotatorError("interrupted"), start)
    _save(config, state, durable=False)
    state.failure, state.watched = previous, watched

    # What was set anew may well mean a shorter life time than what is held.
    fetched, lifetime, skew = fetch_checked(config, 0.0 if reason == "configuration" else held)
    clock = read_clock()
    set_back = schedule.stepped_back(state, clock)
    usable = schedule.usable(lifetime, config.safety_margin)
    delivery.write(config, fetched, clock.wall + usable)

    due_after = schedule.due_after(lifetime, config.mode, config.refresh_margin, config.thing_name)
    # A boot fetches anyway: beyond this one only the end of a wait or a latch has to be known.
    durable = previous is not None or state.latched
    state.success = Success(clock.wall, clock.boot, clock.boot_id, lifetime, usable, due_after)
    state.proven = facts.watched
    state.failure = None
    state.latched = False
    state.pin = None
    state.clock_skew = skew
    _count(state, "rotated")
    _save(config, state, durable)
    event(
        "rotated",
        NOTICE,
        thing=config.thing_name,
        reason=reason,
        mode=config.mode,
        lifetime_s=float(lifetime),
        expires_in_s=usable,
        next_in_s=due_after,
    )
    if config.backend == "file":
        event("key_in_file", WARNING, file=config.key_file)
    if set_back and config.mode == "process":
        delivery.request_restart(config)
        event("restart_requested", NOTICE, reason="clock_step", service=config.service)
    elif outage and config.mode == "process":
        failed = delivery.nudge(config)
        if failed is not None:
            level = WARNING if failed else NOTICE
            event("sync_requested", level, databases=len(config.databases), failed=failed)


def _restart_if_pending(config: Config, state: State) -> None:
    from edge_rotator import delivery

    facts = gather(config)
    if not schedule.restart_pending(state, facts, config.mode, read_clock()):
        return
    delivery.restart(config)
    state.applied = facts.credentials
    _save(config, state)
    event("restarted", NOTICE, service=config.service)


def _fail(config: Config, state: State, facts: Facts, error: RotatorError) -> None:
    """Record and report a failed attempt."""
    kind = error.kind
    clock = read_clock()
    delay = None
    state.last_error = {"kind": kind.name, "detail": error.detail, "wall": clock.wall}
    _count(state, kind.name)
    # Run by hand, only root can read the PIN: the service, which is given it, must not wait for that.
    by_hand = kind.name == "pin_unreadable" and "CREDENTIALS_DIRECTORY" not in os.environ
    if kind.retry != NONE and not by_hand:
        delay = _record_failure(config, state, facts, error, clock).delay
    if kind.retry == LATCH:
        state.latched = True
        state.pin = facts.pin
        delay = None
    report(error, delay, schedule.remaining(state, clock) if facts.credentials else 0.0)
    _save(config, state)


def report(error: RotatorError, delay: float | None = None, held: float | None = None) -> None:
    """Write the one line that says what is wrong and how to fix it."""
    event(
        "failed",
        ERROR,
        error=error.kind.name,
        code=error.kind.exit_code,
        detail=error.detail or None,
        retry_in_s=delay,
        credentials_left_s=held,
        fix=error.kind.fix,
    )


def _tell_clock(config: Config, state: State) -> Kind:
    """Report a wrong clock. The credentials are good and handed over; it must still be heard."""
    error = RotatorError("clock_wrong", f"{-state.clock_skew:+.0f} s against the provider's")
    clock = read_clock()
    state.last_error = {"kind": "clock_wrong", "detail": error.detail, "wall": clock.wall}
    _count(state, "clock_wrong")
    _save(config, state)
    report(error, None, schedule.remaining(state, clock))
    return error.kind


def _guarded(config: Config, state: State, facts: Facts, decision: Decision) -> Kind | None:
    """Do the work; return the class of error it ended with."""
    failed: Kind | None = None
    if decision.work == schedule.ROTATE:
        try:
            _rotate(config, state, facts, decision.reason)
        except Exception as exc:
            error = exc if isinstance(exc, RotatorError) else RotatorError("internal_error", place_of(exc))
            _fail(config, state, facts, error)
            failed = error.kind
        else:
            if abs(state.clock_skew) > CLOCK_TOLERANCE:
                failed = _tell_clock(config, state)
    try:
        _restart_if_pending(config, state)
    except RotatorError as error:
        _fail(config, state, facts, error)
        failed = failed or error.kind
    return failed


def _tell_metrics(config: Config, state: State, quiet: bool = False) -> None:
    """Write the metrics; a file that cannot be written must not stop a rotation."""
    if not config.metrics_file:
        return
    from edge_rotator import metrics

    try:
        metrics.write(config, state, gather(config))
    except RotatorError as error:
        if not quiet:
            event("metrics_failed", WARNING, detail=error.detail)


def _refuse_root(config: Config) -> None:
    if os.geteuid() == 0:
        from edge_rotator import user

        user.refuse_root(config.user)


def rotate(path: str, force: bool = False) -> int:
    """Run one tick; return the exit code. `force` overrides schedule and back-off, no PIN latch."""
    config, state = load(path)
    if not force and decide(config, state).work == schedule.NOTHING:
        return 0
    _refuse_root(config)
    os.umask(0o027)
    held = lock(config.state_directory, patient=force)
    try:
        # Somebody else may have rotated while we waited.
        config, state = load(path)
        facts = gather(config)
        decision = schedule.decide(state, facts, read_clock(), config.mode)
        if force:
            _check_latch(state, facts)
            decision = Decision(schedule.ROTATE, "forced")
        failed = _guarded(config, state, facts, decision)
        _tell_metrics(config, state)
    finally:
        os.close(held)
    return failed.exit_code if failed else 0


def due(path: str) -> int:
    """Return 0 if a tick has work to do, 1 if not; what cannot be told counts as work."""
    config, state = load(path)
    if decide(config, state).work != schedule.NOTHING:
        return 0
    if config.metrics_file:
        from edge_rotator import metrics

        if metrics.stale(config):
            _tell_metrics(config, state, quiet=True)
    return 1


def dry_run(path: str) -> int:
    """Ask the provider and check its answer, store nothing, restart nothing."""
    config, state = load(path)
    _refuse_root(config)
    held = lock(config.state_directory, patient=True)
    try:
        facts = gather(config)
        _check_latch(state, facts)
        clock = read_clock()
        lasting = schedule.remaining(state, clock) if facts.credentials else 0.0
        try:
            _, lifetime, skew = fetch_checked(config, lasting)
        except RotatorError as error:
            # A refused PIN must latch, and an attempt counts, whoever made it.
            _fail(config, state, facts, error)
            return error.kind.exit_code
    finally:
        os.close(held)
    event("dry_run", thing=config.thing_name, lifetime_s=float(lifetime), clock_skew_s=-skew)
    return 0
