"""Units as they run: user, sandbox, schedule, start only with credentials."""

from __future__ import annotations

import re
from typing import Any

import pytest

from experiment import observe
from experiment.phases import wait_for

LONG_RUNNING = {"litestream.service": "litestream", "sample-app.service": "sample-app"}


def show(host: Any, unit: str, key: str) -> str:
    return str(host.check_output(f"systemctl show --property={key} --value {unit}"))


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("unit", list(LONG_RUNNING))
def test_services_run_unprivileged(host: Any, unit: str) -> None:
    pid = show(host, unit, "MainPID")
    status = dict(
        line.split(":", 1)
        for line in host.file(f"/proc/{pid}/status").content_string.splitlines()
        if ":" in line
    )
    uid = host.user(LONG_RUNNING[unit]).uid
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("unit", list(LONG_RUNNING))
def test_the_sandbox_denies(host: Any, unit: str) -> None:
    inside = f"nsenter --mount --target {show(host, unit, 'MainPID')} --"
    assert host.run(f"{inside} touch /etc/sandbox-test").rc != 0
    assert host.run(f"{inside} touch /usr/local/bin/sandbox-test").rc != 0
    assert host.run(f"{inside} ls /home/admin").stdout == ""
    assert host.run(f"{inside} touch /var/lib/sample-app/sandbox-test").rc == 0
    host.check_output("rm /var/lib/sample-app/sandbox-test")


def test_rotator_unit(host: Any, mode: str) -> None:
    assert show(host, "edge-rotator.service", "User") == "edge-rotator"
    assert show(host, "edge-rotator.service", "NoNewPrivileges") == ("yes" if mode == "process" else "no")
    assert show(host, "edge-rotator.service", "ProtectSystem") == "strict"
    assert show(host, "edge-rotator.timer", "ActiveState") == "active"
    assert show(host, "edge-rotator.timer", "UnitFileState") == "enabled"


@pytest.mark.parametrize("unit", ["edge-rotator-due.timer", "edge-rotator-due.path"])
def test_what_ends_a_wait_is_watched(host: Any, unit: str) -> None:
    assert show(host, unit, "ActiveState") == "active"
    assert show(host, unit, "UnitFileState") == "enabled"


@pytest.mark.usefixtures("at_rest")
def test_a_tick_that_is_not_due_says_nothing_and_fails_nothing(host: Any, name: str) -> None:
    # So that the next rotation is not due for some ten seconds.
    host.check_output("systemctl start edge-rotator-force.service")
    since = observe.now(name)
    host.check_output("systemctl start edge-rotator.service")
    assert show(host, "edge-rotator.service", "Result") == "exec-condition"
    assert show(host, "edge-rotator.service", "ActiveState") == "inactive"
    assert observe.events(name, "rotated", since) == []


@pytest.mark.usefixtures("at_rest")
def test_a_touched_certificate_is_tried_at_the_next_tick(host: Any, name: str) -> None:
    since = observe.now(name)
    host.check_output("touch /etc/edge-identity/device.crt")
    wait_for(lambda: host.file("/run/edge-rotator/next").exists is False, 10)
    host.check_output("systemctl start edge-rotator.service")
    assert observe.events(name, "rotated", since)[0].fields["reason"] == "configuration"


def test_litestream_never_gives_up(host: Any) -> None:
    assert show(host, "litestream.service", "Restart") == "always"
    assert show(host, "litestream.service", "StartLimitIntervalUSec") == "0"


@pytest.mark.parametrize("unit", ["edge-rotator.timer", "litestream.path", *LONG_RUNNING])
def test_no_start_is_one_too_many(host: Any, mode: str, unit: str) -> None:
    """Systemd's default leaves a unit failed that is started for the sixth time in ten seconds."""
    if unit == "litestream.path" and mode != "process":
        pytest.skip("only process mode has it")
    host.check_output(
        f"for n in 1 2 3 4 5 6 7; do systemctl stop {unit} && systemctl start {unit} || exit; done"
    )
    assert show(host, unit, "ActiveState") == "active"


@pytest.mark.usefixtures("at_rest")
def test_the_pinned_litestream_is_what_runs(host: Any) -> None:
    pid = show(host, "litestream.service", "MainPID")
    assert host.check_output(f"readlink /proc/{pid}/exe") == "/opt/litestream/0.5.17/litestream"
    digest = host.check_output(f"sha256sum /proc/{pid}/exe").split()[0]
    assert digest == "200e4248a4cc83da2ca52babe66774f1a71afa993d31373adb0ce0fe12154647"


def test_metrics_stay_on_loopback(host: Any) -> None:
    listening = [socket for socket in host.socket.get_listening_sockets() if socket.startswith("tcp")]
    assert any(socket.endswith("127.0.0.1:9090") for socket in listening)
    assert not [
        socket
        for socket in listening
        if not socket.endswith(":22") and "127.0.0." not in socket and "::1" not in socket
    ]


@pytest.mark.usefixtures("at_rest")
def test_litestream_starts_only_with_credentials(host: Any, secret_file: str) -> None:
    host.check_output("systemctl stop litestream.path litestream.service || true")
    try:
        host.check_output(f"mv {secret_file} /run/aside")
        host.check_output("systemctl start litestream.service")
        assert show(host, "litestream.service", "ActiveState") == "inactive"
        assert show(host, "litestream.service", "ConditionResult") == "no"
    finally:
        host.check_output(f"mv /run/aside {secret_file}")
        host.run("systemctl start litestream.path")
        host.check_output("systemctl start litestream.service")
    assert show(host, "litestream.service", "ActiveState") == "active"


def test_no_compiler_was_ever_there(host: Any) -> None:
    assert host.run("command -v gcc cc pip3 curl-config").stdout == ""
    installed = host.run("grep ' install ' /var/log/dpkg.log").stdout
    assert " install curl" in installed, "the log tells what was installed"
    assert not re.search(r" install (gcc|cpp|binutils|python3-pip|\S+-dev):", installed)
