#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Take a device from one release of Debian to the next, step by step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_upgrade
short_description: Take a device from Debian 12 to 13, step by step
version_added: 2.0.0
description:
  - Does what Debian's release notes say, in steps that a lost connection or a power cut does not undo.
  - Works for Debian and Raspberry Pi OS, with sources in one line or in stanzas (deb822).
  - What takes long runs on the device in a unit of its own, C(edge-debian-upgrade.service), and writes to
    C(/var/log/edge-debian-upgrade.log). It goes on where the connection is lost.
  - Sources are switched where they are Debian's, Raspbian's or Raspberry Pi's, by what their Release file
    says, so that a mirror is one too. Those whose Release file was never fetched are known by their host.
options:
  state:
    description:
      - V(checked) changes nothing, and fails where the device is not fit for it, with all reasons.
      - V(disabled) switches other sources off where O(third_party) says so, as V(switched) does too.
      - V(switched) has the sources name the next release. What they were is kept.
      - V(restored) puts back what they were, unless packages of the next release are being installed already.
        A download that still runs is stopped before.
      - V(started) begins a phase. Where another one still runs, it does nothing.
      - V(finished) waits until the phase has ended, beginning it where it does not run, and fails where it
        failed.
      - V(planned) fails where what was fetched does not fit on the device, or would remove a package that was
        installed by hand and that neither O(removes) names nor another one takes the place of.
      - V(ready) fails where the device might not come back from a reboot, with all reasons.
      - V(ended) fails where the device does not run the next release, and forgets what was kept.
    type: str
    required: true
    choices: [checked, disabled, switched, restored, started, finished, planned, ready, ended]
  phase:
    description:
      - V(current) brings the release of today to its newest state. An sshd from before 12.12 would let
        nobody in while packages are exchanged.
      - V(download) fetches what the next release needs, and installs nothing.
      - V(upgrade) installs it, and finishes what an earlier run has left half done. Configuration files
        that were changed stay as they are.
    type: str
    choices: [current, download, upgrade]
  token:
    description: What V(started) returned. With another one, V(finished) begins the phase again.
    type: str
    default: ""
  timeout:
    description: Seconds that V(finished) waits. The phase goes on after them.
    type: int
    default: 7200
  silence:
    description: Seconds that the device may be out of reach while V(finished) waits.
    type: int
    default: 900
  now:
    description: For V(checked), the second by the control node's clock.
    type: float
  room:
    description: For V(checked), MiB that have to be free where packages are installed and kept.
    type: int
    default: 2048
  removes:
    description: For V(planned), packages installed by hand that the upgrade may remove.
    type: list
    elements: str
    default: []
  third_party:
    description:
      - What to do about other sources. V(refuse) names them, V(disable) switches them off, V(keep) leaves
        them as they are.
    type: str
    choices: [refuse, disable, keep]
    default: refuse
attributes:
  check_mode:
    description: Tells what would change, and begins no phase.
    support: full
  diff_mode:
    description: Shows the sources, without names and passwords in addresses.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The device is fit for it
  edge_litestream.appliance.debian_upgrade:
    state: checked
    now: "{{ now().timestamp() }}"

- name: The download has begun
  edge_litestream.appliance.debian_upgrade:
    state: started
    phase: download
  register: begun

- name: The download has ended
  edge_litestream.appliance.debian_upgrade:
    state: finished
    phase: download
    token: "{{ begun.token }}"
"""

RETURN = r"""
pending:
  description: Whether the device has yet to be upgraded, or its upgrade to be finished.
  returned: state is V(checked)
  type: bool
begun:
  description: Whether packages of the next release are being installed, or were in a run that broke off.
  returned: state is V(checked)
  type: bool
problems:
  description: Why the device is not fit for it.
  returned: state is V(checked), V(planned) or V(ready)
  type: list
  elements: str
token:
  description: What V(finished) is to be told.
  returned: state is V(started) or V(finished)
  type: str
finished:
  description: Whether the phase has ended well.
  returned: state is V(started) or V(finished)
  type: bool
