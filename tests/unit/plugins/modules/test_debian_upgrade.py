"""From Debian 12 to 13, step by step: who is fit for it, which sources change, and what a phase does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import debian_upgrade

Run = Callable[..., dict[str, Any]]
ONE_LINE = """\
# Debian
deb http://deb.debian.org/debian bookworm main  # bookworm
deb [signed-by=/usr/share/x.gpg arch=arm64] http://deb.debian.org/debian bookworm-updates main contrib
deb-src http://security.debian.org/debian-security bookworm-security main
#deb http://deb.debian.org/debian bookworm-backports main
"""
STANZAS = """\
# Debian's own
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
 bookworm-backports
# bookworm is old
Components: main
X-Repolib-Name: bookworm
Signed-By: /usr/share/keyrings/debian-archive-keyring-bookworm.gpg

Types: deb
URIs: https://download.docker.com/linux/debian
Suites:bookworm
Enabled: yes
Components: stable

Types: deb
URIs: http://archive.raspberrypi.com/debian/
Suites: bookworm
Enabled: no
"""
SYSTEMCTL = """\
#!/bin/sh
if [ "$1" = show ]; then cat "$FAKE/unit"; else echo "systemctl $*" >>"$FAKE/log"; fi
"""
SYSTEMD_RUN = """\
#!/bin/sh
for word; do last=$word; done
printf '%s\\n' "$*" >>"$FAKE/log"
"""


class Device:
    """A device in a directory: its files, and programs that say what they are told to."""

    def __init__(self, top: Path) -> None:
        self.top = top
        for path in ("apt/sources.list.d", "apt/preferences.d", "sys/power_supply", "sys/hwmon", "bin"):
            (top / path).mkdir(parents=True)
        self.says("apt-get", "").says("apt-mark", "").says("dpkg", "").runs("bookworm")
        self.program("systemctl", SYSTEMCTL)
        self.program("systemd-run", SYSTEMD_RUN)
        self.unit("inactive")
        (self.top / "log").touch()

    def program(self, name: str, text: str) -> Device:
        (self.top / "bin" / name).write_text(text)
        (self.top / "bin" / name).chmod(0o755)
        return self

    def says(self, name: str, text: str) -> Device:
        return self.program(name, f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n" if text else "#!/bin/sh\n")

    def runs(self, release: str) -> Device:
        (self.top / "os-release").write_text(f"ID=debian\nVERSION_CODENAME={release}\n")
        return self

    def unit(self, state: str, description: str = "") -> None:
        (self.top / "unit").write_text(f"ActiveState={state}\nDescription={description}\n")

    def file(self, name: str, text: str) -> Path:
        (self.top / name).parent.mkdir(parents=True, exist_ok=True)
        (self.top / name).write_text(text)
        return self.top / name

    @property
    def log(self) -> str:
        return (self.top / "log").read_text()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("FAKE", str(tmp_path))
    for name, path in {"APT": "apt", "OS_RELEASE": "os-release", "SYS": "sys", "LOG": "upgrade.log"}.items():
        monkeypatch.setattr(debian_upgrade, name, tmp_path / path)
    for name, path in {"BOOT": "boot", "CRYPTTAB": "crypttab", "SSHD": "bin/sshd"}.items():
        monkeypatch.setattr(debian_upgrade, name, tmp_path / path)
    monkeypatch.setattr(debian_upgrade, "STATE", tmp_path / "state")
    yield made


def fit(run: Run, **more: Any) -> dict[str, Any]:
    return run(**{"state": "checked", "now": time.time(), "room": 1, **more})


def test_a_device_that_is_fit(run: Run, device: Device) -> None:
    device.file("apt/sources.list", ONE_LINE)
    found = fit(run)
    assert not found.get("failed"), found
    assert (found["pending"], found["begun"], found["changed"]) == (True, False, False)


def test_one_that_has_it_already_is_asked_nothing(run: Run, device: Device) -> None:
    device.runs("trixie").says("apt-mark", "held")
    found = fit(run, room=1 << 40)
    assert not found.get("failed"), found
    assert not found["pending"]


def test_one_whose_upgrade_broke_off_goes_on_with_packages_half_installed(run: Run, device: Device) -> None:
    device.file("state/begun", "")
    device.runs("trixie").says("dpkg", "libc6 is half configured")
    found = fit(run, room=1 << 40)
    assert not found.get("failed"), found
    assert (found["pending"], found["begun"]) == (True, True)


def held(device: Device) -> None:
    device.says("apt-mark", "linux-image-rpi\nraspi-firmware")


def half_installed(device: Device) -> None:
    device.says("dpkg", "The following packages are only half configured")


def pinned(device: Device) -> None:
    device.file("apt/preferences.d/curl", "Package: curl\nPin: release n=bookworm\nPin-Priority: 990\n")


def foreign(device: Device) -> None:
    device.file("apt/sources.list.d/x.sources", STANZAS)


def pretending(device: Device) -> None:
    """Its host's name ends like Debian's, and no dot is before that."""
    device.file("apt/sources.list", "deb https://notdebian.org/debian bookworm main\n")


def another_origin(device: Device) -> None:
    """On Debian's host, and its Release file says that it is somebody's."""
    listed = device.file("apt/sources.list", "deb https://people.debian.org/~x bookworm main\n")
    device.says("apt-get", f"{listed}:1|https://people.debian.org/~x/|bookworm|Somebody")


def moving(device: Device) -> None:
    device.file("apt/sources.list", "deb http://deb.debian.org/debian stable-updates main\n")


def on_battery(device: Device) -> None:
    device.file("sys/power_supply/AC/type", "Mains\n")
    device.file("sys/power_supply/AC/online", "0\n")


def weak(device: Device) -> None:
    device.file("sys/hwmon/hwmon1/name", "rpi_volt\n")
    device.file("sys/hwmon/hwmon1/in0_lcrit_alarm", "1\n")


def older(device: Device) -> None:
    device.runs("bullseye")


@pytest.mark.parametrize(
    ("wrong", "more", "said"),
    [
        (held, {}, "packages are held: linux-image-rpi, raspi-firmware"),
        (half_installed, {}, "packages are half installed"),
        (pinned, {}, "pins packages to bookworm"),
        (foreign, {}, "https://download.docker.com/linux/debian bookworm"),
        (pretending, {}, "neither Debian's nor Raspberry Pi's: https://notdebian.org/debian bookworm"),
        (another_origin, {}, "neither Debian's nor Raspberry Pi's: https://people.debian.org/~x bookworm"),
        (moving, {}, "names stable-updates: name bookworm"),
        (on_battery, {}, "it runs on battery"),
        (weak, {}, "undervoltage"),
        (older, {}, "it runs bullseye"),
        (held, {"room": 1 << 40}, "MiB free"),
        # More by as long as the tests before it take.
        (held, {"now": time.time() - 7200}, "its clock is +7"),
    ],
)
def test_why_a_device_is_not_fit(
    run: Run, device: Device, wrong: Callable[[Device], None], more: dict[str, Any], said: str
) -> None:
    wrong(device)
    found = fit(run, **more)
    assert found["failed"]
    assert said in found["msg"]


def test_all_that_is_wrong_is_said_at_once(run: Run, device: Device) -> None:
    for wrong in (held, half_installed, weak):
        wrong(device)
    assert len(fit(run)["problems"]) == 3


@pytest.mark.parametrize("third_party", ["disable", "keep"])
def test_other_sources_are_allowed_by_the_operator_alone(run: Run, device: Device, third_party: str) -> None:
    foreign(device)
    assert not fit(run, third_party=third_party).get("failed")


def test_a_mirror_is_known_by_what_its_release_file_says(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", "deb http://mirror.example/debian bookworm main\n")
    assert fit(run)["failed"], "its Release file was never fetched"
    device.says("apt-get", f"{listed}:1|http://mirror.example/debian/|bookworm|Debian")
    assert not fit(run).get("failed")
    assert run(state="switched")["changed"]
    assert listed.read_text() == "deb http://mirror.example/debian trixie main\n"


def test_sources_in_one_line(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", ONE_LINE)
    shown = run(check=True, state="switched")
    assert shown["changed"]
    assert listed.read_text() == ONE_LINE
    assert run(state="switched")["diff"] == shown["diff"]
    expected = ONE_LINE
    for suite in (" bookworm main  #", "bookworm-updates", "bookworm-security"):
        expected = expected.replace(suite, suite.replace("bookworm", "trixie"))
    assert listed.read_text() == expected, "comments and options stay"
    assert not run(state="switched")["changed"]


def test_sources_in_stanzas(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list.d/all.sources", STANZAS)
    assert run(state="switched", third_party="keep")["changed"]
    expected = STANZAS.replace(
        "bookworm bookworm-updates\n bookworm-backports", "trixie trixie-updates\n trixie-backports"
    )
    assert listed.read_text() == expected, "keyrings, comments, other sources and those that are off stay"


def test_other_sources_are_switched_off_and_come_back(run: Run, device: Device) -> None:
    stanzas = device.file("apt/sources.list.d/all.sources", STANZAS)
    line = device.file("apt/sources.list.d/x.list", "deb https://x.example/ bookworm main\n")
    assert run(state="disabled", third_party="disable")["changed"]
    assert "trixie" not in stanzas.read_text()
    assert not run(state="disabled", third_party="disable")["changed"]
    assert run(state="switched", third_party="disable")["changed"]
    off = "# switched off by edge_litestream.appliance.debian_upgrade"
    assert f"{off}\nEnabled: no\nTypes: deb\nURIs: https://download.docker.com" in stanzas.read_text()
    assert stanzas.read_text().count("Enabled:") == 2
    assert line.read_text() == f"{off}: deb https://x.example/ bookworm main\n"
    assert not run(state="switched", third_party="disable")["changed"]
    assert run(check=True, state="restored")["changed"]
    assert run(state="restored")["changed"]
    assert (stanzas.read_text(), line.read_text()) == (STANZAS, "deb https://x.example/ bookworm main\n")
    assert not run(state="restored")["changed"]


def test_the_sources_stay_switched_once_packages_are_installed(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", ONE_LINE)
    run(state="switched")
    device.file("state/begun", "")
    assert not run(state="restored")["changed"]
    assert "trixie" in listed.read_text()


def test_a_phase_is_begun_once_and_waited_for(run: Run, device: Device) -> None:
    assert run(check=True, state="started", phase="download")["finished"]
    assert device.log == ""
    begun = run(state="started", phase="download")
    assert begun["changed"]
    assert not begun["finished"]
    assert f"--description=download {begun['token']}" in device.log
    assert "--download-only full-upgrade" in device.log
    device.file("upgrade.log", "Get:1 http://x\nGet:2 http://x\nhalf a li")
    device.unit("activating", f"download {begun['token']}")
    told = device.log
    asked = run(state="finished", phase="download", token=begun["token"])
    assert (asked["finished"], asked["line"], device.log) == (False, "Get:2 http://x", told)
    device.unit("active", f"download {begun['token']}")
    assert run(state="finished", phase="download", token=begun["token"])["finished"]
    assert device.log == told


def test_a_phase_that_failed_fails_with_the_end_of_its_log(run: Run, device: Device) -> None:
    device.unit("failed", "upgrade t")
    device.file("upgrade.log", "E: Sub-process dpkg returned an error code (1)\n")
    failed = run(state="finished", phase="upgrade", token="t")
    assert failed["failed"]
    assert "Sub-process dpkg returned" in failed["msg"]


def test_what_another_run_begun_is_waited_for_and_then_done_again(run: Run, device: Device) -> None:
    """Its download may be of yesterday; and two of apt's runs at once would be refused."""
    device.unit("activating", "upgrade of-another-run")
    assert not run(state="started", phase="download")["changed"]
    assert device.log == ""
    for state in ("active", "failed", "inactive"):
        device.unit(state, "download of-another-run")
        assert run(state="finished", phase="download", token="mine")["changed"]
    assert device.log.count("--description=download mine") == 3


