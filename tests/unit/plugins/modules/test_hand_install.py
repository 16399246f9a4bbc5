"""What a hand install left is found wherever it is, and put aside so that only root reads it."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.edge_litestream.appliance.plugins.modules import hand_install

Run = Callable[..., dict[str, Any]]
PROGRAM = "#!/bin/sh\ncurl https://x/role-aliases/a/credentials >/env\nsystemctl restart litestream\n"
SECRET = "HUSHHUSH"


class Device(NamedTuple):
    """A device's files below a directory."""

    root: Path
    run: Callable[..., dict[str, Any]]
    commands: list[list[str]]

    def write(self, path: str, content: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content.replace("ROOT", str(self.root)))
        return file


@pytest.fixture
def device(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A bare device; commands are noted, and not run."""
    commands: list[list[str]] = []
    for name in ("UNIT_PLACES", "CRONTABS", "CRON_SCRIPTS"):
        monkeypatch.setattr(
            hand_install, name, tuple(f"{tmp_path}{one}" for one in getattr(hand_install, name))
        )
    for name in ("DEFAULTS", "PACKAGE", "PACKAGED", "PROCESSES"):
        monkeypatch.setattr(hand_install, name, f"{tmp_path}{getattr(hand_install, name)}")

    class Entry(NamedTuple):
        pw_dir: str

    monkeypatch.setattr(hand_install.pwd, "getpwnam", lambda name: Entry(f"{tmp_path}/home/{name}"))
    monkeypatch.setattr(
        hand_install.AnsibleModule, "run_command", lambda _self, words, **_more: commands.append(words)
    )
    (tmp_path / "proc").mkdir()
    (tmp_path / "var/backups").mkdir(parents=True)

    def answer(check: bool = False) -> dict[str, Any]:
        return run(
            check=check,
            command=f"{tmp_path}/bin/litestream",
            base=f"{tmp_path}/opt",
            config_file=f"{tmp_path}/etc/litestream.yml",
            user="litestream",
            backup=f"{tmp_path}/var/backups/edge-litestream",
        )

    return Device(tmp_path, answer, commands)


LEFT = {
    "program": ("bin/litestream", "program", "is a program that somebody put there"),
    "configuration": (
        "etc/litestream.yml",
        f"secret-access-key: {SECRET}\n",
        "name its databases in edge_databases",
    ),
    "defaults": ("etc/default/litestream", f"export AWS_ACCESS_KEY_ID={SECRET}\n", "holds AWS keys"),
    "unit": (
        "etc/systemd/system/litestream.service",
        "[Service]\nExecStart=/opt/by-hand/litestream replicate\n",
        "systemctl disable --now litestream.service, then remove it",
    ),
    "unit with another name": (
        "usr/local/lib/systemd/system/backup.service",
        "[Service]\nExecStart=/usr/bin/litestream replicate -config /etc/backup.yml\n",
        "systemctl disable --now backup.service",
    ),
    "program that makes credentials": (
        "etc/systemd/system/credentials.service",
        "[Service]\nExecStart=/usr/bin/python3 ROOT/tools/rotate\n",
        "fetches its credentials",
    ),
    "drop-in": (
        "etc/systemd/system/litestream.service.d/keys.conf",
        f"[Service]\nEnvironment=AWS_SECRET_ACCESS_KEY={SECRET}\n",
        "changes how Litestream is started",
    ),
    "cron job": (
        "etc/cron.d/rotate",
        f"17 * * * * root KEY={SECRET} ROOT/tools/rotate\n",
        "runs Litestream or fetches its credentials: remove line 1",
    ),
    "cron script": ("etc/cron.hourly/rotate", PROGRAM, "runs Litestream or fetches its credentials"),
}


@pytest.mark.parametrize("kind", list(LEFT))
def test_each_is_found_and_taken_over(device: Device, kind: str) -> None:
    device.write("tools/rotate", PROGRAM)
    path, content, said = LEFT[kind]
    file = device.write(path, content)
    before = file.read_text()
    told = device.run(check=True)
    assert told["changed"]
    (sentence,) = told["found"]
    assert sentence.startswith(f"{file} ")
    assert said in sentence
    assert file.read_text() == before, "check mode changes nothing"
    done = device.run()
    assert SECRET not in str(done)
    copy = Path(f"{done['aside']}{file}")
    assert copy.read_text() == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert Path(done["aside"]).stat().st_mode & 0o777 == 0o700
    assert (device.root / "tools/rotate").exists()
    assert device.run() == {**done, "changed": False, "found": [], "others": [], "aside": ""}


OWN = {
    "bin/other": "",
    "etc/litestream.yml": "# Litestream 0.5.17, from the variable litestream_config\n",
    "etc/systemd/system/litestream.service": (
        "[Unit]\nConditionPathExists=/run/edge-rotator/litestream.env\n"
        "[Service]\nExecStart=/usr/bin/python3 -IS /usr/local/lib/litestream-run replicate\n"
    ),
    "etc/systemd/system/litestream-restart.service": "[Service]\nExecStart=systemctl restart litestream\n",
    "etc/systemd/system/edge-rotator.service": "[Service]\nExecStart=ROOT/tools/rotate\n",
    "etc/systemd/system/app.service": (
        "[Unit]\nAfter=litestream.service\n[Service]\n"
        "ExecStartPre=/usr/local/bin/litestream restore /data/app.db\nExecStart=ROOT/tools/app\n"
    ),
    "etc/systemd/system/litestream.service.d/memory.conf": "[Service]\nMemoryMax=1G\n",
    "etc/default/litestream": "# AWS_SECRET_ACCESS_KEY=\n",
    "etc/crontab": "AWS_SECRET_ACCESS_KEY=for-another\n17 * * * * root /usr/bin/backup\n",
    "tools/rotate": PROGRAM,
    "tools/app": "\x7fELF\0AWS_SECRET_ACCESS_KEY\0",
    "home/root/.aws/credentials": "aws_secret_access_key = for-another\n",
}


def test_what_is_ours_or_anothers_is_left_alone(device: Device) -> None:
    for path, content in OWN.items():
        device.write(path, content)
    device.root.joinpath("bin/litestream").symlink_to(device.root / "opt/current/litestream")
    assert device.run() == {
        **device.run(check=True),
        "changed": False,
        "found": [],
        "others": [],
        "aside": "",
    }
    assert device.commands == []


def test_a_whole_device(device: Device) -> None:
    """Timers go before services, those before Litestream, keys with them; a crontab keeps other lines."""
    device.write("tools/rotate", PROGRAM)
    units = {
        "litestream.service": (
            "[Service]\nUser=app\nEnvironmentFile=-ROOT/env\nExecStart=litestream replicate\n"
        ),
        "zz.service": "[Service]\nExecStart=ROOT/tools/rotate\n",
        "often.timer": "[Timer]\nUnit=zz.service\n",
    }
    for name, text in units.items():
        device.write(f"etc/systemd/system/{name}", text)
    env = device.write("env", f"AWS_SESSION_TOKEN={SECRET}\n")
    keys = device.write("home/app/.aws/credentials", f"aws_secret_access_key={SECRET}\n")
    crontab = device.write(
        "var/spool/cron/crontabs/app", "# mine\n1 * * * * ROOT/tools/rotate\n2 * * * * other\n"
    )
    crontab.chmod(0o600)
    done = device.run()
    stopped = [words[-1] for words in device.commands if "disable" in words]
    assert stopped == ["often.timer", "zz.service", "litestream.service"]
    assert ["systemctl", "daemon-reload"] in device.commands
    assert crontab.read_text() == "# mine\n2 * * * * other\n"
    assert not env.exists()
    assert not keys.exists()
    assert Path(f"{done['aside']}{keys}").read_text() == f"aws_secret_access_key={SECRET}\n"
    assert sorted(path.name for path in crontab.parent.iterdir()) == ["app"]


def test_a_package_is_removed_and_its_service_stopped(device: Device) -> None:
    device.write("usr/bin/litestream", "")
    device.write("var/lib/dpkg/info/litestream.list", "/usr/bin/litestream\n")
    assert device.run(check=True)["found"] == [
        "the package litestream is installed: apt-get remove litestream"
    ]
    device.run()
    assert device.commands[:2] == [
        ["systemctl", "stop", "--", "litestream.service"],
        ["dpkg", "--remove", "litestream"],
    ]


class Process(NamedTuple):
    """A real process that looks like a Litestream, and its group."""

    started: subprocess.Popen[bytes]
    group: Path


@pytest.fixture
def litestream(device: Device) -> Iterator[Process]:
    """One that replicates."""
    program = device.write("tools/litestream", "")
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen(["replicate", "60"], executable=program) as started:
        folder = device.root / f"proc/{started.pid}"
        folder.mkdir()
        folder.joinpath("exe").symlink_to(program)
        folder.joinpath("cmdline").write_text("litestream\0replicate\0")
        yield Process(started, folder / "cgroup")
        started.kill()


BY_CRON = {"etc/cron.d/x": "@reboot root litestream replicate\n"}
SCRIPT = {"etc/cron.daily/x": "#!/bin/sh\nlitestream replicate &\n"}


@pytest.mark.parametrize(
    ("group", "left"),
    [
        ("user.slice/user-0.slice/session-1.scope", {}),
        ("system.slice/cron.service", BY_CRON),
        ("system.slice/cron.service", SCRIPT),
    ],
)
def test_a_litestream_that_no_unit_started_is_ended(
    device: Device, litestream: Process, monkeypatch: pytest.MonkeyPatch, group: str, left: dict[str, str]
) -> None:
    for path, content in left.items():
        device.write(path, content)
    litestream.group.write_text(f"0::/{group}\n")
    monkeypatch.setattr(
        hand_install.time, "sleep", lambda _seconds: litestream.started.wait()
    )  # a time limit would sleep
    keys = device.write("home/root/.aws/credentials", f"aws_secret_access_key={SECRET}\n")
    assert f"process {litestream.started.pid} is a Litestream" in str(device.run()["found"])
    assert litestream.started.wait(timeout=10) == -15
    assert not keys.exists(), "they are of whom it ran as"


@pytest.mark.parametrize(
    "group",
    [
        "system.slice/litestream.service",
        "system.slice/backup.service",
        "system.slice/docker-0123.scope",
        "docker/0123",
        "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0123.scope",
        "lxc.payload.one/system.slice/rc-local.service",
        "kubepods.slice/kubepods-burstable.slice/cri-0123.scope",
        "machine.slice/machine-one.scope/payload/system.slice/other.service",
    ],
)
def test_a_litestream_of_a_unit_that_was_found_or_of_a_container_is_no_stray(
    device: Device, litestream: Process, group: str
) -> None:
    unit = device.write(
        "etc/systemd/system/backup.service", "[Service]\nUser=app\nExecStart=litestream replicate\n"
    )
    litestream.group.write_text(f"0::/{group}\n")
    (sentence,) = device.run()["found"]
    assert sentence.startswith(f"{unit} ")
    assert litestream.started.poll() is None


@pytest.mark.parametrize(
    "group",
    [
        "user.slice/user-1000.slice/user@1000.service/app.slice/litestream.service",
        "system.slice/rc-local.service",
        "system.slice/cron.service",
    ],
)
def test_a_litestream_that_something_else_starts_again_stops_the_takeover(
    device: Device, litestream: Process, group: str
) -> None:
    program = device.write("bin/litestream", "")
    litestream.group.write_text(f"0::/{group}\n")
    told = device.run(check=True)
    (sentence,) = told["others"]
    assert f"process {litestream.started.pid} is a Litestream that runs in /{group}: " in sentence
    assert sentence in told["found"]
    answer = device.run()
    assert (answer["failed"], answer["msg"]) == (True, sentence)
    assert litestream.started.poll() is None
    assert program.exists()


ROOTS = {
    "unit without a user": ("etc/systemd/system/x.service", "[Service]\nExecStart=litestream replicate\n"),
    "cron.d": ("etc/cron.d/x", "1 * * * * root litestream replicate\n"),
    "at boot": ("etc/cron.d/x", "@reboot root litestream replicate\n"),
    "root's crontab": ("var/spool/cron/crontabs/root", "1 * * * * litestream replicate\n"),
    "cron script": next(iter(SCRIPT.items())),
}
ANOTHERS = {
    "unit": ("etc/systemd/system/x.service", "[Service]\nUser=pi\nExecStart=litestream replicate\n"),
    "cron.d": ("etc/cron.d/x", "1 * * * * pi litestream replicate\n"),
    "crontab": ("var/spool/cron/crontabs/pi", "@reboot litestream replicate\n"),
}


@pytest.mark.parametrize(
    ("user", "left"), [("root", one) for one in ROOTS.values()] + [("pi", one) for one in ANOTHERS.values()]
)
def test_keys_are_taken_from_the_home_of_whom_it_ran_as_alone(
    device: Device, user: str, left: tuple[str, str]
) -> None:
    device.write(*left)
    keys = {
        name: device.write(f"home/{name}/.aws/credentials", f"aws_secret_access_key={SECRET}\n")
        for name in ("pi", "root")
    }
    device.run()
    assert [name for name, path in keys.items() if not path.exists()] == [user]


@pytest.mark.parametrize("kind", ["kernel's", "device", "pipe"])
def test_nothing_but_a_regular_file_is_opened(
    device: Device, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """An open arms a watchdog, and lets who waits at a pipe go on."""
    places = {"kernel's": Path("/proc/version"), "device": Path("/dev/null")}
    tried = places.get(kind, device.root / "pipe")
    if kind == "pipe":
        os.mkfifo(tried)
    if kind == "device":
        monkeypatch.setattr(hand_install, "KERNELS", ("/nowhere/",))
    seen: list[str] = []
    real = hand_install.descriptors.open_file

    def noted(name: str, directory: int) -> int:
        seen.append(name)
        return int(real(name, directory))

    monkeypatch.setattr(hand_install.descriptors, "open_file", noted)
    device.write("etc/systemd/system/x.service", f"[Service]\nExecStart=/usr/bin/python3 {tried}\n")
    assert device.run(check=True)["found"] == []
    assert seen == ["x.service"]


def test_a_large_file_is_read_to_a_limit_and_looked_through_once(device: Device) -> None:
    """Two looks from each name to the end took minutes."""
    huge = device.write("tools/huge", "litestream " * (hand_install.MAX_BYTES // 4))
    assert len(hand_install.read(str(huge))) == hand_install.MAX_BYTES
    device.write("etc/systemd/system/x.service", f"[Service]\nExecStart={huge}\n" + "\n" * 100_000)
    began = time.process_time()
    assert device.run(check=True)["found"] == []
    assert time.process_time() - began < 2


def test_a_link_goes_from_the_directory_that_was_looked_at(device: Device) -> None:
    """Whoever may exchange a directory above for a link could have root remove a link elsewhere."""
    link = device.root / "elsewhere/litestream"
    link.parent.mkdir()
    link.symlink_to("/opt/by-hand/litestream")
    device.root.joinpath("bin").symlink_to(link.parent)
    device.root.chmod(0o777)
    answer = device.run()
    assert "is a link that others than root can change" in answer["msg"]
    assert link.is_symlink()


def test_a_line_is_what_cron_takes_for_one(device: Device) -> None:
    crontab = device.write("etc/cron.d/x", "")
    crontab.write_bytes(b"# a\r b\n1 * * * * pi litestream replicate\n2 * * * * pi other")
    assert "remove line 2" in device.run()["found"][0]
    assert crontab.read_bytes() == b"# a\r b\n2 * * * * pi other\n"


def test_a_crontab_that_was_changed_meanwhile_stays(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    crontab = device.write("etc/cron.d/x", "1 * * * * pi litestream replicate\n")
    real = hand_install.Takeover.keep

    def keep(self: hand_install.Takeover, path: str, file: int) -> None:
        real(self, path, file)
        crontab.write_text("# new\n1 * * * * pi litestream replicate\n")

    monkeypatch.setattr(hand_install.Takeover, "keep", keep)
    assert f"{crontab} was changed meanwhile; run this again" in device.run()["msg"]
    assert crontab.read_text() == "# new\n1 * * * * pi litestream replicate\n"


def test_no_database_is_touched(device: Device) -> None:
    database = device.write("data/app.db", "rows")
    device.write("data/.app.db-litestream/ltx", "")
    device.write("bin/litestream", "")
    inode = database.stat().st_ino
    assert device.run()["changed"]
    assert sorted(path.name for path in database.parent.iterdir()) == [".app.db-litestream", "app.db"]
    assert (database.stat().st_ino, database.read_text()) == (inode, "rows")


def test_what_others_could_exchange_is_not_followed(device: Device) -> None:
    device.write("bin/litestream", "")
    secret = device.write("elsewhere", f"aws_secret_access_key={SECRET}\n")
    home = device.root / "home/root/.aws"
    home.mkdir(parents=True)
    home.joinpath("credentials").symlink_to(secret)
    os.mkfifo(device.write("etc/default/x", "").with_name("litestream"))
    assert len(device.run()["found"]) == 1
    assert secret.exists()
