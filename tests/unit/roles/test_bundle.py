"""The bundle's plan: what it is named by, what it compiles, what its launcher finds."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = ROOT / "roles/edge_rotator/files/bundle.py"


def plan(cache: Path, **options: str) -> dict[str, Any]:
    """Ask for the plan of a platform; bookworm on a PC unless said otherwise."""
    words = {"release": "bookworm", "machine": "x86_64", "python": "3.11", **options}
    command = [sys.executable, str(BUNDLE), "plan", f"--root={ROOT}", f"--cache={cache}"]
    command += [f"--{name}={value}" for name, value in words.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_pycurl_is_compiled_unless_it_is_debians(tmp_path: Path) -> None:
    assert plan(tmp_path)["missing"] == ["pycurl"]
    debian = plan(tmp_path, pycurl="debian")
    assert debian["missing"] == debian["packages"] == []


def test_32_bit_arm_compiles_what_has_no_wheel(tmp_path: Path) -> None:
    assert plan(tmp_path, machine="armv7l")["missing"] == ["pycurl", "python-pkcs11"]
    assert plan(tmp_path, machine="armv7l", pycurl="debian")["missing"] == ["python-pkcs11"]


def test_variants_and_platforms_have_names_of_their_own(tmp_path: Path) -> None:
    plans = [
        plan(tmp_path, release=release, machine=machine, python=python, pycurl=pycurl)
        for release, python in (("bookworm", "3.11"), ("trixie", "3.13"))
        for machine in ("x86_64", "aarch64")
        for pycurl in ("bundled", "debian")
    ]
    assert len({found["version"] for found in plans}) == len(plans)
    assert len({found["bundle"] for found in plans}) == len(plans)
    assert plan(tmp_path) == plan(tmp_path), "the same parts make the same name"


@pytest.mark.parametrize("pycurl", ["bundled", "debian"])
def test_launcher_puts_debians_packages_last_or_nowhere(tmp_path: Path, pycurl: str) -> None:
    bundle = runpy.run_path(str(BUNDLE))
    more = bundle["DEBIAN_PACKAGES"] if pycurl == "debian" else ""
    tree = tmp_path / "1.0"
    package = tree / "lib/edge_rotator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\ndef main():\n    print('\\n'.join(sys.path))\n")
    launcher = tree / "bin/edge-rotator"
    launcher.parent.mkdir()
    launcher.write_text(bundle["LAUNCHER"].format(more=more))
    link = tmp_path / "edge-rotator"
    link.symlink_to(launcher)
    command = ["/usr/bin/python3", "-IS", str(link)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == str(tree / "lib")
    assert ("/usr/lib/python3/dist-packages" in found) == (pycurl == "debian")
    assert "/usr/lib/python3/dist-packages" not in found[:-1]
