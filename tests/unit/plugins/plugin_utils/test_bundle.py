"""The bundle's plan: what it is named by, what it compiles, what is fetched, what its launcher finds."""

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import bundle
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import KeptError, keep


def plan(cache: Path, **options: Any) -> bundle.Plan:
    """Plan for a platform; bookworm on a PC unless said otherwise."""
    device = {"release": "bookworm", "machine": "x86_64", "python": "3.11", "debian_pycurl": False}
    return bundle.Plan(str(cache), **{**device, **options})


def test_pycurl_is_compiled_unless_it_is_debians(tmp_path: Path) -> None:
    assert plan(tmp_path).compiled == ["pycurl"]
    assert plan(tmp_path, debian_pycurl=True).compiled == []


def test_32_bit_arm_compiles_what_has_no_wheel(tmp_path: Path) -> None:
    assert plan(tmp_path, machine="armv7l").compiled == ["pycurl", "python-pkcs11"]
    assert plan(tmp_path, machine="armv7l", debian_pycurl=True).compiled == ["python-pkcs11"]


def test_variants_and_platforms_have_names_of_their_own(tmp_path: Path) -> None:
    plans = [
        plan(tmp_path, release=release, machine=machine, python=python, debian_pycurl=pycurl).report()
        for release, python in (("bookworm", "3.11"), ("trixie", "3.13"))
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
