"""Put together, on the control node, what a device runs: the rotator, pycurl, python-pkcs11 and a launcher.

A bundle is a tar archive per platform, named by a digest of all that went into it, so that an unchanged
one is never made or pushed twice. Devices need neither PyPI nor a compiler, and nothing of what is made
here comes from a device. With Debian's own pycurl nothing is compiled for common platforms.

A bundle can hold the compiled parts of two Debian releases, so that it still runs when the device has been
upgraded: their names carry the version of Python, which takes its own and leaves the others alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import keep, kept

COLLECTION = Path(__file__).resolve().parents[2]
LOCK = COLLECTION / "files/device-requirements.lock"
BUILD_LOCK = COLLECTION / "files/device-build-requirements.lock"
PULL_LOCK = COLLECTION / "files/device-pull-requirements.lock"
TIMEOUT_S = 600
COMPILED = [
    "pycurl"
]  # always built: PyPI's wheel carries an OpenSSL of its own, which cannot load the engine
WHEELS = ["python-pkcs11", "asn1crypto"]
WHEEL_PLATFORMS = {
    "x86_64": ["manylinux_2_28_x86_64", "manylinux2014_x86_64"],
    "aarch64": ["manylinux_2_28_aarch64", "manylinux2014_aarch64"],
}
BUILD_PACKAGES = ["gcc", "libc6-dev", "libcurl4-openssl-dev", "libssl-dev", "python3-dev", "python3-pip"]
# A mirror that is given as a line of sources.list names a release of its own.
BUILD_SCRIPT = """\
found=$(python3 -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = {python} ] || {{ echo "this Debian has Python $found, not {python}: \
mirrors of another release?" >&2; exit 1; }}
export PYCURL_SSL_LIBRARY=openssl
python3 -I -m pip wheel --quiet --no-deps --no-index --no-cache-dir --find-links sources --wheel-dir out \
--no-binary {comma} {space}
"""
# pip asks a source archive's setuptools for the metadata even of what it only downloads, which would run
# the archive's setup.py here. This answers in its place, from the file that every source archive has.
METADATA_ONLY = """\
import email
import pathlib
import sys


def prepare_metadata_for_build_wheel(directory, config_settings=None):
    metadata = pathlib.Path("PKG-INFO").read_bytes()
    said = email.message_from_bytes(metadata)
    folder = pathlib.Path(directory, f"{said['Name'].replace('-', '_')}-{said['Version']}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_bytes(metadata)
    return folder.name


__legacy__ = sys.modules[__name__]
"""
LAUNCHER = """#!/usr/bin/python3 -IS
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))
{more}from edge_rotator.cli import main  # noqa: E402

sys.exit(main())
"""
# Jinja2 and PyYAML are Debian's.
ANSIBLE_LAUNCHER = """#!/usr/bin/python3 -I
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))
from ansible.cli.playbook import main  # noqa: E402

