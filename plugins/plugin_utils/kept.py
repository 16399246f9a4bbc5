"""Directories in the control node's cache that are made once, by one host's task, and not changed afterwards.

Each holds SHA256SUMS, as sha256sum writes it, and its files are checked against that whenever they are used.
"""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

SUMS = "SHA256SUMS"


class KeptError(Exception):
    """What is wrong in the cache, as one sentence with its fix."""


class NotMadeError(KeptError):
    """Another host's task was to make it, and failed."""


def sha256(path: Path) -> str:
    """Return a file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept(directory: Path) -> list[Path]:
    """Files of a directory, or nothing where it is not there.

    Raises KeptError where the files are not those it was made with.
    """
    if not directory.exists():
        return []
    try:
        lines = (directory / SUMS).read_text().splitlines()
        recorded = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        files = sorted(path for path in directory.iterdir() if path.name != SUMS)
        found = {path.name: sha256(path) for path in files}
    except (OSError, ValueError) as error:
        raise KeptError(f"{directory} cannot be checked ({error}): delete it and converge again") from error
    changed = [name for name in {**recorded, **found} if recorded.get(name) != found.get(name)]
    if changed or not files:
        raise KeptError(
            f"{directory} is not as it was made: {', '.join(sorted(changed))} does not match {SUMS}. Find "
            "out who changed it, delete the directory and converge again"
        )
    return files


def keep(directory: Path, make: Callable[[Path], None]) -> list[Path]:
    """Have `make` fill the directory unless it is there; others who need it wait meanwhile.

    Raises KeptError, also where the one who was waited for failed: the rest would only fail likewise.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{directory}.lock").open("w") as lock:
        waited = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_EX)
            waited = True
        files = kept(directory)
        if files:
            return files
        if waited:
            raise NotMadeError(f"{directory} was not made by another host's task: see its failure")
        with tempfile.TemporaryDirectory(dir=directory.parent) as name:
            fresh = Path(name, "fresh")
            fresh.mkdir()
            make(fresh)
            made = sorted(fresh.iterdir())
            (fresh / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in made))
            fresh.rename(directory)
        return kept(directory)
