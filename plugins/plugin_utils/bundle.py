"""Put together, on the control node, what a device runs: the rotator, pycurl, python-pkcs11 and a launcher.

A bundle is a tar archive per platform, named by a digest of all that went into it, so that an unchanged
one is never made or pushed twice. Devices need neither PyPI nor a compiler. With Debian's own pycurl
nothing is compiled anywhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

COLLECTION = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600
COMPILED = [
    "pycurl"
]  # always built: PyPI's wheel carries an OpenSSL of its own, which cannot load the engine
WHEELS = ["python-pkcs11", "asn1crypto"]
WHEEL_PLATFORMS = {
    "x86_64": ["manylinux_2_28_x86_64", "manylinux2014_x86_64"],
    "aarch64": ["manylinux_2_28_aarch64", "manylinux2014_aarch64"],
}
# What zipfile raises where an archive is cut off or has other bytes than it was written with.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
LAUNCHER = """#!/usr/bin/python3 -IS
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))
{more}from edge_rotator.cli import main  # noqa: E402

sys.exit(main())
"""
# At the end: nothing of Debian's may stand before the standard library or the bundle.
DEBIAN_PACKAGES = 'sys.path.append("/usr/lib/python3/dist-packages")\n'


class BundleError(Exception):
    """What is missing, as one sentence with its fix."""


class Plan:
    """The bundle of one platform: where its parts are, and its digest."""

    def __init__(self, cache: str, release: str, machine: str, python: str, debian_pycurl: bool) -> None:
        self.root = COLLECTION
        self.release, self.machine, self.python = release, machine, python
        self.lock = self.root / "files/device-requirements.lock"
        self.build_lock = self.root / "files/device-build-requirements.lock"
        self.platform = f"{self.release}-{self.machine}-cp{self.python.replace('.', '')}"
        self.launcher = LAUNCHER.format(more=DEBIAN_PACKAGES if debian_pycurl else "")
        self.compiled = [] if debian_pycurl else list(COMPILED)
        self.wheels = list(WHEELS)
        if self.machine not in WHEEL_PLATFORMS:  # no wheel of python-pkcs11 for 32-bit Arm
            self.compiled.append("python-pkcs11")
            self.wheels.remove("python-pkcs11")
        lock_digest = hashlib.sha256(self.lock.read_bytes() + self.build_lock.read_bytes()).hexdigest()[:12]
        self.cache = Path(cache)
        self.built = self.cache / f"wheels-{self.platform}-{lock_digest}"
        self.sources = self.cache / f"sources-{lock_digest}-{'-'.join(self.compiled)}"
        self.package = sorted((self.root / "edge_rotator").glob("*.py"))
        digest = hashlib.sha256(f"{self.platform} {lock_digest} {self.launcher}".encode())
        for module in self.package:
            digest.update(module.name.encode() + module.read_bytes())
        version = re.search(r'^version = "([^"]+)"', (self.root / "pyproject.toml").read_text(), re.MULTILINE)
        if version is None:
            raise BundleError(f"{self.root / 'pyproject.toml'} names no version")
        self.version = f"{version[1]}-{digest.hexdigest()[:12]}"
        self.bundle = self.cache / f"edge-rotator-{self.version}-{self.platform}.tar.gz"

    def built_wheel(self, name: str) -> list[Path]:
        """Compiled wheel of a package in the cache: none or one; damaged or of another platform is none."""
        tag = f"cp{self.python.replace('.', '')}"
        wheels = self.built.glob(f"{name.replace('-', '_')}-*-{tag}-{tag}-linux_{self.machine}.whl")
        return [wheel for wheel in wheels if whole(wheel)]

    def built_wheels(self) -> list[Path]:
        """Compiled wheels this bundle takes from the cache, which may hold another variant's too."""
        return [wheel for name in self.compiled for wheel in self.built_wheel(name)]

    def missing(self) -> list[str]:
        """Names of the packages whose compiled wheel is not in the cache yet."""
        return [name for name in self.compiled if not self.built_wheel(name)]

    def report(self) -> dict[str, object]:
        """Tell Ansible what it works with."""
        return {
            "version": self.version,
            "platform": self.platform,
            "bundle": str(self.bundle),
            "assembled": self.bundle.is_file(),
            "missing": self.missing(),
            "built": str(self.built),
            "sources": str(self.sources),
            "packages": self.compiled,
        }


