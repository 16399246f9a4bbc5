"""The bundle's plan: what it is named by, what it compiles, what its launcher finds."""

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import bundle


def planned(cache: Path, **options: Any) -> bundle.Plan:
    """Plan for a platform; bookworm on a PC unless said otherwise."""
    device = {"release": "bookworm", "machine": "x86_64", "python": "3.11", "debian_pycurl": False}
    return bundle.Plan(str(cache), **{**device, **options})


def plan(cache: Path, **options: Any) -> dict[str, Any]:
    """What Ansible is told of the plan."""
    return dict(planned(cache, **options).report())


def test_pycurl_is_compiled_unless_it_is_debians(tmp_path: Path) -> None:
    assert plan(tmp_path)["missing"] == ["pycurl"]
    debian = plan(tmp_path, debian_pycurl=True)
    assert debian["missing"] == debian["packages"] == []


def test_32_bit_arm_compiles_what_has_no_wheel(tmp_path: Path) -> None:
    assert plan(tmp_path, machine="armv7l")["missing"] == ["pycurl", "python-pkcs11"]
    assert plan(tmp_path, machine="armv7l", debian_pycurl=True)["missing"] == ["python-pkcs11"]


def test_variants_and_platforms_have_names_of_their_own(tmp_path: Path) -> None:
    plans = [
        plan(tmp_path, release=release, machine=machine, python=python, debian_pycurl=pycurl)
        for release, python in (("bookworm", "3.11"), ("trixie", "3.13"))
        for machine in ("x86_64", "aarch64")
        for pycurl in (False, True)
    ]
    assert len({found["version"] for found in plans}) == len(plans)
    assert len({found["bundle"] for found in plans}) == len(plans)
    assert plan(tmp_path) == plan(tmp_path), "the same parts make the same name"


def wheel(cache: Path, tags: str) -> Path:
    """Put a whole wheel of pycurl into the cache of the default platform."""
    built = Path(plan(cache)["built"])
    built.mkdir(exist_ok=True)
    with zipfile.ZipFile(built / f"pycurl-7.45.7-{tags}.whl", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("pycurl.so", bytes(range(256)) * 4096)
    return Path(str(packed.filename))


def test_built_wheel_is_used(tmp_path: Path) -> None:
    wheel(tmp_path, "cp311-cp311-linux_x86_64")
    assert plan(tmp_path)["missing"] == []


@pytest.mark.parametrize(
    "tags", ["cp313-cp313-linux_x86_64", "cp311-cp311-linux_aarch64", "cp311-cp311-macosx_14_0_x86_64"]
)
def test_wheel_of_another_platform_is_built_again(tmp_path: Path, tags: str) -> None:
    name = wheel(tmp_path, tags).name
    assert plan(tmp_path)["missing"] == ["pycurl"]
    with pytest.raises(bundle.BundleError) as refused:
        bundle.provide(planned(tmp_path), "assembled")
    assert name in str(refused.value)
    assert "set edge_rotator_build_host to another device with Debian bookworm on x86_64" in str(
        refused.value
    )


@pytest.mark.parametrize("harm", ["cut", "empty", "changed", "garbled"])
def test_damaged_wheel_is_built_again(tmp_path: Path, harm: str) -> None:
    damaged = wheel(tmp_path, "cp311-cp311-linux_x86_64")
    whole = damaged.read_bytes()
    half, data = len(whole) // 2, whole.index(b"pycurl.so") + len("pycurl.so")
    harmed = {
        "cut": whole[:half],
        "empty": b"",
        "changed": whole[:half] + b"~" * 9 + whole[half + 9 :],
        "garbled": whole[:data] + b"~" * 9 + whole[data + 9 :],
    }
    damaged.write_bytes(harmed[harm])
    assert plan(tmp_path)["missing"] == ["pycurl"]
    with pytest.raises(bundle.BundleError, match=damaged.name):
        bundle.provide(planned(tmp_path), "assembled")


def test_damaged_download_is_one_sentence(tmp_path: Path) -> None:
    damaged = tmp_path / "asn1crypto-1.5.1-py2.py3-none-any.whl"
    damaged.write_bytes(b"PK")
    with pytest.raises(bundle.BundleError, match=f"^{damaged} is damaged .*: delete it and converge again$"):
        bundle.unpack(damaged, tmp_path)


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


def test_planning_makes_nothing(tmp_path: Path) -> None:
    bundle.provide(planned(tmp_path / "cache"), "planned")
    assert list((tmp_path / "cache").iterdir()) == []
