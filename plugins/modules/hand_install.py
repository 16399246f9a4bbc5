#!/usr/bin/python
"""Find what an earlier hand install of Litestream left on a device, and take it over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hand_install
short_description: Find what an earlier hand install of Litestream left on a device, and take it over
description:
  - Looks for a Litestream that was installed by hand or from upstream's package, for units, timers, cron
    jobs and processes that run it or fetch its credentials, and for AWS keys where they are read.
  - In check mode it tells what it found. Otherwise it stops and removes it, with a copy of each file that
    root alone can read. No database and no private key is touched, and no secret is in the answer.
  - A Litestream in a container is left alone. One that something else starts, such as a user's own unit, is
    named, and fails the module before anything changes.
options:
  command:
    description: Path of the link to Litestream's program, as the role makes it.
    type: path
    required: true
  base:
    description: Directory that the link leads into.
    type: path
    required: true
  config_file:
    description: Path of Litestream's configuration.
    type: path
    required: true
  user:
    description: Litestream's user.
    type: str
    required: true
  backup:
    description: Directory for the copies; one for each run is made in it.
    type: path
    default: /var/backups/edge-litestream
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: What was installed by hand is gone
  edge_litestream.appliance.hand_install:
    command: /usr/local/bin/litestream
    base: /opt/litestream
    config_file: /etc/litestream.yml
    user: litestream
"""

RETURN = r"""
found:
  description: What was found, each with what to do about it.
  type: list
  elements: str
  returned: always
others:
  description: Those of C(found) that have to be stopped by whoever knows what starts them.
  type: list
  elements: str
  returned: always
aside:
  description: Directory of the copies; empty where there are none.
  type: str
  returned: always
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors

MAX_BYTES = 1 << 20  # of a file that is looked into
END_WITHIN = 60  # s, for a Litestream that uploads its last rows
UNIT_PLACES = ("/etc/systemd/system", "/usr/local/lib/systemd/system")
CRONTABS = ("/etc/crontab", "/etc/cron.d/*", "/var/spool/cron/crontabs/*")
DEFAULTS = "/etc/default/litestream"
PACKAGE = "/var/lib/dpkg/info/litestream.list"
PACKAGED = "/usr/bin/litestream"
PROCESSES = "/proc"
KERNELS = ("/dev/", "/proc/", "/sys/")  # an open there can do something
CRON_SCRIPTS = tuple(f"/etc/cron.{when}/*" for when in ("hourly", "daily", "weekly", "monthly"))
# The appliance's own; litestream.service is told by its text, for it has the name that everybody gives it.
OWN_UNITS = re.compile(
    r"(edge-rotator.*|sample-app|litestream-(restart|query).*|litestream)\.(service|path|timer|socket)"
)
OWN_SERVICE = b"/run/edge-rotator/"
OWN_CONFIG = b"from the variable litestream_config"
PROGRAM = re.compile(rb"litestream\b")
REPLICATE = re.compile(rb"\breplicate\b")
CONTAINER = re.compile(r"docker[-/]|libpod-|nerdctl-|/lxc|kubepods|machine\.slice")
SERVICE = re.compile(r"[^/\s]+\.service")
CRON = "cron.service"
EXEC = re.compile(rb"^[ \t]*Exec\w+[ \t]*=(.*)$", re.MULTILINE)
# What would change our unit, or give it keys.
DROP_IN = re.compile(rb"^[ \t]*(Exec\w+|Environment\w*|User|Group|LoadCredential)[ \t]*=", re.MULTILINE)
ENVIRONMENT = re.compile(rb"^[ \t]*EnvironmentFile[ \t]*=[ \t]*-?(/\S+)", re.MULTILINE)
USER = re.compile(rb"^[ \t]*User[ \t]*=[ \t]*([\w.-]+)", re.MULTILINE)
TIMER = re.compile(rb"^[ \t]*Unit[ \t]*=[ \t]*(\S+)", re.MULTILINE)
KEYS = re.compile(
    rb"^[^#\n]*\b(aws_access_key_id|aws_secret_access_key|aws_session_token|access-key-id|secret-access-key)\b\W*[=:]\s*\S",
    re.MULTILINE | re.IGNORECASE,
)
SETTING = re.compile(rb"\s*(#|\w+\s*=)")  # or a comment, in a crontab
PATH = re.compile(rb"(/[\w./@+-]+)")
SYSTEM_PROGRAMS = re.compile(r"/(usr/)?s?bin/")


@contextlib.contextmanager
def above(path: str) -> Iterator[tuple[int, str]]:
    """Directory that a path is in, open, and its name there. Raises OSError, UnsafeError."""
    folder, name = os.path.split(path)
    directory = descriptors.open_directory(folder)
    try:
        yield directory, name
    finally:
        os.close(directory)


@contextlib.contextmanager
def opened(directory: int, name: str) -> Iterator[int]:
    """Open a regular file, and nothing else, be it for a moment. Raises OSError, UnsafeError."""
    folder = os.readlink(f"/proc/self/fd/{directory}")
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if f"{folder}/".startswith(KERNELS) or not stat.S_ISREG(info.st_mode):
        raise descriptors.UnsafeError(f"{folder}/{name} is no regular file")
    file = descriptors.open_file(name, directory)
    try:
        yield file
    finally:
        os.close(file)


def read(path: str) -> bytes:
    """Beginning of a regular file; empty for anything else, or where there is nothing."""
    try:
        with above(path) as place:
            directory, name = place
            with opened(directory, name) as file, open(file, "rb", closefd=False) as content:
                return content.read(MAX_BYTES)
    except (OSError, descriptors.UnsafeError):
        return b""


def split(content: bytes) -> list[bytes]:
    """Lines as cron tells them apart."""
    return content.removesuffix(b"\n").split(b"\n")


def listed(pattern: str) -> list[str]:
    """Paths of a directory's files, for a pattern that ends with a star; else the path itself."""
    if not pattern.endswith("/*"):
        return [pattern]
    folder = pattern[:-2]
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
    except OSError:
        return []


