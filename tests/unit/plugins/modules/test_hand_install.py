"""What a hand install left is found wherever it is, and put aside so that only root reads it."""

import os
import subprocess
from collections.abc import Callable
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
        pw_uid: int

    monkeypatch.setattr(hand_install.pwd, "getpwnam", lambda name: Entry(f"{tmp_path}/home/{name}", 999))
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
            directories=[f"{tmp_path}/data"],
            backup=f"{tmp_path}/var/backups/edge-litestream",
        )

    return Device(tmp_path, answer, commands)


LEFT = {
    "program": ("bin/litestream", "program", "is a program that somebody put there"),
    "configuration": (
        "etc/litestream.yml",
        f"secret-access-key: {SECRET}\n",
        "name its databases in litestream_config",
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
    assert device.run() == {**done, "changed": False, "found": [], "aside": ""}


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
    assert device.run() == {**device.run(check=True), "changed": False, "found": [], "aside": ""}
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


def test_a_litestream_that_no_unit_started_is_ended(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, with the cgroup of a login."""
    program = device.write("tools/litestream", "")
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    started = subprocess.Popen(["replicate", "60"], executable=program)
    folder = device.root / f"proc/{started.pid}"
    folder.mkdir()
    folder.joinpath("exe").symlink_to(program)
    folder.joinpath("cmdline").write_text("litestream\0replicate\0")
    group = folder / "cgroup"
    group.write_text("0::/system.slice/other.service\n")
    assert device.run(check=True)["found"] == []
    group.write_text("0::/user.slice/user-0.slice/session-1.scope\n")
    monkeypatch.setattr(
        hand_install.time, "sleep", lambda _seconds: started.wait()
    )  # a time limit would sleep
    assert f"process {started.pid} is a Litestream" in device.run()["found"][0]
    assert started.wait(timeout=10) == -15


def test_no_database_is_touched(device: Device) -> None:
    database = device.write("data/app.db", "rows")
    device.write("data/.app.db-litestream/ltx", "")
    device.write("bin/litestream", "")
    inode = database.stat().st_ino
    done = device.run()
    (aside,) = (device.root / "data").glob(".app.db-litestream.before-*")
    assert aside.name.endswith(Path(done["aside"]).name)
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
