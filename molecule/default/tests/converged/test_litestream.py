"""Who may tell Litestream what: the rotator asks two questions, nobody else asks anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from experiment import observe
from experiment.phases import wait_for

CONTROL = "/run/litestream/litestream.sock"
QUERY = "/run/litestream-query.sock"
DATABASE = "/var/lib/sample-app/sample.db"
STOLEN = "/var/lib/sample-app/stolen.db"
# Sends its second argument to the socket that the first one names, and prints the answer.
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(60)
    connection.connect(sys.argv[1])
    connection.sendall(sys.argv[2].encode().decode("unicode_escape").encode())
    connection.shutdown(socket.SHUT_WR)
    while chunk := connection.recv(65536):
        sys.stdout.buffer.write(chunk)
"""
BODY = json.dumps({"path": STOLEN, "replica_url": "file:///tmp/stolen"})
HEAD = f"Content-Type: application/json\\r\\nContent-Length: {len(BODY)}\\r\\n\\r\\n"
# What only Litestream's user may change, in a directory that only that user may enter.
VICTIMS = "/run/litestream/victims"
# The application plants links where Litestream would write its next files, or for their directory.
PLANT = f"""
import os, sys
own = "/var/lib/sample-app/.sample.db-litestream"
if sys.argv[1] == "directory":
    if os.path.exists(own):
        os.rename(own, own + ".away")
    os.symlink("{VICTIMS}/directory", own)
else:
    own += "/ltx/0"
    os.makedirs(own, exist_ok=True)
    last = max((int(name[:16], 16) for name in os.listdir(own) if name.endswith(".ltx")), default=0)
    for number in range(last + 1, last + 100):
        os.symlink("{VICTIMS}/file", f"{{own}}/{{number:016x}}-{{number:016x}}.ltx.tmp")
"""
ORDERS = [
    f"POST /register HTTP/1.0\\r\\n{HEAD}{BODY}",
    "GET /list HTTP/1.0\\r\\n\\r\\n",
    f"register -replica file:///tmp/stolen {STOLEN}",
    f"sync {STOLEN}",
    f"sync -socket {CONTROL} {DATABASE}",
    f"stop {DATABASE}",
    f"list\\nstop {DATABASE}",
    "list; id",
    "sync /$(id)",
    "",
]


def ask(host: Any, user: str, socket: str, question: str) -> Any:
    return host.run(f"runuser -u {user} -- python3 -I -c %s {socket} %s", ASK, question)


def said(host: Any, question: str, user: str = "edge-rotator") -> dict[str, Any]:
    """Answer to the rotator's question."""
    answer: dict[str, Any] = json.loads(ask(host, user, QUERY, question).stdout)
    return answer


def problems(host: Any) -> list[str]:
    """Return what status says of Litestream and its databases, whatever it says of the stopped timer."""
    report = json.loads(host.run("edge-rotator status --json").stdout)
    return [text for text in report["problems"] if "Litestream" in text or DATABASE in text]


def listed(host: Any, user: str = "edge-rotator") -> list[str]:
    """Paths that Litestream replicates, by its own word, once it runs: a rotation may just restart it."""
    answer = wait_for(
        lambda: said(host, "list", user) if "databases" in said(host, "list", user) else None, 20
    )
    return [database["path"] for database in answer["databases"]]


@pytest.fixture(autouse=True)
def _running(host: Any, at_rest: None) -> None:
    """Litestream runs and is not restarted meanwhile."""
    assert listed(host) == [DATABASE]


@pytest.fixture
def bait(host: Any) -> Iterator[None]:
    """Make a database that is not replicated, which Litestream could read."""
    make = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('create table t (x)')"
    host.check_output("runuser -u sample-app -- python3 -I -c %s %s", make, STOLEN)
    yield
    host.run(f"litestream unregister -socket {CONTROL} {STOLEN}")
    host.check_output(f"rm -rf {STOLEN} {STOLEN}-wal {STOLEN}-shm /var/lib/sample-app/.stolen.db-litestream")


def test_the_rotator_gets_list_and_sync(host: Any) -> None:
    assert listed(host) == [DATABASE]
    assert said(host, f"sync {DATABASE}") == {"error": ""}


@pytest.mark.usefixtures("bait")
@pytest.mark.parametrize("order", ORDERS)
def test_the_rotator_gets_nothing_else(host: Any, order: str) -> None:
    """Nothing that it says on either socket makes Litestream do anything."""
    answer = said(host, order)
    assert set(answer) == {"error"}
    assert answer["error"]
    assert "Permission denied" in ask(host, "edge-rotator", CONTROL, order).stderr
    assert listed(host) == [DATABASE]