def test_the_script_of_each_phase_stops_at_its_first_failure(device: Device) -> None:
    """But what dpkg cannot configure, since it was being unpacked when the power went, is apt's."""
    device.program("touch", '#!/bin/sh\necho touch "$@"\n').program("dpkg", "#!/bin/sh\nexit 1\n")
    device.program("apt-get", '#!/bin/sh\necho "$@"\n')
    whole = said_by_phases()
    assert whole["current"] == (0, ["update", "upgrade"])
    assert whole["download"] == (0, ["update", "autoclean", "--download-only full-upgrade"])
    mended = ["touch S/begun", "--fix-broken install", "upgrade --without-new-pkgs", "full-upgrade", "clean"]
    assert whole["upgrade"] == (0, mended)
    device.program("apt-get", '#!/bin/sh\necho "$@"; exit 1\n')
    broken = said_by_phases()
    assert broken == {
        "current": (1, ["update"]),
        "download": (1, ["update"]),
        "upgrade": (1, ["touch S/begun", "--fix-broken install"]),
    }


def said_by_phases() -> dict[str, tuple[int, list[str]]]:
    """Run the script of each phase: its exit code, and what it called."""
    said = {}
    for name, script in debian_upgrade.PHASES.items():
        whole = f'apt_get() {{ apt-get "$@"; }}; {script.format(state="S")}'
        done = subprocess.run(["/bin/sh", "-c", whole], capture_output=True, text=True, check=False)
        said[name] = (done.returncode, done.stdout.splitlines())
    return said


