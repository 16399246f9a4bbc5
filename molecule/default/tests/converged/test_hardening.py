"""What docs/security.md says of programs, core dumps and processes of the same user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from experiment.phases import wait_for

UNIT = "edge-rotator-force.service"
# Stops the rotator in the middle of a run, once its program is Python, and prints its PID.
CATCH = f"""
systemctl start --no-block {UNIT}
for n in $(seq 2000); do
    pid=$(systemctl show --property=ExecMainPID --value {UNIT})
    case "$(readlink /proc/$pid/exe)" in */python3*) kill -STOP $pid && break;; esac
done
cat /proc/$pid/comm >/dev/null && echo $pid
"""
PEEK = """
import sys
for name in ("environ", "maps", "mem"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
        print(name)
    except PermissionError:
        pass
"""


@pytest.fixture
def caught(host: Any, at_rest: None) -> Iterator[str]:
    """PID of a rotator that stands still in the middle of a run."""
    pid = host.check_output(CATCH).strip()
    yield pid
    host.run(f"kill -CONT {pid}")
    # Waits for the run to end, then leaves fresh credentials.
    host.run(f"systemctl start {UNIT}")
    host.check_output(f"systemctl start {UNIT}")


def test_what_root_or_a_unit_runs_is_roots(host: Any) -> None:
    """Programs, what they import, units, rules: nobody else may change them, or a directory above."""
    units = host.check_output("cat $(grep -l '^# Ansible managed' /etc/systemd/system/*.service)")
    programs = set(re.findall(r"^Exec\w+=[-+!@:]*(/\S+)", units, re.MULTILINE))
    assert {"/bin/sh", "/usr/local/bin/edge-rotator", "/usr/bin/python3"} <= programs
    trees = (
        "/opt/edge-rotator /opt/litestream /usr/local/bin /usr/local/lib /etc/systemd/system /etc/sudoers.d"
    )
    files = " ".join(
        programs | {"/etc/tmpfiles.d/edge-rotator.conf", "/etc/litestream.yml", "/etc/edge-rotator"}
    )
    others = r"\( ! -user root -o -perm /022 \) ! -type l -print"
    assert host.check_output(f"find {trees} {others}") == ""
    # Wherever the links end, all the way down from the root.
    above = (
        f"for f in {trees} $(realpath {files}); do while [ $f != / ]; do echo $f; f=$(dirname $f); done; done"
    )
    assert host.check_output(f"find / $({above}) -maxdepth 0 {others}") == ""


def test_a_crash_leaves_no_core(host: Any, caught: str) -> None:
    for pid in (caught, host.check_output("systemctl show --property=MainPID --value litestream.service")):
        limits = host.file(f"/proc/{pid}/limits").content_string
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    host.check_output(
        f"kill -ABRT {caught}; kill -CONT {caught}; while [ -e /proc/{caught} ]; do sleep 0.1; done"
    )
    ended = f"journalctl --no-pager --output=cat --since=-60s --unit={UNIT} --grep='Main process exited'"
    # Not "code=dumped".
    wait_for(lambda: "code=killed, status=6/ABRT" in host.run(ended).stdout, 10)


def test_another_process_of_its_user_sees_nothing_of_the_rotator(host: Any, mode: str, caught: str) -> None:
    """In process mode. Where sudo has to work there is no user namespace that would keep it out."""
    found = host.check_output(f"runuser -u edge-rotator -- python3 -I -c '{PEEK}' {caught}").split()
    assert found == ([] if mode == "process" else ["environ", "maps", "mem"])