line:
  description: The last line of the log.
  returned: state is V(started) or V(finished)
  type: str
"""

import math
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace

OLD = "bookworm"
NEW = "trixie"
APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
SYS = Path("/sys/class")
STATE = Path("/var/lib/edge-debian-upgrade")
LOG = Path("/var/log/edge-debian-upgrade.log")
BOOT = Path("/boot")
CRYPTTAB = Path("/etc/crypttab")
SSHD = Path("/usr/sbin/sshd")
UNIT = "edge-debian-upgrade.service"

ORIGINS = {"Debian", "Debian Backports", "Raspbian", "Raspberry Pi Foundation"}
HOSTS = ("debian.org", "raspbian.org", "raspberrypi.org", "raspberrypi.com")
# A release file from the future is refused, and one from the past has expired.
CLOCK_S = 300
# As Debian's release notes ask for.
BOOT_MIB = 300
# For what dpkg unpacks before it takes the old files away.
MARGIN_MIB = 200
OFF = "# switched off by edge_litestream.appliance.debian_upgrade"
LINE = re.compile(r"(\s*deb(?:-src)?\s+(?:\[[^]]*\]\s+)?)(\S+)(\s+)(\S+)(.*)", re.DOTALL)
NAMED_OLD = re.compile(rf"(?<!\S){OLD}(?=[-/\s]|$)")
MOVING = ("oldstable", "stable", "testing", "unstable", "sid")

OPTIONS = (
    "-y -q -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=900"
    " -o Acquire::Retries=5 -o APT::Update::Error-Mode=any"
)
PHASES = {
    "current": "apt_get update && apt_get upgrade",
    # Packages of the old release go, and what an earlier download has fetched stays.
    "download": "apt_get update && apt_get autoclean && apt_get --download-only full-upgrade",
    # From here on there is no way back, and a next run goes on: with the mirror's lists of then, if it can.
    # A package that was being unpacked when the power went is configured by nobody: apt unpacks it again.
    "upgrade": "{{ test ! -e {state}/begun || apt_get update || true; }} && touch {state}/begun"
    " && {{ dpkg --force-confdef --force-confold --configure -a || true; }}"
    " && apt_get --fix-broken install && apt_get upgrade --without-new-pkgs && apt_get full-upgrade"
    " && apt_get clean",
}


class Entry(NamedTuple):
    """Sources that one line or one stanza names."""

    file: Path
    first: int  # its lines, counted from 0
    last: int
    uris: list[str]
    suites: list[str]

    def __str__(self) -> str:
        return masked(f"{' '.join(self.uris)} {' '.join(self.suites)} ({self.file})")


def masked(text: str) -> str:
    """Return a text without the names and passwords of its addresses."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def put(path: Path, text: str, like: os.stat_result) -> None:
    """Write a file that has the mode and the owner of another one."""
    replace(str(path), text, 0o600)
    os.chown(path, like.st_uid, like.st_gid)
    path.chmod(like.st_mode & 0o777)


def files() -> list[Path]:
    """Return the files that name apt's sources."""
    found = [APT / "sources.list", *(APT / "sources.list.d").glob("*.list")]
    return sorted(path for path in [*found, *(APT / "sources.list.d").glob("*.sources")] if path.is_file())


def entries(path: Path, lines: list[str]) -> list[Entry]:
    """Return what a file names and apt uses."""
    if path.suffix == ".list":
        matches = [(number, LINE.fullmatch(line.split("#")[0])) for number, line in enumerate(lines)]
        return [Entry(path, number, number, [found[2]], [found[4]]) for number, found in matches if found]
    found: list[Entry] = []
    first = 0
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            continue
        fields = stanza(lines[first:number])
        if fields.get("uris") and fields.get("enabled", ["yes"])[0].lower() not in ("no", "false", "0"):
            found.append(Entry(path, first, number - 1, fields["uris"], fields.get("suites", [])))
        first = number + 1
    return found