def test_the_end(run: Run, device: Device) -> None:
    device.file("state/begun", "")
    assert "it runs bookworm and not trixie" in run(state="ended")["msg"]
    device.runs("trixie").says("dpkg", "half configured")
    assert "half installed" in run(state="ended")["msg"]
    device.says("dpkg", "")
    assert run(check=True, state="ended")["changed"]
    assert run(state="ended")["changed"]
    assert not run(state="ended")["changed"]


def test_what_has_begun_asks_the_mirror_again_and_goes_on_without_it(tmp_path: Path, device: Device) -> None:
    """The download is not made again, and the lists may be old."""
    device.file("S/begun", "")
    device.program("dpkg", "#!/bin/sh\n")
    device.program("apt-get", '#!/bin/sh\necho "$@"; test "$1" != update\n')
    script = debian_upgrade.PHASES["upgrade"].format(state=tmp_path / "S")
    whole = f'apt_get() {{ apt-get "$@"; }}; {script}'
    done = subprocess.run(["/bin/sh", "-c", whole], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["update", "--fix-broken install"]


def test_sources_keep_their_mode_and_owner(run: Run, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a password may be its owner's alone."""
    owners: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(
        debian_upgrade.os, "chown", lambda path, user, group: owners.update({Path(path).name: (user, group)})
    )
    listed = device.file("apt/sources.list", ONE_LINE)
    own = device.file("apt/sources.list.d/own.list", ONE_LINE)
    listed.chmod(0o600)
    own.chmod(0o640)
    expected = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in (listed, own)}
    for state in ("switched", "restored"):
        owners.clear()
        assert run(state=state)["changed"]
        assert [path.stat().st_mode & 0o777 for path in (listed, own)] == [0o600, 0o640]
        assert owners == expected


def test_a_diff_and_a_reason_have_no_password(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", "deb http://me:secret@deb.debian.org/debian bookworm main\n")
    assert run(state="switched", check=True)["diff"][0]["after"] == (
        "deb http://***@deb.debian.org/debian trixie main\n"
    )
    assert "secret" not in str(run(state="switched")["diff"])
    assert listed.read_text() == "deb http://me:secret@deb.debian.org/debian trixie main\n"
    device.file("apt/sources.list", "deb http://me:secret@x.example/debian bookworm main\n")
    assert "secret" not in str(fit(run))


def test_a_download_that_runs_is_stopped_before_the_sources_are_put_back(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", ONE_LINE)
    run(state="switched")
    device.unit("activating", "download of-another-run")
    assert run(check=True, state="restored")["changed"]
    assert device.log == ""
    assert run(state="restored")["changed"]
    assert device.log == f"systemctl stop {debian_upgrade.UNIT}\n"
    assert listed.read_text() == ONE_LINE


def test_an_installation_that_begins_meanwhile_keeps_its_sources(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", ONE_LINE)
    run(state="switched")
    device.unit("activating", "upgrade of-another-run")
    began = SYSTEMCTL.replace("else", f"else touch {device.top}/state/begun;")
    device.program("systemctl", began)
    assert not run(state="restored")["changed"]
    assert "trixie" in listed.read_text()


def test_dpkg_is_not_broken_off_in_the_release_of_today(run: Run, device: Device) -> None:
    device.file("state/sources/sources.list", ONE_LINE)
    device.unit("activating", "current of-another-run")
    assert run(state="restored")["changed"]
    assert device.log == ""
    assert not (device.top / "state").exists()


def test_what_a_first_phase_left_is_forgotten(run: Run, device: Device) -> None:
    """Else no pull would begin any more."""
    run(state="started", phase="current")
    assert (device.top / "state").exists()
    run(state="restored")
    assert not (device.top / "state").exists()


def test_a_device_that_was_upgraded_by_hand_gets_no_old_sources(run: Run, device: Device) -> None:
    listed = device.file("apt/sources.list", ONE_LINE)
    run(state="switched")
    device.runs("trixie")
    assert run(state="restored")["changed"]
    assert "trixie" in listed.read_text()
    assert not (device.top / "state").exists()


APT_GET = """\
#!/bin/sh
case "$*" in
*-s*) echo "Remv libmagic1 [5.44]"; echo "Remv telegraf [1.0] []"; echo "Remv libssl3 [3.0]"
    echo "Inst libmagic1t64 (5.46 Debian:13/stable [arm64])" ;;
*) echo "After this operation, SIZE of additional disk space will be used."; exit 1 ;;
esac
"""
APT_CACHE = """\
#!/bin/sh
echo "Package: libmagic1t64"; echo "Provides: libmagic1 (= 1:5.46-5)"
echo "Replaces: libmagic1 (<< 1:5.46), x"
"""


@pytest.fixture
def fetched(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device that has fetched all: telegraf is the operator's, and libssl3 came with something."""
    monkeypatch.setattr(debian_upgrade, "MARGIN_MIB", 1)
    device.program("apt-get", APT_GET.replace("SIZE", "1 kB")).program("apt-cache", APT_CACHE)
    return device.says("apt-mark", "libmagic1\ntelegraf\nvim")


def test_nothing_of_the_operators_is_removed_unless_he_says_so(run: Run, fetched: Device) -> None:
    found = run(state="planned")
    assert found["failed"]
    assert "would remove what was installed by hand: telegraf: " in found["msg"]
    assert "debian_upgrade_removes" in found["msg"]
    assert not run(state="planned", removes=["telegraf"]).get("failed")
    assert not run(state="planned", check=True).get("failed")
    fetched.says("apt-mark", "libmagic1")
    assert not run(state="planned").get("failed")


def test_what_is_fetched_has_to_fit(run: Run, fetched: Device) -> None:
    fetched.program("apt-get", APT_GET.replace("SIZE", "900000 GB"))
    assert "MiB free, and 858306" in run(state="planned", removes=["telegraf"])["msg"]


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ("1511 MB of", 1442),
        ("3212 kB of", 4),
        ("0 B of", 0),
        ("1.5 GB of", 1431),
        ("80 MB disk space freed", 0),
    ],
)
def test_what_apt_says_that_it_takes(told: str, size: int) -> None:
    assert debian_upgrade.added(f"After this operation, {told} additional disk space will be used.") == size


def bootable(device: Device) -> Device:
    """Two kernels, of which the newer one sorts before the other."""
    for kernel in ("6.1.0-9-arm64", "6.12.48+deb13-arm64"):
        device.file(f"boot/vmlinuz-{kernel}", "x")
        device.file(f"boot/initrd.img-{kernel}", "x")
    device.file("boot/firmware/kernel8.img", "x")
    device.program("sshd", "#!/bin/sh\n").file("crypttab", "# <name> <device>\n\n")
    return device.runs("trixie")


def test_a_device_that_may_reboot(run: Run, device: Device) -> None:
    assert not run(state="ready", check=True).get("failed"), "nothing was installed"
    device.runs("trixie")
    assert not run(state="ready").get("failed"), "a container has neither a kernel nor sshd"
    bootable(device)
    assert not run(state="ready").get("failed")
    device.file("boot/initrd.img-6.1.0-9-arm64", "")
    assert not run(state="ready").get("failed"), "it is not the newest one"
    device.file("crypttab", "data /dev/sda2 none luks\n")
    device.says("dpkg-query", "installed")
    assert not run(state="ready").get("failed")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda device: device.runs("bookworm"), "it runs bookworm and not trixie"),
        (lambda device: device.says("dpkg", "x is half configured"), "dpkg --configure -a"),
        (lambda device: device.program("sshd", "#!/bin/sh\necho Bad option >&2; exit 255\n"), "Bad option"),
        (
            lambda device: device.file("boot/vmlinuz-6.12.48+deb13-arm64", ""),
            "vmlinuz-6.12.48+deb13-arm64 is",
        ),
        (lambda device: (device.top / "boot/initrd.img-6.12.48+deb13-arm64").unlink(), "update-initramfs"),
        (lambda device: device.file("boot/firmware/kernel8.img", ""), "kernel8.img is missing or empty"),
        (lambda device: device.file("crypttab", "a /dev/b none\n"), "apt-get install systemd-cryptsetup"),
    ],
)
def test_why_a_device_is_not_rebooted(
    run: Run, device: Device, wrong: Callable[[Device], Any], said: str
) -> None:
    bootable(device).says("dpkg-query", "not-installed")
    wrong(device)
    found = run(state="ready")
    assert found["failed"]
    assert (said in found["msg"], len(found["problems"])) == (True, 1), found["msg"]
