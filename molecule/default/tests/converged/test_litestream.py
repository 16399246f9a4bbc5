"""Who may tell Litestream what: the rotator asks two questions, nobody else asks anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

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


def listed(host: Any, user: str = "edge-rotator") -> list[str]:
    """Paths that Litestream replicates, by its own word, once it runs: a rotation may just restart it."""
    answer = ""

    def answered() -> bool:
        nonlocal answer
        answer, _, code = ask(host, user, QUERY, "list").stdout.rpartition("exit ")
        return code == "0\n"

    wait_for(answered, 20)
    return [database["path"] for database in json.loads(answer)["databases"]]


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
    assert ask(host, "edge-rotator", QUERY, f"sync {DATABASE}").stdout == "exit 0\n"


@pytest.mark.usefixtures("bait")
@pytest.mark.parametrize("order", ORDERS)
def test_the_rotator_gets_nothing_else(host: Any, order: str) -> None:
    """Nothing that it says on either socket makes Litestream do anything."""
    answer = ask(host, "edge-rotator", QUERY, order).stdout
    assert answer.startswith("exit ")
    assert answer != "exit 0\n"
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


def test_whoever_answers_reads_neither_credentials_nor_databases(host: Any, secret_file: str) -> None:
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
        for path in (secret_file, DATABASE):
            assert host.run(f"{user} head -c 1 {path}").rc != 0
        assert host.run(f"{user} head -c 1 /etc/litestream.yml").rc == 0
        # One that keeps silent keeps no other from being answered.
        assert listed(host) == [DATABASE]
    finally:
        host.run("systemctl stop hold-query.service")


def test_the_answer_follows_litestream(host: Any) -> None:
    """Stopped, it is said so at once; started again, it is asked again."""
    host.check_output("systemctl stop litestream.path litestream.service || true")
    try:
        assert ask(host, "edge-rotator", QUERY, "list").stdout == "exit 127\n"
        assert "Litestream is not running" in host.run("edge-rotator status").stdout
    finally:
        host.run("systemctl start litestream.path")
        host.check_output("systemctl start litestream.service")
    wait_for(lambda: ask(host, "edge-rotator", QUERY, "list").stdout.endswith("exit 0\n"), 20)
    wait_for(lambda: host.run("edge-rotator status").rc == 0, 60)


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
        answer = ask(host, "edge-rotator", QUERY, "list").stdout.rpartition("exit ")[0]
        # Litestream has not synced yet where it was restarted this moment.
        return str(json.loads(answer)["databases"][0].get("last_sync_at"))

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