def pip(*arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run this interpreter's pip.

    Raises BundleError with the last lines pip printed.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
        raise BundleError(f"pip {arguments[0]} failed on the control node:\n{tail}")


def subset(lock: Path, names: list[str], target: Path) -> Path:
    """Write the entries of `names` in a lock with hashes to a file of their own."""
    pattern = r"^([a-z0-9-]+)==[^\n]*\\\n(?:    --hash=[^\n]*\n?)+"
    entries = {found[1]: found[0] for found in re.finditer(pattern, lock.read_text(), re.MULTILINE)}
    unknown = set(names) - set(entries)
    if unknown:
        raise BundleError(f"{lock} has no entry for {', '.join(sorted(unknown))}: run make lock")
    target.write_text("".join(entries[name] for name in names))
    return target


def fetch_sources(plan: Plan) -> None:
    """Download source archives and what builds them into one directory for the build host."""
    if (plan.sources / "complete").is_file():
        return
    plan.sources.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=plan.cache) as name:
        folder = Path(name)
        builders = ["cython", "packaging", "setuptools", "setuptools-scm", "vcs-versioning", "wheel"]
        pip(
            "download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--platform", "any",
            "--python-version", plan.python, "--dest", str(plan.sources),
            "--requirement", str(subset(plan.build_lock, builders, folder / "build.lock")),
        )  # fmt: skip
        # pip prepares the metadata even of what it only downloads, and pycurl asks curl-config for that.
        curl_config = folder / "curl-config"
        curl_config.write_text("#!/bin/sh\necho 7.88.1\n")
        curl_config.chmod(0o755)
        pip(
            "download", "--no-deps", "--require-hashes", "--no-binary", ",".join(plan.compiled),
            "--dest", str(plan.sources),
            "--requirement", str(subset(plan.lock, plan.compiled, folder / "sources.lock")),
            environment={"PYCURL_CURL_CONFIG": str(curl_config), "PYCURL_SSL_LIBRARY": "openssl",
                         "PIP_FIND_LINKS": str(plan.sources)},
        )  # fmt: skip
    (plan.sources / "complete").touch()


def whole(wheel: Path) -> bool:
    """Whether all of a wheel can be read. One whose fetch broke off cannot."""
    try:
        with zipfile.ZipFile(wheel) as packed:
            return packed.testzip() is None
    except UNREADABLE:
        return False


def unpack(wheel: Path, target: Path) -> None:
    """Unpack a wheel that is verified by its hash, or built here.

    Raises BundleError where it is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(target)  # noqa: S202 - see above
    except UNREADABLE as error:
        raise BundleError(f"{wheel} is damaged ({error}): delete it and converge again") from error


def assemble(plan: Plan) -> None:
    """Make the bundle from the built wheels, PyPI's wheels and the package."""
    if plan.bundle.is_file():
        return
    if plan.missing():
        found = ", ".join(path.name for path in plan.built.glob("*.whl")) or "empty"
        raise BundleError(
            f"no whole wheel of {', '.join(plan.missing())} for {plan.platform} in {plan.built} ({found}): "
            "the build host failed (see its own message) or is of another platform. Fix it, or set "
            f"edge_rotator_build_host to another device with Debian {plan.release} on {plan.machine}; "
            "then converge again"
        )
    with tempfile.TemporaryDirectory(dir=plan.cache) as name:
        folder = Path(name)
        downloaded = folder / "wheels"
        platforms = [f"--platform={tag}" for tag in WHEEL_PLATFORMS.get(plan.machine, ["any"])]
        pip(
            "download", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--python-version", plan.python, *platforms, "--dest", str(downloaded),
            "--requirement", str(subset(plan.lock, plan.wheels, folder / "wheels.lock")),
        )  # fmt: skip
        tree = folder / "tree"
        for wheel in [*downloaded.glob("*.whl"), *plan.built_wheels()]:
            unpack(wheel, tree / "lib")
        package = tree / "lib/edge_rotator"
        package.mkdir()
        for module in plan.package:
            (package / module.name).write_bytes(module.read_bytes())
        launcher = tree / "bin/edge-rotator"
        launcher.parent.mkdir()
        launcher.write_text(plan.launcher)
        launcher.chmod(0o755)
        fresh = folder / "bundle.tar.gz"
        with tarfile.open(fresh, "w:gz") as packed_bundle:
            for path in sorted(tree.rglob("*")):
                packed_bundle.add(path, str(path.relative_to(tree)), recursive=False, filter=root_owned)
        fresh.replace(plan.bundle)


def root_owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Root's, and writable for nobody else: sudoers and units run it."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def provide(plan: Plan, state: str) -> None:
    """Do one step for a platform, while others who need the same one wait.

    Raises BundleError.
    """
    plan.cache.mkdir(parents=True, exist_ok=True)
    if state == "planned" or plan.bundle.is_file():
        return
    with (plan.cache / f"{plan.platform}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if state == "sources":
            fetch_sources(plan)
        else:
            assemble(plan)