sys.exit(main())
"""
# At the end: nothing of Debian's may stand before the standard library or the bundle.
DEBIAN_PACKAGES = 'sys.path.append("/usr/lib/python3/dist-packages")\n'
# Of a release, an architecture, a version.
PLAIN = re.compile(r"[a-z0-9][a-z0-9_]*(\.[0-9]+)?", re.ASCII)


class BundleError(Exception):
    """What is missing, as one sentence with its fix."""


class Build:
    """What is compiled and fetched for one release."""

    def __init__(self, cache: Path, release: str, machine: str, python: str, debian_pycurl: bool) -> None:
        # Facts, so what the device says: they become paths here and arguments of programs.
        for said in (release, machine, python):
            if not PLAIN.fullmatch(said):
                raise BundleError(f"the device calls its platform {said!r}: that is no Debian")
        self.release, self.machine, self.python = release, machine, python
        self.platform = f"{release}-{machine}-cp{python.replace('.', '')}"
        self.compiled = [] if debian_pycurl else list(COMPILED)
        self.wheels = list(WHEELS)
        if machine not in WHEEL_PLATFORMS:  # no wheel of python-pkcs11 for 32-bit Arm
            self.compiled.append("python-pkcs11")
            self.wheels.remove("python-pkcs11")
        self.script = BUILD_SCRIPT.format(
            python=python, comma=",".join(self.compiled), space=" ".join(self.compiled)
        )
        recipe = f"{self.script} {BUILD_PACKAGES}" if self.compiled else ""
        locks = hashlib.sha256(LOCK.read_bytes() + BUILD_LOCK.read_bytes()).hexdigest()
        self.recipe = hashlib.sha256(f"{locks} {recipe}".encode()).hexdigest()[:12]
        self.built = cache / f"built-{self.platform}-{self.recipe}"


class Plan:
    """The bundle of one platform: where its parts are, and its digest."""

    def __init__(
        self,
        cache: str,
        release: str,
        machine: str,
        python: str,
        debian_pycurl: bool,
        upgrade: dict[str, str] | None = None,
    ) -> None:
        self.cache = Path(cache)
        self.own = Build(self.cache, release, machine, python, debian_pycurl)
        self.upgrade = (
            Build(self.cache, machine=machine, debian_pycurl=debian_pycurl, **upgrade) if upgrade else None
        )
        self.launcher = LAUNCHER.format(more=DEBIAN_PACKAGES if debian_pycurl else "")
        self.package = sorted((COLLECTION / "edge_rotator").glob("*.py"))
        parts = [f"{build.platform} {build.recipe}" for build in (self.own, self.upgrade) if build]
        digest = hashlib.sha256(" ".join([*parts, self.launcher]).encode())
        for module in self.package:
            digest.update(module.name.encode() + module.read_bytes())
        version = re.search(r'"([^"]+)"$', (COLLECTION / "edge_rotator/__init__.py").read_text().rstrip())
        if version is None:
            raise BundleError(f"{COLLECTION / 'edge_rotator/__init__.py'} names no version")
        self.version = f"{version[1]}-{digest.hexdigest()[:12]}"
        self.artifact = f"edge-rotator-{self.version}-{self.own.platform}.tar.gz"
        self.folder = self.cache / self.artifact.removesuffix(".tar.gz")
        self.bundle = self.folder / "edge-rotator.tar.gz"

    def assembled(self) -> bool:
        """Whether the bundle is in the cache.

        Raises KeptError where it is not as it was made.
        """
        return bool(kept(self.folder))

    def report(self) -> dict[str, object]:
        """Tell Ansible what it works with."""
        return {
            "version": self.version,
            "platform": self.own.platform,
            "bundle": str(self.bundle),
            "assembled": self.assembled(),
            "artifact": self.artifact,
        }


class Core:
    """ansible-core for devices that pull: a wheel without compiled parts, so one archive for all."""

    def __init__(self, cache: str) -> None:
        lock = PULL_LOCK.read_text()
        found = re.search(r"^ansible-core==([0-9.]+)", lock, re.MULTILINE)
        if found is None:
            raise BundleError(f"{PULL_LOCK} has no entry for ansible-core: run make lock")
        self.version = f"{found[1]}-{hashlib.sha256((lock + ANSIBLE_LAUNCHER).encode()).hexdigest()[:12]}"
        self.artifact = f"ansible-core-{self.version}.tar.gz"
        self.folder = Path(cache) / self.artifact.removesuffix(".tar.gz")
        self.bundle = self.folder / "ansible-core.tar.gz"

    def make(self) -> None:
        """Have it in the cache. Raises BundleError, KeptError."""

        def make(target: Path) -> None:
            with tempfile.TemporaryDirectory() as name:
                pip(
                    "download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--platform",
                    "any", "--python-version", "3.11", "--dest", name, "--requirement", str(PULL_LOCK),
                )  # fmt: skip
                tree = Path(name, "tree")
                for wheel in sorted(Path(name).glob("*.whl")):
                    unpack(wheel, tree / "lib")
                # A third of it, and nothing that runs a play.
                shutil.rmtree(tree / "lib/ansible_test", ignore_errors=True)
                launch(tree / "bin/ansible-playbook", ANSIBLE_LAUNCHER)
                pack(tree, target / self.bundle.name)

        keep(self.folder, make)

    def report(self) -> dict[str, object]:
        """Tell Ansible what it works with."""
        return {
            "version": self.version,
            "bundle": str(self.bundle),
            "assembled": bool(kept(self.folder)),
            "artifact": self.artifact,
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


def fetch_sources(build: Build, target: Path) -> None:
    """Download what is compiled, and what compiles it, by the locks' hashes. Nothing of it is run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builders = ["cython", "packaging", "setuptools", "setuptools-scm", "vcs-versioning", "wheel"]
        pip(
            "download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--platform", "any",
            "--python-version", build.python, "--dest", str(target),
            "--requirement", str(subset(BUILD_LOCK, builders, folder / "build.lock")),
        )  # fmt: skip
        fetch_archives(subset(LOCK, build.compiled, folder / "sources.lock"), target)


def fetch_wheels(build: Build, target: Path) -> list[Path]:
    """Download what PyPI has compiled, by the lock's hashes."""
    with tempfile.TemporaryDirectory() as name:
        platforms = [f"--platform={tag}" for tag in WHEEL_PLATFORMS.get(build.machine, ["any"])]
        pip(
            "download", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--python-version", build.python, *platforms, "--dest", str(target),
            "--requirement", str(subset(LOCK, build.wheels, Path(name, "wheels.lock"))),
        )  # fmt: skip
    return sorted(target.glob("*.whl"))


def fetch_archives(requirements: Path, target: Path) -> None:
    """Download source archives by their hashes without running their setup.py."""
    with tempfile.TemporaryDirectory() as name:
        module = Path(name, "setuptools/build_meta.py")
        module.parent.mkdir()
        (module.parent / "__init__.py").touch()
        module.write_text(METADATA_ONLY)
        path = os.pathsep.join(filter(None, [name, os.environ.get("PYTHONPATH")]))
        pip(
            "download", "--no-deps", "--require-hashes", "--no-binary", ":all:", "--no-build-isolation",
            "--dest", str(target), "--requirement", str(requirements),
            # Older versions of pip would run setup.py themselves.
            environment={"PYTHONPATH": path, "PIP_USE_PEP517": "1"},
        )  # fmt: skip


def unpack(wheel: Path, target: Path) -> None:
    """Unpack a wheel that is verified by its hash, or built and recorded."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(target)  # noqa: S202 - see above


def assemble(plan: Plan, wheels: list[Path]) -> None:
    """Make the bundle from wheels and the package."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for wheel in wheels:
            unpack(wheel, tree / "lib")
        package = tree / "lib/edge_rotator"
        package.mkdir()
        for module in plan.package:
            (package / module.name).write_bytes(module.read_bytes())
        launch(tree / "bin/edge-rotator", plan.launcher)
        keep(plan.folder, lambda target: pack(tree, target / plan.bundle.name))


def launch(program: Path, text: str) -> None:
    """Write a program that finds the bundle's packages."""
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(0o755)


def pack(tree: Path, archive: Path) -> None:
    """Put all of a directory into an archive."""
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(tree.rglob("*")):
            packed.add(path, str(path.relative_to(tree)), recursive=False, filter=root_owned)


def root_owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Root's, and writable for nobody else: sudoers and units run it."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