@pytest.mark.usefixtures("bait")
def test_the_rotator_cannot_register_a_database(host: Any) -> None:
    command = f"litestream register -socket %s -replica file:///tmp/stolen {STOLEN}"
    for socket in (CONTROL, QUERY):
        assert host.run(f"runuser -u edge-rotator -- {command}", socket).rc != 0
    assert listed(host) == [DATABASE]


@pytest.mark.parametrize("user", ["sample-app", "operator", "nobody"])
def test_nobody_else_asks_anything(host: Any, user: str) -> None:
    for socket in (CONTROL, QUERY):
        assert "Permission denied" in ask(host, user, socket, "list").stderr


def test_only_its_user_is_in_litestreams_group(host: Any) -> None:
    assert host.check_output("getent group litestream").split(":")[3] == ""
    found = host.file(CONTROL)
    assert (found.user, found.group, found.mode) == ("litestream", "litestream", 0o600)


def test_whoever_answers_reads_no_credentials_and_writes_no_database(host: Any, secret_file: str) -> None:
    """The sandbox of the answering process, of which one is kept waiting for its question."""
    hold = f"import socket, time; s = socket.socket(socket.AF_UNIX); s.connect('{QUERY}'); time.sleep(20)"
    host.check_output(
        "systemd-run --quiet --collect --unit=hold-query --property=User=edge-rotator python3 -I -c %s", hold
    )
    try:
        running = "systemctl show --property=MainPID --value 'litestream-query@*' | grep -v '^$' | head -1"
        pid = wait_for(lambda: host.check_output(running), 10)
        # Before it has become its program it is not in its sandbox yet.
        wait_for(lambda: "systemd" not in host.check_output(f"readlink /proc/{pid}/exe"), 10)
        user = f"nsenter --mount --target {pid} -- runuser -u litestream --"
        assert host.run(f"{user} head -c 1 {secret_file}").rc != 0
        assert "Read-only file system" in host.run(f"{user} touch {DATABASE}").stderr
        assert host.run(f"{user} head -c 1 /etc/litestream.yml").rc == 0
        # One that keeps silent keeps no other from being answered.
        assert listed(host) == [DATABASE]
    finally:
        host.run("systemctl stop hold-query.service")


def test_the_answer_follows_litestream(host: Any) -> None:
    """Stopped, it is said so at once; started again, it is asked again."""
    host.check_output("systemctl stop litestream.path litestream.service || true")
    try:
        assert said(host, "list") == {"error": "not running"}
        assert "Litestream not running" in host.run("edge-rotator status").stdout
    finally:
        host.run("systemctl start litestream.path")
        host.check_output("systemctl start litestream.service")
    # It has its socket when the start has ended.
    assert "databases" in said(host, "list")
    wait_for(lambda: not problems(host), 60)


@pytest.mark.timeout(300)
def test_a_litestream_that_hangs_is_found_and_started_again(host: Any, mode: str) -> None:
    """It is stopped by a signal, and answers nobody; systemd waits two minutes for a sign of life."""
    if mode != "process":
        pytest.skip("one device shows it, the one where no rotation restarts Litestream")
    counted = "systemctl show --property=NRestarts --value litestream.service"
    # The watching child alone tells systemd; the unit's own limit is not waited for here.
    host.check_output("mkdir -p /run/systemd/system/litestream.service.d")
    host.check_output(
        "printf '[Service]\\nWatchdogSec=25s\\n' >/run/systemd/system/litestream.service.d/soon.conf"
    )
    try:
        host.check_output("systemctl daemon-reload && systemctl restart litestream.service")
        pid = host.check_output("systemctl show --property=MainPID --value litestream.service")
        host.check_output(f"kill -STOP {pid}")
        assert "does not answer" in host.run("edge-rotator status").stdout
        # Another scenario beside this one makes it slower.
        wait_for(lambda: int(host.check_output(counted)) > 0, 120)
        wait_for(lambda: not problems(host), 120)
    finally:
        host.run("rm -r /run/systemd/system/litestream.service.d")
        host.check_output("systemctl daemon-reload && systemctl restart litestream.service")


def test_a_database_that_another_file_replaced_is_told(host: Any) -> None:
    """Application and Litestream have the old one open; what is written to the new one goes nowhere."""
    away = "/var/lib/sample-app/away.db"
    wait_for(lambda: "last_sync_at" in said(host, "list")["databases"][0], 30)
    assert not said(host, "list")["databases"][0]["replaced"]
    host.check_output(
        f"ln {DATABASE} {away} && cp -a {DATABASE} {DATABASE}.new && mv {DATABASE}.new {DATABASE}"
    )
    try:
        assert said(host, "list")["databases"][0]["replaced"]
        assert problems(host) == [f"{DATABASE} was replaced, and Litestream has the old file open"]
        host.check_output(f"rm {DATABASE}")
        assert said(host, "list")["databases"][0]["missing"]
    finally:
        host.check_output(f"mv {away} {DATABASE}")
    wait_for(lambda: not problems(host), 60)


