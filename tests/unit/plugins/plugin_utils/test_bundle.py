"""The bundle's plan: what it is named by, what it compiles, what is fetched, what its launcher finds."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pycurl
import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edge_litestream.appliance.plugins.action.edge_rotator_bundle import ActionModule
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import bundle
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.building import BuildError
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import KeptError, keep

BOOKWORM = {"release": "bookworm", "python": "3.11"}
TRIXIE = {"release": "trixie", "python": "3.13"}


def plan(cache: Path, **options: Any) -> bundle.Plan:
    """Plan for a platform; bookworm on a PC unless said otherwise."""
    device = {"release": "bookworm", "machine": "x86_64", "python": "3.11", "debian_pycurl": False}
    return bundle.Plan(str(cache), **{**device, **options})


def test_pycurl_is_compiled_unless_it_is_debians(tmp_path: Path) -> None:
    assert plan(tmp_path).own.compiled == ["pycurl"]
    assert plan(tmp_path, debian_pycurl=True).own.compiled == []


def test_32_bit_arm_compiles_what_has_no_wheel(tmp_path: Path) -> None:
    assert plan(tmp_path, machine="armv7l").own.compiled == ["pycurl", "python-pkcs11"]
    assert plan(tmp_path, machine="armv7l", debian_pycurl=True).own.compiled == ["python-pkcs11"]


def test_variants_and_platforms_have_names_of_their_own(tmp_path: Path) -> None:
    plans = [
        plan(tmp_path, machine=machine, debian_pycurl=pycurl, **releases).report()
        for releases in (BOOKWORM, TRIXIE, {**BOOKWORM, "upgrade": TRIXIE})
        for machine in ("x86_64", "aarch64", "armv7l")
        for pycurl in (False, True)
    ]
    assert len({found["version"] for found in plans}) == len(plans)
    assert len({found["bundle"] for found in plans}) == len(plans)
    assert plan(tmp_path).report() == plan(tmp_path).report(), "the same parts make the same name"


@pytest.mark.parametrize(
    "said",
    [
        {"release": "--customize-hook=id"},
        {"machine": "../../../etc"},
        {"python": "3.11/../../x"},
        {"python": "3.11\n"},
        {"release": ""},
        {"upgrade": {"release": "../trixie", "python": "3.13"}},
    ],
)
def test_what_a_device_says_of_itself_is_no_path_and_no_option(tmp_path: Path, said: dict[str, str]) -> None:
    with pytest.raises(bundle.BundleError, match="that is no Debian"):
        plan(tmp_path, **said)


def test_bundle_that_changed_in_the_cache_is_refused(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    keep(planned.folder, lambda target: (target / planned.bundle.name).write_bytes(b"whole"))
    assert planned.assembled()
    planned.bundle.write_bytes(b"other")
    with pytest.raises(KeptError, match=planned.bundle.name):
        planned.report()


def wheel(build: bundle.Build, folder: Path, content: bytes = b"") -> Path:
    """Make a wheel with one compiled module, as each release has it."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = build.python.replace(".", "")
    path = folder / f"pycurl-7-cp{digits}-cp{digits}-linux_{build.machine}.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"pycurl.cpython-{digits}-{build.machine}-linux-gnu.so", content)
    return path


