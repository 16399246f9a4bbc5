"""What a device that pulls takes over HTTPS instead of having it made: whole, and resumed where a link broke.

Told as a dict: `url` of the directory, `sums` (sha256 by name, from the signed repository), `cache`, a
directory of root's, and `installed`, where its versions are on this device.
"""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.urls import open_url
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import sha256

# Of one wait for bytes, in seconds.
TIMEOUT_S = 60
# Attempts in a row that bring no byte; what is there stays for the next run.
FRUITLESS = 4
CHUNK = 1 << 16
# Many times the largest: who serves them must not fill the disk on which databases are.
MAX_BYTES = 1 << 27


class ArtifactError(Exception):
    """What cannot be had, as one sentence with its fix."""


def fetch(name: str, artifacts: dict[str, Any]) -> Path:
    """Path of an artifact with the checksum that the repository says. Raises ArtifactError."""
    expected = artifacts["sums"].get(name)
    if not expected:
        raise ArtifactError(
            f"edge_pull_artifacts has no '{name}': run edge_litestream.appliance.artifacts for this device's "
            "platform, upload what it made, and commit the variables it wrote"
        )
    target = Path(artifacts["cache"], name)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = f"{artifacts['url'].rstrip('/')}/{name}"
    for again in (True, False):
        if not target.exists():
            _transfer(url, target)
        if sha256(target) == expected:
            return target
        found = sha256(target)
        target.unlink()
        # Pieces of two files under one name make neither; from the beginning it may be right.
        if not again:
            break
    raise ArtifactError(f"{url} has sha256 {found}, but the repository says {expected}: nothing was kept")


def bundle(plan: Any, artifacts: dict[str, Any], dry: bool) -> dict[str, Any]:
    """Report of a bundle's plan, with the archive, which is fetched unless its version is installed here.

    Raises ArtifactError.
    """
    told = dict(plan.report(), assembled=False)
    if not dry and not Path(artifacts["installed"], plan.version, "complete").exists():
        told |= {"bundle": str(fetch(plan.artifact, artifacts)), "assembled": True}
    return told


def _transfer(url: str, target: Path) -> None:
    """Have the whole of a file, in as many pieces as it takes."""
    part = target.with_name(f"{target.name}.part")
    fruitless, why = 0, ""
    while fruitless < FRUITLESS:
        before = part.stat().st_size if part.exists() else 0
        try:
            whole = _piece(url, part, before)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "code", 0) in (401, 403, 404, 410):
                raise ArtifactError(f"{url}: {error}") from error
            whole, why = False, str(error)
        if whole:
            part.replace(target)
            return
        if part.exists() and part.stat().st_size > before:
            fruitless = 0
        else:
            fruitless += 1
            time.sleep(2**fruitless)
    raise ArtifactError(
        f"{url}: no byte more in {FRUITLESS} attempts ({why or 'the connection broke off'}); "
        f"the next run goes on after {part.stat().st_size if part.exists() else 0} bytes"
    )


def _piece(url: str, part: Path, have: int) -> bool:
    """Append what one connection gives; whether that was all."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = open_url(url, headers=headers, timeout=TIMEOUT_S)
    except OSError as error:
        # Nothing comes after what is there: that is all, or it is of another file, which the checksum tells.
        if getattr(error, "code", 0) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True
        raise
    # A server that ignores the range gives all from the beginning.
    with answer, part.open("ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb") as file:
        length = answer.headers.get("Content-Length")
        start = file.tell()
        while chunk := answer.read(CHUNK):
            if file.tell() > MAX_BYTES:
                part.unlink()
                raise ArtifactError(f"{url} is larger than {MAX_BYTES} bytes: nothing was kept")
            file.write(chunk)
        return length is None or file.tell() - start == int(length)