def runs(text: bytes) -> bool:
    """Whether a line names litestream and then replicate; each is looked for once."""
    for line in text.split(b"\n"):
        program = PROGRAM.search(line)
        if program and REPLICATE.search(line, program.end()):
            return True
    return False


def feeds(command: bytes) -> bool:
    """Whether a command runs Litestream for good, or a program that makes its credentials."""
    if runs(command):
        return True
    for path in [found.decode() for found in PATH.findall(command)]:
        content = b"" if SYSTEM_PROGRAMS.match(path) else read(path)
        # The name of a key is in every binary that uses AWS, but in few scripts.
        makes_keys = b"role-aliases" in content or (
            b"\0" not in content and b"AWS_SECRET_ACCESS_KEY" in content
        )
        if runs(content) or (makes_keys and b"litestream" in command + content):
            return True
    return False


class Survey:
    """What was found, by what has to be done about it."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.found: list[str] = []
        self.units: list[str] = []
        self.files: list[str] = []
        self.others: list[str] = []
        self.crontabs: dict[str, dict[int, bytes]] = {}
        self.by_cron = False
        self.processes: list[int] = []
        self.users = {params["user"]}
        self.package = False
        self.look_for_units()
        self.look_for_cron_jobs()
        self.look_for_programs()
        self.look_for_keys()

    def file(self, path: str, what: str) -> None:
        """Note a file that has to go."""
        if path not in self.files:
            self.files.append(path)
            self.found.append(f"{path} {what}")

    def look_for_units(self) -> None:
        """Units that run Litestream or make its credentials, their timers, and what changes our own unit."""
        texts = {
            path: read(path)
            for place in UNIT_PLACES
            for path in listed(f"{place}/*")
            if path.endswith((".service", ".timer"))
        }
        for path, text in texts.items():
            name = os.path.basename(path)
            own = OWN_SERVICE in text if name == "litestream.service" else OWN_UNITS.fullmatch(name)
            if path.endswith(".service") and not own and any(feeds(line) for line in EXEC.findall(text)):
                self.unit(path, text)
        for path, text in texts.items():
            started = TIMER.search(text)
            service = (
                started.group(1).decode()
                if started
                else os.path.basename(path)[: -len(".timer")] + ".service"
            )
            if path.endswith(".timer") and service in self.units:
                self.unit(path, text)
        for path in listed(f"{UNIT_PLACES[0]}/litestream.service.d/*"):
            text = read(path)
            if DROP_IN.search(text):
                self.file(path, "changes how Litestream is started: remove it")
                self.environment(text)

    def unit(self, path: str, text: bytes) -> None:
        """Note a unit."""
        name = os.path.basename(path)
        self.units.append(name)
        self.file(
            path,
            f"runs Litestream or fetches its credentials: systemctl disable --now {name}, then remove it",
        )
        if name.endswith(".service"):
            self.users |= {user.decode() for user in USER.findall(text)} or {"root"}
        self.environment(text)

    def environment(self, text: bytes) -> None:
        """Note the environment files of a unit that hold keys."""
        for path in [found.decode() for found in ENVIRONMENT.findall(text)]:
            if KEYS.search(read(path)):
                self.file(path, "holds AWS keys that Litestream was given: remove it")

    def look_for_cron_jobs(self) -> None:
        """Lines of crontabs, and scripts that cron runs."""
        for path in [path for pattern in CRONTABS for path in listed(pattern)]:
            lines = dict(enumerate(split(read(path)), 1))
            settings = [number for number, line in lines.items() if SETTING.match(line)]
            other = [number for number, line in lines.items() if line.strip() and not SETTING.match(line)]
            jobs = [number for number in other if feeds(lines[number])]
            if jobs == other:  # nobody else needs the keys
                jobs = sorted(jobs + [number for number in settings if KEYS.search(lines[number])])
            if jobs:
                self.by_cron = True
                self.crontabs[path] = {number: lines[number] for number in jobs}
                self.users |= {self.who(path, lines[number]) for number in jobs if number in other}
                numbers = ", ".join(map(str, jobs))
                self.found.append(f"{path} runs Litestream or fetches its credentials: remove line {numbers}")
        for path in [path for pattern in CRON_SCRIPTS for path in listed(pattern)]:
            if feeds(path.encode()):
                self.by_cron = True
                self.users.add("root")
                self.file(path, "runs Litestream or fetches its credentials: remove it")

    @staticmethod
    def who(path: str, job: bytes) -> str:
        """User that cron runs a job as: of the crontab, or named after the time."""
        if "/crontabs/" in path:
            return os.path.basename(path)
        words = job.split()
        user = words[1 if words[0].startswith(b"@") else 5 :][:1]
        return user[0].decode(errors="replace") if user else "root"

    def look_for_programs(self) -> None:
        """Find the program, upstream's package, and a Litestream that no unit has started."""
        command = self.params["command"]
        with contextlib.suppress(FileNotFoundError):
            leads = os.readlink(command) if stat.S_ISLNK(os.lstat(command).st_mode) else ""
            if stat.S_ISREG(os.lstat(command).st_mode):
                self.file(
                    command, "is a program that somebody put there, and a link belongs there: remove it"
                )
            elif leads and not leads.startswith(f"{self.params['base']}/"):
                self.file(command, f"is a link to {leads}: remove it")
        # The list stays with its configuration when the package is removed.
        if os.path.exists(PACKAGED) and read(PACKAGE):
            self.package = True
            self.found.append("the package litestream is installed: apt-get remove litestream")
        config = read(self.params["config_file"])
        if config and OWN_CONFIG not in config:
            self.file(
                self.params["config_file"],
                "was written by somebody: name its databases in edge_databases, then remove it",
            )
        for process in [name for name in os.listdir(PROCESSES) if name.isdigit()]:
            self.process(process)

    def process(self, process: str) -> None:
        """Note a process that is a Litestream that replicates, and no container's, ours or a unit's found."""
        try:
            program = os.readlink(f"{PROCESSES}/{process}/exe").removesuffix(" (deleted)")
            with open(f"{PROCESSES}/{process}/cmdline", "rb") as file:
                replicates = b"replicate" in file.read().split(b"\0")
            with open(f"{PROCESSES}/{process}/cgroup", encoding="utf-8") as file:
                group = file.read()
            owner = os.stat(f"{PROCESSES}/{process}").st_uid
        except OSError:
            return
        # The first one: a user's own units are below that user's service.
        service = SERVICE.search(group)
        unit = service.group() if service else ""
        ours = unit in ("litestream.service", *self.units)
        if os.path.basename(program) != "litestream" or not replicates or CONTAINER.search(group) or ours:
            return
        with contextlib.suppress(KeyError):
            self.users.add(pwd.getpwuid(owner).pw_name)
        if not unit or (unit == CRON and self.by_cron):
            self.processes.append(int(process))
            self.found.append(f"process {process} is a Litestream that no unit has started: kill {process}")
        else:
            place = group.strip().rpartition(":")[2]
            self.others.append(
                f"process {process} is a Litestream that runs in {place}: "
                f"see to it that nothing there starts it again, then kill {process}"
            )
            self.found.append(self.others[-1])

    def look_for_keys(self) -> None:
        """Find keys where Litestream reads them; in a home, only beside something else."""
        if KEYS.search(read(DEFAULTS)):
            self.file(DEFAULTS, "holds AWS keys: remove it")
        for user in sorted(self.users) if self.found else []:
            with contextlib.suppress(KeyError):
                path = os.path.join(pwd.getpwnam(user).pw_dir, ".aws/credentials")
                if KEYS.search(read(path)):
                    self.file(path, "holds AWS keys of whom Litestream ran as: remove it")