def test_each_python_takes_its_own_part_of_a_bundle_for_two(tmp_path: Path) -> None:
    """For the running Python it is a real pycurl, for the other one it is none."""
    planned = plan(tmp_path / "cache", machine=os.uname().machine, upgrade=TRIXIE)
    real = Path(pycurl.__file__)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert planned.upgrade
    wheels = [
        wheel(build, tmp_path / build.release, real.read_bytes() if build.python == version else b"foreign")
        for build in (planned.own, planned.upgrade)
    ]
    bundle.assemble(planned, wheels)
    tree = tmp_path / "1.0"
    with tarfile.open(planned.bundle) as packed:
        packed.extractall(tree, filter="data")
    assert len(list(tree.glob("lib/pycurl.*.so"))) == 2
    (tree / "lib/edge_rotator/cli.py").write_text(
        "import pycurl\ndef main():\n    print(pycurl.__file__, pycurl.version)\n"
    )
    command = ["/usr/bin/python3", "-IS", str(tree / "bin/edge-rotator")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.split(maxsplit=1) == [str(tree / "lib" / real.name), f"{pycurl.version}\n"]


def test_build_refuses_a_debian_of_another_release(tmp_path: Path) -> None:
    """A mirror given as a line of sources.list names its release, whatever release was asked for."""
    script = plan(tmp_path, python="3.99").own.script
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not 3.99: mirrors of another release?" in done.stderr


@pytest.fixture
def converge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run the action, with what is downloaded and compiled replaced by `made`."""

    def run(made: Callable[[bundle.Build, Path], Path], **platform: Any) -> dict[str, Any]:
        def fetch(build: bundle.Build, folder: Path) -> list[Path]:
            return [made(build, folder)]

        monkeypatch.setattr(bundle, "fetch_wheels", fetch)
        device = {**BOOKWORM, "machine": "x86_64", "debian_pycurl": True, "upgrade": TRIXIE, **platform}
        task = Mock(args={"cache": str(tmp_path), "platform": device}, check_mode=False, async_val=0)
        return dict(ActionModule(task, *[Mock()] * 5).run())

    return run


def members(done: dict[str, Any]) -> set[str]:
    with tarfile.open(done["bundle"]) as packed:
        return {name for name in packed.getnames() if name.endswith(".so")}


OWN, OTHER = (f"lib/pycurl.cpython-{digits}-x86_64-linux-gnu.so" for digits in ("311", "313"))


def test_bundle_serves_the_next_release_too(converge: Callable[..., dict[str, Any]]) -> None:
    assert members(converge(wheel)) == {OWN, OTHER}
    assert members(converge(wheel, upgrade={})) == {OWN}
    assert members(converge(wheel, **TRIXIE, upgrade={})) == {OTHER}


def test_next_release_that_cannot_be_built_is_a_warning(converge: Callable[..., dict[str, Any]]) -> None:
    def no_trixie(build: bundle.Build, folder: Path) -> Path:
        if build.release == "trixie":
            raise BuildError("no route to the mirror")
        return wheel(build, folder)

    done = converge(no_trixie)
    assert members(done) == {OWN}
    assert done["version"] == converge(wheel, upgrade={})["version"]
    (warning,) = done["warnings"]
    assert "Debian trixie nothing will rotate until the device is converged again" in warning
    assert "no route to the mirror" in warning
    assert "edge_rotator_next_release: false" in warning
    again = converge(wheel)
    assert "warnings" not in again
    assert members(again) == {OWN, OTHER}, "the next converge tries again"


@pytest.mark.parametrize(
    ("release", "error"), [("bookworm", BuildError("no mirror")), ("trixie", KeptError("not as it was made"))]
)
def test_what_the_device_runs_now_and_what_was_changed_is_no_warning(
    converge: Callable[..., dict[str, Any]], release: str, error: Exception
) -> None:
    def fails(build: bundle.Build, folder: Path) -> Path:
        if build.release == release:
            raise error
        return wheel(build, folder)

    with pytest.raises(AnsibleActionFail, match=str(error)):
        converge(fails)


def archive(folder: Path, setup: str) -> str:
    """Make a source archive with this setup.py as an index would hold it: its digest."""
    files = {"setup.py": setup, "PKG-INFO": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n"}
    path = folder / "hostile-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, text in files.items():
            member = tarfile.TarInfo(f"hostile-1.0/{name}")
            member.size = len(text)
            packed.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory that is all that pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def fake_setuptools(folder: Path, trap: Path) -> None:
    """Put a setuptools, newer than any, into the index that runs what it is asked about and says so."""
    backend = f"""import os, pathlib
def get_requires_for_build_wheel(*_): return []
def prepare_metadata_for_build_wheel(folder, *_):
    pathlib.Path({str(trap)!r}, "setuptools").touch()
    exec(pathlib.Path("setup.py").read_text())
    os.mkdir(folder + "/hostile-1.0.dist-info")
    pathlib.Path(folder, "hostile-1.0.dist-info/METADATA").write_text(pathlib.Path("PKG-INFO").read_text())
    return "hostile-1.0.dist-info"
class __legacy__:
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
"""
    for name in ("setuptools", "wheel"):
        with zipfile.ZipFile(folder / f"{name}-999-py3-none-any.whl", "w") as packed:
            packed.writestr(f"{name}/__init__.py", "")
            packed.writestr(f"{name}/build_meta.py", backend)
            information = f"{name}-999.dist-info"
            packed.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 999\n")
            packed.writestr(
                f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            packed.writestr(f"{information}/RECORD", "")


def test_nothing_of_a_source_archive_runs_on_the_control_node(tmp_path: Path, index: Path) -> None:
    trap, target = tmp_path / "trap", tmp_path / "target"
    trap.mkdir()
    digest = archive(index, f"import pathlib\npathlib.Path({str(trap)!r}, 'setup').touch()\n")
    fake_setuptools(index, trap)
    lock = tmp_path / "lock"
    lock.write_text(f"hostile==1.0 --hash=sha256:{digest}\n")
    bundle.fetch_archives(lock, target)
    assert [path.name for path in target.iterdir()] == ["hostile-1.0.tar.gz"]
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize(
    ("pin", "said"),
    [(f" --hash=sha256:{'0' * 64}", "DO NOT MATCH THE HASHES"), ("", "Hashes are required")],
)
def test_source_archive_that_is_not_the_locks_is_refused(
    tmp_path: Path, index: Path, pin: str, said: str
) -> None:
    archive(index, "")
    lock = tmp_path / "lock"
    lock.write_text(f"hostile==1.0{pin}\n")
    with pytest.raises(bundle.BundleError, match=said):
        bundle.fetch_archives(lock, tmp_path / "target")
    assert not (tmp_path / "target/hostile-1.0.tar.gz").exists()


@pytest.mark.parametrize("pycurl", ["bundled", "debian"])
def test_launcher_puts_debians_packages_last_or_nowhere(tmp_path: Path, pycurl: str) -> None:
    more = bundle.DEBIAN_PACKAGES if pycurl == "debian" else ""
    tree = tmp_path / "1.0"
    package = tree / "lib/edge_rotator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\ndef main():\n    print('\\n'.join(sys.path))\n")
    launcher = tree / "bin/edge-rotator"
    launcher.parent.mkdir()
    launcher.write_text(bundle.LAUNCHER.format(more=more))
    link = tmp_path / "edge-rotator"
    link.symlink_to(launcher)
    command = ["/usr/bin/python3", "-IS", str(link)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == str(tree / "lib")
    assert ("/usr/lib/python3/dist-packages" in found) == (pycurl == "debian")
    assert "/usr/lib/python3/dist-packages" not in found[:-1]