def stanza(lines: list[str]) -> dict[str, list[str]]:
    """Return the words of each field, by its name in small letters."""
    fields: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if line.startswith("#"):
            continue
        if not line[0].isspace():
            name = line.partition(":")[0].lower()
            fields[name] = []
        if name:
            fields[name] += (line if line[0].isspace() else line.partition(":")[2]).split()
    return fields


def switched(lines: list[str], wanted: list[Entry], unwanted: list[Entry]) -> list[str]:
    """Return a file's lines with the next release in the wanted entries, and without the unwanted ones."""
    result = list(lines)
    for entry in wanted:
        if entry.file.suffix == ".list":
            head, uri, gap, suite, rest = LINE.fullmatch(result[entry.first]).groups()  # type: ignore[union-attr]
            result[entry.first] = f"{head}{uri}{gap}{NAMED_OLD.sub(NEW, suite)}{rest}"
            continue
        name = ""
        for number in range(entry.first, entry.last + 1):
            line = result[number]
            if line.startswith("#"):
                continue
            if not line[0].isspace():
                name = line.partition(":")[0].lower()
            if name == "suites":
                result[number] = re.sub(rf"(?<![^\s:]){OLD}(?=[-/\s]|$)", NEW, line)
    # From the end, for a stanza grows.
    for entry in sorted(unwanted, key=lambda each: -each.first):
        if entry.file.suffix == ".list":
            result[entry.first] = f"{OFF}: {result[entry.first]}"
        else:
            kept = [
                line
                for line in result[entry.first : entry.last + 1]
                if not line.lower().startswith("enabled:")
            ]
            result[entry.first : entry.last + 1] = [f"{OFF}\n", "Enabled: no\n", *kept]
    return result