class Takeover:
    """Stops what was found and puts it aside."""

    def __init__(self, module: AnsibleModule, survey: Survey) -> None:
        self.module = module
        self.survey = survey
        self.aside = f"{module.params['backup']}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"

    def run(self) -> None:
        """Stop first what starts Litestream or gives it keys."""
        for path, lines in self.survey.crontabs.items():
            self.without(path, lines)
        for unit in sorted(
            self.survey.units, key=lambda name: (not name.endswith(".timer"), name == "litestream.service")
        ):
            self.module.run_command(["systemctl", "disable", "--now", "--", unit], check_rc=True)
        self.end()
        if self.survey.package:
            # It leaves /etc/litestream.yml, which is its own configuration.
            if OWN_SERVICE not in read(f"{UNIT_PLACES[0]}/litestream.service"):
                self.module.run_command(["systemctl", "stop", "--", "litestream.service"])
            self.module.run_command(["dpkg", "--remove", "litestream"], check_rc=True)
        for path in self.survey.files:
            self.move(path)
        self.module.run_command(["systemctl", "daemon-reload"], check_rc=True)

    def end(self) -> None:
        """Have the stray ones upload their last rows and end."""
        for process in self.survey.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + END_WITHIN
        while alive := [one for one in self.survey.processes if os.path.exists(f"/proc/{one}/exe")]:
            if time.monotonic() > deadline:
                self.module.fail_json(msg=f"Litestream does not end: kill {' '.join(map(str, alive))}")
            time.sleep(0.2)

    def keep(self, path: str, file: int) -> None:
        """Copy an open file to where root alone reads it."""
        target = f"{self.aside}{path}"
        os.close(descriptors.open_directory(os.path.dirname(self.module.params["backup"]), roots=True))
        for directory in (self.module.params["backup"], self.aside):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        with open(file, "rb", closefd=False) as source, open(target, "xb", opener=private) as copy:
            source.seek(0)
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())

    def move(self, path: str) -> None:
        """Put a file aside; of a link, nothing but the link goes."""
        try:
            with above(path) as (directory, name):
                if not stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    with opened(directory, name) as file:
                        self.keep(path, file)
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return  # the package took it along

    def without(self, path: str, lines: dict[int, bytes]) -> None:
        """Take lines out of a crontab, with a copy of the whole."""
        with above(path) as place, opened(*place) as file:
            directory, name = place
            self.keep(path, file)
            with open(file, "rb", closefd=False) as content:
                content.seek(0)
                there = dict(enumerate(split(content.read()), 1))
            if any(there.get(number) != line for number, line in lines.items()):
                raise descriptors.UnsafeError(f"{path} was changed meanwhile")
            info = os.fstat(file)
            # Cron runs no file whose name has a dot.
            fresh = os.open(
                f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory
            )
            with open(fresh, "wb") as target:
                os.fchown(fresh, info.st_uid, info.st_gid)
                os.fchmod(fresh, stat.S_IMODE(info.st_mode))
                target.writelines(line + b"\n" for number, line in there.items() if number not in lines)
            os.rename(f"{name}.new", name, src_dir_fd=directory, dst_dir_fd=directory)


def private(path: str, flags: int) -> int:
    """Open for root alone from the first moment."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "path", "required": True},
            "base": {"type": "path", "required": True},
            "config_file": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "backup": {"type": "path", "default": "/var/backups/edge-litestream"},
        },
        supports_check_mode=True,
    )
    survey = Survey(module.params)
    if not survey.found or module.check_mode:
        module.exit_json(changed=bool(survey.found), found=survey.found, others=survey.others, aside="")
    if survey.others:
        module.fail_json(msg="; ".join(survey.others))
    takeover = Takeover(module, survey)
    try:
        takeover.run()
    except (OSError, descriptors.UnsafeError) as error:
        module.fail_json(msg=f"{error}; run this again, what was done stays in {takeover.aside}")
    module.exit_json(changed=True, found=survey.found, others=[], aside=takeover.aside)


if __name__ == "__main__":
    main()
