"""One rotation: fetch, check, write, restart or sync, and what the next run has to know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from edge_rotator import config as configuration
from edge_rotator import delivery, litestream, lock, schedule
from edge_rotator import state as states
from edge_rotator.clock import Clock, read_clock
from edge_rotator.config import Config
from edge_rotator.delivery import CLOCK_TOLERANCE, Credentials
from edge_rotator.errors import (
    ERROR,
    KINDS,
    LATCH,
    NOTICE,
    WARNING,
    Kind,
    RotatorError,
    event,
    place_of,
)
from edge_rotator.files import Stat, refuse_root, stat_of
from edge_rotator.schedule import Next
from edge_rotator.state import Failure, LastError, State, Success

_ANSWERED = range(30, 50)  # exit codes of errors that the provider itself told us of

NOTHING, RESTART, ROTATE = "nothing", "restart", "rotate"


def rotate(path: str, force: bool = False) -> int:
    """Run one tick; return the exit code. `force` overrides schedule and back-off, no PIN latch."""
    config = configuration.load(path)
    if not force and not schedule.is_due(config.directory, read_clock().boot):
        return 0
    refuse_root(config.user)
    with lock.held(config, patient=force):
        failed = Run(config).tick(force)
    return failed.exit_code if failed else 0


def dry_run(path: str) -> int:
    """Ask the provider and check its answer, store nothing, restart nothing."""
    config = configuration.load(path)
    refuse_root(config.user)
    with lock.held(config):
        run = Run(config)
        run.refuse_latched()
        run.refuse_without_pin()
        try:
            with login(config):
                _, lifetime, skew = fetch_checked(config, run.remaining(read_clock()))
        except RotatorError as error:
            # An attempt counts, whoever made it.
            run = Run(config)
            run.fail(error, "dry_run")
            run.write_next()
            return error.kind.exit_code
    event("dry_run", thing=config.thing_name, lifetime_s=float(lifetime), clock_skew_s=-skew)
    return 0


def fetch_checked(config: Config, held: float) -> tuple[Credentials, float, float]:
    """Ask the provider and check its answer; return credentials, life time and clock skew (s).

    `held` is how long the present credentials still last (s).
    """
    from edge_rotator import provider

    answer = provider.ask(config)
    parsed = delivery.parse(answer.body)
    now = read_clock().wall
    lifetime, skew = delivery.judge_times(parsed.expiration, answer.date, now, config.expected_lifetime)
    if answer.date is not None and abs(answer.date - now) > CLOCK_TOLERANCE and skew == 0.0:
        event("date_ignored", WARNING, date_off_s=answer.date - now, lifetime_s=lifetime)
    delivery.check_lifetime(lifetime, config.expected_lifetime, held)
    return parsed, lifetime, skew


@contextmanager
def login(config: Config) -> Iterator[None]:
    """Around a login that somebody asked for, with the lock held: a refusal latches, whatever happens.

    Raises `pin_refused` while latched, `state_failed` if a refusal could not be recorded.
    """
    run = Run(config)
    run.refuse_latched()
    unproven = run.mark_login()
    if run.pin() is not None:
        # Even an accepted one: the token's own PIN may have been changed since.
        run.save()
        run.refuse_without_memory()
    try:
        yield
    except RotatorError as error:
        run.login_ended(error)
        if unproven or run.state.latched:
            run.save()
        if run.state.latched:
            run.write_next()
        raise
    run.login_ended(None)
    if unproven:
        run.save()


def decide(config: Config, state: State, entry: Next | None, clock: Clock) -> tuple[str, str]:
    """Return what a run that is due has to do, and why. `entry` is what `next` said."""
    present = os.path.exists(config.credentials_file)
    pending = restart_pending(config, state, clock)
    if not present:
        reason = "missing"
    elif entry is None:
        # Somebody removed it, because the clock was set or something in the configuration changed.
        reason = "clock_step" if schedule.stepped(state, clock) else "configuration"
    elif pending and clock.boot < schedule.fetch_at(state):
        return RESTART, "restart_pending"
    else:
        reason = state.failure.reason if state.failure else "schedule"
    if schedule.latched(state, config.pin_file):
        return (RESTART, "restart_pending") if pending else (NOTHING, "pin_latched")
    return ROTATE, reason


def restart_pending(config: Config, state: State, clock: Clock) -> bool:
    """Whether Litestream has yet to be restarted with the environment file that is there."""
    if config.mode != "environment" or not state.restart_pending:
        return False
    return state.remaining(clock, config.credentials_file) > 0


class Run:
    """One run, with the lock held: what it knows, and what it leaves for the next."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = states.load(config.state_directory)
        self.remembers = True  # False once the state could not be saved

    def tick(self, force: bool) -> Kind | None:
        """Do what is due; return the class of error it ended with."""
        entry, clock = schedule.read_next(self.config.directory), read_clock()
        if force:
            self.refuse_latched()
            work, reason = ROTATE, "forced"
        elif entry and not entry.due(clock.boot):
            return None  # another run has rotated while we waited for the lock
        else:
            work, reason = decide(self.config, self.state, entry, clock)
        failed = self.attempt(reason) if work == ROTATE else None
        not_restarted = self.restart_if_pending()
        self.write_next()
        return failed or not_restarted

    def remaining(self, clock: Clock) -> float:
        """Seconds that the credentials that are there still last."""
        return self.state.remaining(clock, self.config.credentials_file)

    def refuse_latched(self) -> None:
        """Refuse even a forced login while the PIN is the one that the token refused."""
        if schedule.latched(self.state, self.config.pin_file):
            raise RotatorError("pin_refused", "latched since the last login: the PIN file is the same")

    def refuse_without_memory(self) -> None:
        """Refuse a login that somebody asked for, who may ask again and again, if a refusal would be lost."""
        if not self.remembers:
            detail = f"{self.config.state_directory}: no login, for nobody would remember a refused PIN"
            raise RotatorError("state_failed", detail)

    def pin(self) -> Stat | None:
        """Return which PIN file it is, None where none is used."""
        uses_pin = self.config.backend != "file" and self.config.pin_file
        return stat_of(self.config.pin_file) if uses_pin else None

    def mark_login(self) -> bool:
        """Count a login before it is made; return whether that has to be saved.

        Whoever is killed, loses power or cannot write any more never records what the token said. One
        such login is forgiven, the second latches as if it had been refused, for the third may lock the
        token. A PIN that was accepted before is not counted: a working device may lose power as often
        as it likes.
        """
        pin = self.pin()
        if pin is None or pin == self.state.accepted:
            return False
        self.state.unknown = self.state.unknown + 1 if pin == self.state.pin else 1
        self.state.pin, self.state.latched = pin, False
        return True

    def login_ended(self, error: RotatorError | None) -> None:
        """Keep what a login came to; None: it was good."""
        state = self.state
        refused = error is not None and error.kind.retry == LATCH
        # Whoever was answered has signed with the key.
        if error is None or error.kind.exit_code in _ANSWERED:
            state.accepted = self.pin()
        elif refused:
            state.accepted = None
        state.latched, state.unknown = refused, 0
        state.pin = stat_of(self.config.pin_file) if refused else None

    def refuse_without_pin(self) -> None:
        """Run by hand, only root can read the PIN: the service, which is given it, must not wait for that."""
        from edge_rotator import token

        if self.config.backend != "file" and "CREDENTIALS_DIRECTORY" not in os.environ:
            token.pin_path(self.config.pin_file)

    def count(self, outcome: str) -> None:
        """Count an attempt by what became of it."""
        self.state.attempts[outcome] = self.state.attempts.get(outcome, 0) + 1

    def attempt(self, reason: str) -> Kind | None:
        """Rotate. The attempt is recorded before, as if it had been killed, and after."""
        self.refuse_without_pin()
        before = self.state.failure
        unproven = self.mark_login()
        self.record_failure(RotatorError("interrupted"), reason)
        self.state.before = before
        self.save(durable=unproven)
        if unproven and reason == "forced":
            self.refuse_without_memory()
        try:
            self.write_next()
        except RotatorError as unwritten:
            # No request, so no login either; what is on disk would look like a run under way.
            self.state.failure, self.state.before = before, None
            self.state.unknown -= unproven
            self.record_failure(unwritten, reason)
            self.keep(unwritten)
            raise
        self.state.failure, self.state.before = before, None
        try:
            self.fetch_and_hand_over(reason)
        except Exception as exc:
            error = exc if isinstance(exc, RotatorError) else RotatorError("internal_error", place_of(exc))
            self.fail(error, reason)
            return error.kind
        if abs(self.state.clock_skew) <= CLOCK_TOLERANCE:
            return None
        # The credentials are good and handed over; it must still be heard.
        error = RotatorError("clock_wrong", f"{-self.state.clock_skew:+.0f} s against the provider's")
        return self.tell(error)

    def fetch_and_hand_over(self, reason: str) -> None:
        """Fetch, check, write the file, save the state; then make Litestream use it."""
        config, state = self.config, self.state
        held = self.remaining(read_clock())
        outage = held <= 0 or state.failure is not None
        # What was set anew may well mean a shorter life time than what is held; who forces wants new ones.
        compared = 0.0 if reason in ("configuration", "forced") else held
        credentials, lifetime, skew = fetch_checked(config, compared)
        clock = read_clock()
        # Litestream goes by the wall clock: it may keep what by the boot clock has expired long ago.
        was = state.success
        kept = was is not None and clock.boot >= was.boot and clock.wall < was.wall + was.usable
        set_back = kept and schedule.stepped(state, clock) < 0
        usable = schedule.usable(lifetime, config.safety_margin)
        delivery.write(config, credentials, clock.wall + usable)

        due_after = schedule.due_after(lifetime, config.mode, config.refresh_margin, config.thing_name)
        # A boot fetches anyway: beyond this one only the end of a wait or a latch has to be known.
        known = state.accepted
        self.login_ended(None)
        durable = state.failure is not None or state.accepted != known
        state.success = Success(clock.wall, clock.boot, lifetime, usable, due_after)
        state.restart_pending = config.mode == "environment"
        state.failure = None
        state.clock_skew = skew
        self.count("rotated")
        self.save(durable)
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
        if config.mode == "process":
            self.make_litestream_ask(set_back, outage)

    def make_litestream_ask(self, set_back: bool, outage: bool) -> None:
        """Process mode: Litestream asks by itself at the expiry it was told, unless something went wrong."""
        if set_back:
            litestream.request_restart(self.config)
            event("restart_requested", NOTICE, reason="clock_step", service=self.config.service)
        elif outage:
            failed = litestream.sync(self.config)
            if failed is not None:
                level = WARNING if failed else NOTICE
                event("sync_requested", level, databases=len(self.config.databases), failed=failed)

    def restart_if_pending(self) -> Kind | None:
        """Environment mode: restart Litestream with the new file."""
        if not restart_pending(self.config, self.state, read_clock()):
            return None
        try:
            litestream.restart(self.config)
        except RotatorError as error:
            return self.tell(error)
        self.state.restart_pending = False
        self.save(durable=False)
        event("restarted", NOTICE, service=self.config.service)
        return None

    def fail(self, error: RotatorError, reason: str) -> None:
        """Record and report a failed attempt."""
        delay: float | None = self.record_failure(error, reason).delay
        self.login_ended(error)
        self.tell(error, None if self.state.latched else delay)

    def record_failure(self, error: RotatorError, reason: str) -> Failure:
        """Make the next attempt wait as long as this class of error asks for."""
        previous, clock = self.state.failure, read_clock()
        alike = previous and KINDS[previous.kind].retry == error.kind.retry
        count = previous.count + 1 if previous and alike else 1
        lifetime, jitter = self.config.expected_lifetime, os.urandom(1)[0] / 256
        delay = schedule.backoff(error.kind.name, count, lifetime, error.retry_after, jitter)
        if error.kind.name == "answer_short_lived":
            # Once those held have run out, there is nothing to be shorter-lived than.
            delay = min(delay, self.remaining(clock) or delay)
        self.state.failure = Failure(
            error.kind.name, error.detail, reason, clock.wall, clock.boot, count, delay, error.retry_after
        )
        return self.state.failure

    def tell(self, error: RotatorError, delay: float | None = None) -> Kind:
        """Keep an error and report it."""
        self.keep(error)
        report(error, delay, self.remaining(read_clock()))
        return error.kind

    def keep(self, error: RotatorError) -> None:
        """Keep an error for those who ask later."""
        self.state.last_error = LastError(error.kind.name, error.detail, read_clock().wall)
        self.count(error.kind.name)
        self.save()

    def save(self, durable: bool = True) -> None:
        """Save the state; a disk that is full or worn out must not stop a rotation."""
        try:
            states.save(self.state, self.config.state_directory, durable)
        except OSError as exc:
            if self.remembers:
                detail = f"{self.config.state_directory}: {exc.strerror}"
                event("state_not_saved", WARNING, detail=detail, fix=KINDS["state_failed"].fix)
            self.remembers = False

    def write_next(self) -> None:
        """Say when to run next. Raises `write_failed`."""
        config, state, now = self.config, self.state, read_clock().boot
        latched = schedule.latched(state, config.pin_file)
        pending = restart_pending(config, state, read_clock())
        at = now + schedule.MAX_BACKOFF if latched else schedule.fetch_at(state)
        if pending:
            at = 0.0  # at the next tick
        at = min(at, now + schedule.MAX_LIFETIME)  # whatever the state claims
        if not self.remembers:
            # The next run will know nothing of this one, so it must not come soon.
            if latched:
                at = schedule.NEVER
            elif state.failure or pending:
                at = max(at, now + schedule.MAX_BACKOFF)
        present = os.path.exists(config.credentials_file)
        schedule.write_next(config.directory, at, config.credentials_file if present else "/")


def report(error: RotatorError, delay: float | None = None, held: float | None = None) -> None:
    """Write the one line that says what is wrong and how to fix it; times in seconds."""
    event(
        "failed",
        ERROR,
        error=error.kind.name,
        code=error.kind.exit_code,
        detail=error.detail or None,
        retry_in_s=delay,
        credentials_left_s=held,
        fix=error.kind.advice,
    )
