"""Run programs; a failure becomes one readable error."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from lab.settings import LabError


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def run(*command: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 60) -> str:
    """Run a program and return its standard output; LabError with its words on failure.

    The program is ended, not abandoned, when a signal or the timeout interrupts the wait.
    """
    words = [str(word) for word in command]
    try:
        with subprocess.Popen(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except BaseException:
                process.terminate()
                process.communicate(timeout=20)
                raise
    except FileNotFoundError:
        raise LabError(f"{words[0]}: no such program") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(words)}: no end after {timeout_s:.0f} s") from None
    if process.returncode:
        last = "\n".join(errors.strip().splitlines()[-8:])
        raise LabError(f"{' '.join(words)}: exit {process.returncode}\n{last}")
    return output


def succeeds(*command: str | Path, timeout_s: float = 60) -> bool:
    """Tell whether a program ends well; its words do not matter."""
    try:
        run(*command, timeout_s=timeout_s)
    except LabError:
        return False
    return True


def wait_until(ready: Callable[[], bool], timeout_s: float, interval_s: float = 0.1) -> bool:
    """Ask again and again until the answer is yes; False when the time is over."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(interval_s)
    return ready()


def pids() -> list[int]:
    """Return every process there is."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def process(program: str, word: str) -> int | None:
    """Return the pid of a program that was started with this word in its command line, if any."""
    for pid in pids():
        try:
            words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if Path(os.fsdecode(words[0])).name == program and word.encode() in words:
            return pid
    return None


def kill(pid: int) -> None:
    """End a process at once, unless it has ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like ctrl-C does, so that clean-up code runs."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
