"""What an operator may start as root does no harm, however it is started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from experiment.phases import wait_for

DOCTOR = "sudo -n /usr/local/bin/edge-rotator doctor --login"
STATUS = "runuser -u operator -- sudo -n -u edge-rotator /usr/local/bin/edge-rotator status --json"
TIMER = "runuser -u operator -- sudo -n systemctl --no-pager {} edge-rotator.timer"
STORE = "/var/lib/edge-token"
ASIDE = "/run/edge-token-aside"


def failed(output: str) -> list[str]:
    """Name the checks that doctor says have failed."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("failed")]


@pytest.fixture
def spare_token(host: Any, at_rest: None) -> Iterator[None]:
    """Put the token back as it was: a test that fails may have destroyed it."""
    host.check_output(f"rm -rf {ASIDE}; cp -a {STORE} {ASIDE}")
    # Litestream may just have been restarted, and doctor says that it has not synced yet.
    doctor = "runuser -u edge-rotator -- edge-rotator doctor"
    wait_for(lambda: failed(host.run(doctor).stdout) == ["timer"], 60)
    yield
    host.check_output(f"cp -a {ASIDE}/. {STORE} && rm -rf {ASIDE}")


@pytest.mark.usefixtures("spare_token")
@pytest.mark.parametrize(
    "limits",
    [
        "-f 0",  # SoftHSM empties its files before it writes them
        "-v 40000",  # memory runs out anywhere
        "-n 12",  # no file can be opened any more
    ],
)
def test_limits_of_the_caller_do_not_reach_the_token(host: Any, limits: str) -> None:
    done = host.run("runuser -u operator -- bash -c %s", f"ulimit -S {limits}; {DOCTOR}")
    assert failed(done.stdout) == ["timer"], done.stdout + done.stderr
    host.check_output("systemctl start edge-rotator-force.service")


@pytest.mark.usefixtures("at_rest")
def test_a_doctor_that_is_stopped_keeps_no_rotation_from_running(host: Any) -> None:
    """An operator presses Ctrl-Z, or leaves the output in a pager."""
    started = host.check_output(
        "mkfifo -m 666 /run/unread; "
        "runuser -u operator -- bash -c %s >/run/started 2>&1 & "
        "exec 9</run/unread; head -n 1 <&9 >/dev/null; "
        "pid=$(pgrep -f '^/usr/bin/python3 -IS /usr/local/bin/edge-rotator doctor --login' | head -n 1); "
        "kill -STOP $pid; echo $pid",
        f"{DOCTOR} >/run/unread",
    )
    try:
        assert "T (stopped)" in host.file(f"/proc/{started}/status").content_string
        host.check_output("systemctl start edge-rotator-force.service")
    finally:
        host.check_output(f"kill -KILL {started}; rm -f /run/unread /run/started")


# As many files as /run takes; tried again until a tick has met that, for others give some back.
NO_INODES = f"""
total=$(df --output=itotal /run | tail -n 1 | tr -d ' ')
trap 'rm -f /run/fill.*; mount -o remount,nr_inodes=$total /run' EXIT
mount -o remount,nr_inodes=$(($(df --output=iused /run | tail -n 1) + 4)) /run || exit
for try in $(seq 40); do
    n=0
    while (true >/run/fill.$try.$n) 2>/dev/null; do n=$((n + 1)); done
    {STATUS} | grep '"error": "unit_broken"' && exit 0
    sleep 0.5
done
exit 1
"""


def status(host: Any) -> Any:
    """Ask for the status as an operator."""
    return json.loads(host.run(STATUS).stdout)


def test_a_timer_that_does_not_tick_is_told_and_an_operator_mends_it(host: Any) -> None:
    wait_for(lambda: status(host)["timer"]["error"] == "", 30)
    try:
        host.check_output("systemctl disable edge-rotator.timer")
        assert "the timer is not enabled; a reboot ends its ticks" in status(host)["problems"]
        host.check_output(TIMER.format("stop"))
        told = status(host)
        assert told["exit_code"] == 2
        assert "the timer does not tick; nothing is tried until it does" in told["problems"]
        assert told["timer"]["detail"] == "edge-rotator.timer is inactive and disabled"
        assert "timer" in failed(host.run("runuser -u edge-rotator -- edge-rotator doctor").stdout)
    finally:
        host.check_output(TIMER.format("enable"))
        host.check_output(TIMER.format("start"))
    wait_for(lambda: status(host)["timer"]["error"] == "", 10)
    assert "ok      timer" in host.run("runuser -u edge-rotator -- edge-rotator doctor").stdout


def test_a_unit_that_cannot_start_is_told(host: Any) -> None:
    """To systemd, a condition that it could not even start is one that is not met: nothing fails."""
    told = host.run("sh -c %s", NO_INODES)
    assert told.rc == 0, told.stdout + told.stderr
    wait_for(lambda: status(host)["timer"]["error"] == "", 30)
