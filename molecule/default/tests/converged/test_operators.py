"""What an operator may start as root does no harm, however it is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from experiment.phases import wait_for

DOCTOR = "sudo -n /usr/local/bin/edge-rotator doctor --login"
STORE = "/var/lib/edge-token"
ASIDE = "/run/edge-token-aside"


@pytest.fixture
def spare_token(host: Any, at_rest: None) -> Iterator[None]:
    """Put the token back as it was: a test that fails may have destroyed it."""
    host.check_output(f"rm -rf {ASIDE}; cp -a {STORE} {ASIDE}")
    # Litestream may just have been restarted, and doctor says that it has not synced yet.
    wait_for(lambda: host.run("runuser -u edge-rotator -- edge-rotator doctor").rc == 0, 60)
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
    assert done.rc == 0, done.stdout + done.stderr
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
