"""Accounts: only what is missing is made, and who is not listed is no member any more."""

import getpass
import grp
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]
ME, GROUP = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that note how they were called and do nothing."""
    log = tmp_path / "log"
    log.touch()
    for name in ("groupadd", "useradd", "usermod", "gpasswd", "userdel", "groupdel"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >>{log}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return log


def test_what_is_there_stays(run: Run, log: Path) -> None:
    assert not run(groups=[GROUP], users=[{"name": ME, "group": GROUP}])["changed"]
    assert log.read_text() == ""


def test_a_new_service_has_no_home_and_no_shell(run: Run, log: Path) -> None:
    users = [{"name": "new-service", "group": GROUP, "groups": ["new-group"]}]
    assert run(check=True, groups=["new-group"], users=users)["changed"]
    assert log.read_text() == ""
    run(groups=["new-group"], users=users)
    made, user = log.read_text().splitlines()
    assert made == "groupadd --system new-group"
    assert "--no-create-home" in user
    assert "/usr/sbin/nologin" in user
    assert user.endswith(f"--gid {GROUP} --groups new-group new-service")


def test_who_is_not_listed_is_no_member(run: Run, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = grp.struct_group((GROUP, "x", os.getgid(), [ME, "gone"]))
    monkeypatch.setattr(grp, "getgrnam", lambda name: entry)
    run(members_of=GROUP, members=[ME])
    assert log.read_text().splitlines() == [f"gpasswd --delete gone {GROUP}"]


def test_absent_users_go_before_their_groups(run: Run, log: Path) -> None:
    run(state="absent", groups=[GROUP, "never-there"], users=[{"name": ME}, {"name": "never-there"}])
    assert log.read_text().splitlines() == [f"userdel {ME}", f"groupdel {GROUP}"]