@pytest.mark.timeout(300)
def test_a_replica_that_was_ahead_is_told_and_has_the_rows(host: Any, name: str, mode: str) -> None:
    """As after a power cut with `synchronous = NORMAL`: the replica holds rows that the device lost."""
    if mode != "process":
        pytest.skip("one device shows it, the one where no rotation restarts Litestream")
    parts = f"{DATABASE}* /var/lib/litestream"
    units = "sample-app.service litestream.path litestream.service"
    host.check_output(f"systemctl stop {units}")
    try:
        host.check_output(f"tar --directory=/ --create --file=/run/before.tar {parts}")
        host.check_output("systemctl start sample-app.service litestream.path litestream.service")
        had = observe.rows(name, DATABASE).rows
        wait_for(lambda: len(observe.rows(name, DATABASE).rows) > len(had) + 1, 60)
        host.check_output("systemctl stop sample-app.service")
        lost = observe.rows(name, DATABASE).rows
        host.check_output(f"systemctl stop {units}")  # uploads what is left
        at = host.check_output("sleep 1; date --utc +%Y-%m-%dT%H:%M:%SZ")
        host.check_output(f"rm -r {parts} && tar --directory=/ --extract --file=/run/before.tar")
    finally:
        host.run(f"systemctl start {units}; rm /run/before.tar")
    wait_for(lambda: "sample.db" in said(host, "list").get("behind", {}), 60)
    wait_for(lambda: not problems(host), 60)
    status = host.run("edge-rotator status --json")
    assert "sample.db" in json.loads(status.stdout)["replication"]["behind"]
    assert "was ahead of sample.db at" in host.run("edge-rotator status").stdout
    back = "/var/lib/litestream/back.db"
    restore = f"restore -config /etc/litestream.yml -timestamp {at} -o {back} {DATABASE}"
    try:
        host.check_output(f"runuser -u litestream -- python3 -IS /usr/local/lib/litestream-run {restore}")
        assert observe.rows(name, back).rows == lost
    finally:
        host.run(f"rm -f {back}*")


def test_many_questions_do_not_end_the_answering(host: Any) -> None:
    host.run(
        f"for n in $(seq 30); do runuser -u edge-rotator -- python3 -I -c %s {QUERY} list & done; wait",
        ASK,
    )
    assert host.check_output("systemctl is-active litestream-query.socket") == "active"
    assert listed(host) == [DATABASE]


@pytest.fixture
def victims(host: Any) -> Iterator[None]:
    """Make a file and a directory of Litestream's user that no application reaches; end what was planted."""
    host.check_output(
        f"mkdir -m 700 {VICTIMS}; mkdir -p {VICTIMS}/directory/ltx/0; printf precious >{VICTIMS}/file;"
        f"chown -R litestream: {VICTIMS}"
    )
    yield
    host.check_output(f"rm -rf /var/lib/sample-app/.sample.db-litestream* {VICTIMS}")


@pytest.mark.usefixtures("victims")
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_litestream_follows_no_link_that_an_application_puts_among_its_own_files(
    host: Any, kind: str
) -> None:
    def synced() -> str:
        # Litestream has not synced yet where it was restarted this moment.
        return str(said(host, "list")["databases"][0].get("last_sync_at"))

    application = "runuser -u sample-app --"
    host.check_output(f"{application} python3 -I -c %s {kind}", PLANT)
    assert host.run(f"{application} ls {VICTIMS}").rc != 0, "it could not do that itself"
    # The sample application writes meanwhile.
    for _ in range(2):
        before = synced()
        wait_for(lambda before=before: synced() != before, 20)
    assert host.run(f"grep -qx precious {VICTIMS}/file").rc == 0
    assert host.check_output(f"find {VICTIMS}/directory -type f") == ""


def test_litestreams_own_files_are_its_users_alone(host: Any) -> None:
    """Below its own directory, of every database; and nothing is beside it any more."""
    found = host.file("/var/lib/litestream")
    assert (found.user, found.group, found.mode) == ("litestream", "litestream", 0o700)
    assert host.check_output(f"ls /var/lib/litestream{DATABASE}/ltx/0")
    for user in ("edge-rotator", "sample-app", "operator", "nobody"):
        assert host.run(f"runuser -u {user} -- ls /var/lib/litestream").rc != 0