def codename() -> str:
    """Return the release that the device says it runs."""
    found = re.search(r'^VERSION_CODENAME="?(\w+)', OS_RELEASE.read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


class Device:
    """What the module asks and does."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.begun = (STATE / "begun").exists()

    def ask(self, *command: str) -> str:
        """Return what a command printed; it has to succeed."""
        environment = {"LC_ALL": "C.UTF-8"}
        printed: str = self.module.run_command(list(command), check_rc=True, environ_update=environment)[1]
        return printed

    def sources(self) -> list[tuple[Entry, bool]]:
        """Return every entry, and whether it is Debian's or Raspberry Pi's."""
        told = self.ask(
            "apt-get", "indextargets", "--format", "$(SOURCESENTRY)|$(REPO_URI)|$(RELEASE)|$(ORIGIN)"
        )
        origins = {}
        for line in told.splitlines():
            place, uri, release, origin = line.split("|", 3)
            origins[place.rpartition(":")[0], uri.rstrip("/"), release] = origin

        def known(entry: Entry) -> bool:
            for uri in entry.uris:
                host = f".{urlsplit(uri).hostname or ''}"
                for suite in entry.suites:
                    origin = origins.get((str(entry.file), uri.rstrip("/"), suite))
                    if origin not in ORIGINS and (
                        origin or not host.endswith(tuple(f".{own}" for own in HOSTS))
                    ):
                        return False
            return True

        found = [entry for path in files() for entry in entries(path, path.read_text().splitlines(True))]
        return [(entry, known(entry)) for entry in found]

    def problems(self) -> list[str]:
        """Return why the device is not fit for the upgrade."""
        parameters = self.module.params
        release = codename()
        if release == NEW and not self.begun:
            return []
        found = [*power()]
        if release not in (OLD, NEW):
            found.append(f"it runs {release}: this takes Debian 12 ({OLD}) to 13 ({NEW})")
        if parameters["now"] and abs(wrong := time.time() - parameters["now"]) > CLOCK_S:
            found.append(f"its clock is {wrong:+.0f} s off: set it (timedatectl), since apt goes by it")
        if self.begun:
            return found
        found += room(parameters["room"])
        if held := self.ask("apt-mark", "showhold").split():
            found.append(f"packages are held: {', '.join(held)}: apt-mark unhold them")
        if self.ask("dpkg", "--audit").strip():
            found.append(
                "packages are half installed: dpkg --configure -a, then apt-get --fix-broken install"
            )
        for path in sorted([APT / "preferences", *(APT / "preferences.d").glob("*")]):
            if path.is_file() and OLD in path.read_text(errors="replace"):
                found.append(f"{path} pins packages to {OLD}: remove that")
        for entry, known in self.sources():
            if not known and parameters["third_party"] == "refuse":
                found.append(
                    f"a source is neither Debian's nor Raspberry Pi's: {entry}: give "
                    "debian_upgrade_third_party=disable, which switches such off, or =keep; of a mirror of "
                    "Debian apt-get update there fetches what tells that it is one"
                )
            if known and (moving := [suite for suite in entry.suites if suite.split("-")[0] in MOVING]):
                found.append(f"{entry.file} names {', '.join(moving)}: name {OLD} there")
        return found

    def switch(self, move: bool) -> list[dict[str, str]]:
        """Have the sources name the next release, or only those off that are to be; return a diff."""
        sources, changes = self.sources(), []
        for path in files():
            lines = path.read_text().splitlines(True)
            wanted = [entry for entry, known in sources if move and known and entry.file == path]
            unwanted = [entry for entry, known in sources if not known and entry.file == path]
            after = switched(
                lines, wanted, unwanted if self.module.params["third_party"] == "disable" else []
            )
            if after == lines:
                continue
            changes.append({"before_header": str(path), "after_header": str(path)})
            changes[-1].update(before=masked("".join(lines)), after=masked("".join(after)))
            if not self.module.check_mode:
                kept = STATE / "sources" / path.relative_to(APT)
                kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not kept.exists():
                    put(kept, "".join(lines), path.stat())
                put(path, "".join(after), path.stat())
        return changes

    def restore(self) -> bool:
        """Put the sources back; return whether there was anything to put back or to stop."""
        if self.begun or not STATE.exists():
            return False
        if self.module.check_mode:
            return True
        # dpkg is not broken off in the release of today; the next run waits for it.
        if not self.unit().get("Description", "").startswith("current "):
            self.module.run_command(["systemctl", "stop", UNIT])
            if (STATE / "begun").exists():
                return False
        kept = [path for path in (STATE / "sources").rglob("*") if path.is_file()]
        # Somebody may have upgraded the device by hand meanwhile.
        for path in kept if codename() != NEW else []:
            put(APT / path.relative_to(STATE / "sources"), path.read_text(), path.stat())
        shutil.rmtree(STATE)
        return True

    def unit(self) -> dict[str, str]:
        """Return how the unit stands, and the phase and the token of which it is."""
        shown = self.ask("systemctl", "show", "--property=ActiveState,Description", "--", UNIT)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def plan(self) -> list[str]:
        """Return why what was fetched is not to be installed."""
        if self.module.check_mode:
            return []
        simulated = self.ask("apt-get", "-q", "-s", "full-upgrade")
        gone = set(re.findall(r"^Remv (\S+)", simulated, re.MULTILINE)) & {
            *self.ask("apt-mark", "showmanual").split()
        }
        found = []
        if lost := sorted(gone - {*self.module.params["removes"]} - self.replaced(simulated)):
            found.append(
                f"it would remove what was installed by hand: {', '.join(lost)}: look what needs it, and "
                "name in debian_upgrade_removes what may go"
            )
        # It is of the same plan, and nothing but its addresses is printed.
        told = self.module.run_command(
            ["apt-get", "-q", "--assume-no", "full-upgrade"], environ_update={"LC_ALL": "C.UTF-8"}
        )[1]
        return found + room(added(told) + MARGIN_MIB, "more than what is to be installed takes")

    def replaced(self, simulated: str) -> set[str]:
        """Return the packages that those of a simulated run take the place of, as libssl3t64 of libssl3."""
        names = sorted({*re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)})
        told = self.ask("apt-cache", "show", "--no-all-versions", *names) if names else ""
        lists = re.findall(r"^(?:Provides|Replaces): (.*)$", told, re.MULTILINE)
        return {word.split()[0] for words in lists for word in words.split(",") if word.strip()}

    def unready(self) -> list[str]:
        """Return why the device might not come back from a reboot."""
        if self.module.check_mode:
            return []
        found = []
        if codename() != NEW:
            found.append(f"it runs {codename()} and not {NEW}: see {LOG}")
        if said := self.ask("dpkg", "--audit").strip():
            found.append(
                f"packages are half installed: dpkg --configure -a, then apt-get --fix-broken install: {said}"
            )
        if SSHD.exists():
            code, _unused, errors = self.module.run_command([str(SSHD), "-t"])
            if code:
                found.append(f"sshd would not start: mend /etc/ssh/sshd_config: {errors.strip()}")
        found += kernel()
        entries = CRYPTTAB.read_text().splitlines() if CRYPTTAB.exists() else []
        if any(line.strip() and not line.startswith("#") for line in entries):
            command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", "systemd-cryptsetup"]
            if self.module.run_command(command)[1].strip() != "installed":
                found.append(
                    f"{CRYPTTAB} has entries, and nothing would open them: apt-get install systemd-cryptsetup"
                )
        return found

    def phase(self) -> dict[str, Any]:
        """Begin a phase unless it runs, or say how it stands."""
        parameters = self.module.params
        name, token = parameters["phase"], parameters["token"] or secrets.token_hex(8)
        answer = {"changed": False, "finished": False, "token": token, "line": last_lines(1)}
        if self.module.check_mode:
            return {**answer, "changed": True, "finished": True}
        unit = self.unit()
        ours = unit.get("Description") == f"{name} {token}"
        if unit.get("ActiveState") in ("activating", "deactivating", "reloading"):
            return answer
        if ours and unit.get("ActiveState") == "active":
            return {**answer, "finished": True}
        if ours and unit.get("ActiveState") == "failed":
            self.module.fail_json(msg=f"{name} failed, see {LOG}:\n{last_lines(12)}", **answer)
        for step in ("stop", "reset-failed"):
            self.module.run_command(["systemctl", step, UNIT])
        STATE.mkdir(mode=0o700, exist_ok=True)
        script = PHASES[name].format(state=STATE)
        self.ask(
            *("systemd-run", "--quiet", "--no-block", f"--unit={UNIT}", f"--description={name} {token}"),
            # After= waits for apt's own runs that are under way.
            *("--property=Type=oneshot", "--property=RemainAfterExit=yes"),
            "--property=After=apt-daily.service apt-daily-upgrade.service",
            *("--setenv=DEBIAN_FRONTEND=noninteractive", "--setenv=APT_LISTCHANGES_FRONTEND=none"),
            *("--setenv=NEEDRESTART_SUSPEND=1", "--setenv=LC_ALL=C.UTF-8"),
            *("/bin/sh", "-c", f'exec >>{LOG} 2>&1; apt_get() {{ apt-get {OPTIONS} "$@"; }}; {script}'),
        )
        return {**answer, "changed": True}

    def end(self) -> bool:
        """Forget what was kept; return whether there was anything."""
        if codename() != NEW:
            self.module.fail_json(msg=f"it runs {codename()} and not {NEW}: see {LOG}")
        if self.ask("dpkg", "--audit").strip():
            self.module.fail_json(msg=f"packages are half installed: dpkg --configure -a; see {LOG}")
        there = STATE.exists()
        if there and not self.module.check_mode:
            shutil.rmtree(STATE)
        return there


def last_lines(most: int) -> str:
    """Return the end of the log."""
    try:
        with LOG.open("rb") as log:
            log.seek(max(0, LOG.stat().st_size - 4096))
            return "\n".join(log.read().decode(errors="replace").split("\n")[:-1][-most:])
    except FileNotFoundError:
        return ""


def added(told: str) -> int:
    """Return how many MiB more apt says that will be used, 0 where it says nothing of that."""
    found = re.search(r"After this operation, ([\d.,]+) ?([kMG]?)B of additional disk space", told)
    if found is None:
        return 0
    size = float(found[1].replace(",", "")) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]]
    return math.ceil(size / (1 << 20))


def kernel() -> list[str]:
    """Say which file of the newest kernel is missing or empty; a container has none."""
    found = []
    names = [path.name.removeprefix("vmlinuz-") for path in BOOT.glob("vmlinuz-*")]

    def version(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", re.match(r"[\d.+-]*", name)[0])]  # type: ignore[index]

    newest = max(map(version, names), default=[])
    parts = ["vmlinuz-"]
    # A kernel of the device's own may need none.
    if any(BOOT.glob("initrd.img-*")):
        parts.append("initrd.img-")
    files = [BOOT / f"{part}{name}" for name in names if version(name) == newest for part in parts]
    # What the firmware of a Raspberry Pi loads.
    files += [path for name in ("kernel*.img", "initramfs*") for path in (BOOT / "firmware").glob(name)]
    for path in files:
        if not path.exists() or path.stat().st_size == 0:
            found.append(
                f"{path} is missing or empty: make room in its file system, then update-initramfs -u -k all"
            )
    return found


def room(wanted: int, why: str = "debian_upgrade_room") -> list[str]:
    """Say which file system has not enough free, in MiB."""
    found, seen = [], set()
    asked = [*((path, wanted) for path in ("/", "/usr", "/var", "/var/cache/apt"))]
    asked += [(path, BOOT_MIB) for path in ("/boot", "/boot/firmware") if os.path.ismount(path)]
    for path, least in asked:
        device = os.stat(path).st_dev
        free = shutil.disk_usage(path).free >> 20
        if device not in seen and free < least:
            found.append(f"{path} has {free} MiB free, and {least} are needed ({why})")
        seen.add(device)
    return found


def power() -> list[str]:
    """Say where the power is not what an upgrade needs."""
    found = []
    supplies = [
        path.parent for path in (SYS / "power_supply").glob("*/type") if path.read_text().strip() == "Mains"
    ]
    if supplies and not any((path / "online").read_text().strip() == "1" for path in supplies):
        found.append("it runs on battery: give it mains power")
    for name in (SYS / "hwmon").glob("*/name"):
        alarm = name.with_name("in0_lcrit_alarm")
        if name.read_text().strip() == "rpi_volt" and alarm.exists() and alarm.read_text().strip() == "1":
            found.append("the kernel reports undervoltage: give it a better power supply")
    return found


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "required": True,
                "choices": [
                    *("checked", "disabled", "switched", "restored", "started", "finished", "planned"),
                    *("ready", "ended"),
                ],
            },
            "phase": {"type": "str", "choices": [*PHASES]},
            "token": {"type": "str", "default": "", "no_log": False},
            "timeout": {"type": "int", "default": 7200},
            "silence": {"type": "int", "default": 900},
            "now": {"type": "float"},
            "room": {"type": "int", "default": 2048},
            "removes": {"type": "list", "elements": "str", "default": []},
            "third_party": {"type": "str", "choices": ["refuse", "disable", "keep"], "default": "refuse"},
        },
        required_if=[("state", "started", ["phase"]), ("state", "finished", ["phase"])],
        supports_check_mode=True,
    )
    device = Device(module)
    state = module.params["state"]
    if state == "checked":
        told = {"pending": codename() != NEW or device.begun, "begun": device.begun}
        if problems := device.problems():
            module.fail_json(msg=f"not fit for the upgrade: {'; '.join(problems)}", problems=problems, **told)
        module.exit_json(changed=False, problems=[], **told)
    if state in ("planned", "ready"):
        problems = device.plan() if state == "planned" else device.unready()
        if problems:
            before = "installed" if state == "planned" else "rebooted"
            module.fail_json(msg=f"not {before}: {'; '.join(problems)}", problems=problems)
        module.exit_json(changed=False, problems=[])
    if state in ("disabled", "switched"):
        changes = device.switch(state == "switched")
        module.exit_json(changed=bool(changes), diff=changes)
    if state in ("started", "finished"):
        module.exit_json(**device.phase())
    module.exit_json(changed=device.restore() if state == "restored" else device.end())


if __name__ == "__main__":
    main()
