"""litestream_config: what Litestream would ignore or choke on is refused, with key, value and fix."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edge_litestream.appliance.plugins.action.litestream_config import plan
from ansible_collections.edge_litestream.appliance.plugins.module_utils import litestream_config as ls

ROOT = Path(__file__).resolve().parents[4]
GOOD = {
    "dbs": [
        {
            "path": "/var/lib/app/app.db",
            "replica": {"type": "s3", "bucket": "b", "path": "edge01/app.db", "region": "eu-central-1"},
        }
    ]
}


def changed(*path: Any, value: Any, base: dict[str, Any] = GOOD) -> dict[str, Any]:
    """A copy of a good configuration with one value set."""
    config = copy.deepcopy(base)
    node: Any = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return config


def problems(config: Any, version: str = "0.5.17", restart: float = 0, managed: bool = True) -> str:
    return "\n".join(ls.check(config, version, restart, "edge01/", managed))


def database(**keys: Any) -> dict[str, Any]:
    """A good configuration of one database with these keys instead of its path; `_` stands for `-`."""
    named = {key.replace("_", "-"): value for key, value in keys.items()}
    return {"dbs": [{**named, "replica": GOOD["dbs"][0]["replica"]}]}


def old(replica: dict[str, Any]) -> dict[str, Any]:
    """The good configuration in the words of 0.3."""
    replicas = [{**GOOD["dbs"][0]["replica"], **replica}]  # type: ignore[dict-item]
    return {"dbs": [{"path": "/var/lib/app/app.db", "replicas": replicas}]}


def test_a_good_configuration_has_no_problem() -> None:
    assert problems(GOOD) == ""
    assert problems(old({"retention": "24h", "snapshot-interval": "12h"}), "0.3.13") == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (changed("dbs", 0, "path", value="app.db"), "litestream_config.dbs[0].path is 'app.db'"),
        (changed("dbs", value=[]), "litestream_config.dbs is '[]'"),
        ([], "litestream_config is a list"),
        (changed("dbs", 0, value="x"), "litestream_config.dbs[0] is 'x'"),
        (changed("snapshots", value={}), "litestream_config.snapshots is not a key"),
        (changed("snapshot", value={"every": "1h"}), "litestream_config.snapshot.every is not a key"),
        (changed("snapshot", value="1h"), "litestream_config.snapshot is '1h'"),
        (changed("dbs", 0, "replicate", value=1), "dbs[0].replicate is not a key"),
        (changed("dbs", 0, "replica", "snapshot-interval", value="1h"), "snapshot-interval is not a key"),
        (changed("dbs", 0, "replica", "age", value={}), "age is not a key"),
        (changed("dbs", 0, "replica", "sync-interval", value=1), "sync-interval is '1'"),
        (changed("dbs", 0, "replica", "path", value="edge02/app.db"), "has path 'edge02/app.db'"),
        (changed("dbs", 0, "replica", "path", value="edge011/app.db"), "start it with 'edge01/'"),
        (changed("dbs", 0, "replica", "bucket", value=""), "names bucket ''"),
        (changed("dbs", 0, "replica", value=None), "has 0 replicas"),
        (changed("addr", value=":9090"), "litestream_config.addr is ':9090'"),
        (changed("snapshot", value={"interval": "24h", "retention": "1h"}), "retention is '1h'"),
        ({"dbs": GOOD["dbs"] * 2}, "is also that of litestream_config.dbs[0]"),
    ],
)
def test_what_is_wrong_is_named(config: Any, said: str) -> None:
    assert said in problems(config)


def test_two_databases_never_share_a_replica_path() -> None:
    second = {**changed("dbs", 0, "path", value="/var/lib/app/b.db")["dbs"][0]}
    second["replica"] = {"url": "s3://b/edge01/app.db"}
    assert "destroy each other" in problems({"dbs": [GOOD["dbs"][0], second]})


@pytest.mark.parametrize("key", ["access-key-id", "secret-access-key", "session-token"])
@pytest.mark.parametrize("place", [(), ("dbs", 0, "replica")])
def test_secrets_in_yaml_are_refused_and_not_repeated(key: str, place: tuple[Any, ...]) -> None:
    said = problems(changed(*place, key, value="AKIAHIDDEN"))
    assert f"{key} (value hidden)" in said
    assert "AKIAHIDDEN" not in said


def test_retention_that_restarts_defeat_is_refused_on_03_alone() -> None:
    config = old({"retention-check-interval": "1h"})
    assert "would never delete anything" in problems(config, "0.3.13", 600)
    assert problems(config, "0.3.13", 0) == ""
    assert problems(old({"retention-check-interval": "5m"}), "0.3.13", 600) == ""


def test_03_checks_retention_between_two_restarts_unless_told() -> None:
    rendered = ls.render(old({}), "0.3.13", 600)
    assert rendered["dbs"][0]["replicas"][0]["retention-check-interval"] == "300s"
    assert "retention-check-interval" not in str(ls.render(old({}), "0.3.13", 0))


def test_rendering_keeps_what_the_operator_set() -> None:
    rendered = ls.render(changed("snapshot", value={"interval": "6h"}), "0.5.17", 0, "/run/s")
    assert rendered["snapshot"] == {"interval": "6h", "retention": "72h"}
    assert rendered["addr"] == "127.0.0.1:9090"
    assert rendered["dbs"] == GOOD["dbs"]
    # Whoever reaches it can have any database replicated to any place.
    assert rendered.pop("socket") == {"enabled": True, "path": "/run/s", "permissions": 0o600}
    assert problems(rendered) == ""


@pytest.mark.parametrize(("text", "value"), [("1h30m", 5400), ("250ms", 0.25), ("10", None), ("1d", None)])
def test_durations_are_go_durations(text: str, value: float | None) -> None:
    assert ls.seconds(text) == value


def test_an_unknown_series_is_refused() -> None:
    assert "versions 0.3 and 0.5" in problems(GOOD, "0.6.0")


REPLICA_KEYS = ("dbs", 0, "replica")
NOWHERE = {key: value for key, value in GOOD["dbs"][0]["replica"].items() if key != "bucket"}  # type: ignore[attr-defined]
BY_URL = {"url": "s3://b/edge01/app.db"}
SAFE = [
    GOOD,
    {"bucket": "b", "region": "eu-central-1", **changed(*REPLICA_KEYS, value=NOWHERE)},
    changed(*REPLICA_KEYS, value={**BY_URL, "region": "eu-central-1"}),
    changed(*REPLICA_KEYS, "endpoint", value="https://s3.example.com:9000"),
    changed(*REPLICA_KEYS, "endpoint", value="https://[2001:db8::1]:9000/"),
    changed("endpoint", value="https://s3.example.com"),
    changed(*REPLICA_KEYS, "skip-verify", value=False),
    changed("heartbeat-url", value="https://hc.example.com/ping/1"),
    *(
        changed("addr", value=value)
        for value in ("", "127.0.0.1:9090", "127.3.2.1:1", "localhost:1", "[::1]:1")
    ),
]
# What would leave the device by another way, unproven, unencrypted or for others to reach.
UNSAFE = [
    (changed("skip-verify", value=True), "litestream_config.skip-verify is 'True'"),
    (changed(*REPLICA_KEYS, "skip-verify", value="yes"), "replica.skip-verify is 'yes'"),
    (
        changed(*REPLICA_KEYS, "endpoint", value="http://s3.example.com"),
        "endpoint is 'http://s3.example.com'",
    ),
    (changed(*REPLICA_KEYS, "endpoint", value="HTTP://s3"), "endpoint is 'HTTP://s3'"),
    # Without a scheme Litestream speaks HTTP to what it takes for a local address.
    (changed(*REPLICA_KEYS, "endpoint", value="10.0.0.1:9000"), "endpoint is '10.0.0.1:9000'"),
    (changed("endpoint", value="http://s3.example.com"), "litestream_config.endpoint is 'http://s3"),
    (
        changed(*REPLICA_KEYS, value={"url": "s3://b.s3.example:9000/edge01/app.db"}),
        "url is not s3://BUCKET/PATH",
    ),
    (
        changed(*REPLICA_KEYS, value={"url": "s3://b/edge01/app.db?skipVerify=true"}),
        "url is not s3://BUCKET/PATH",
    ),
    (
        changed(*REPLICA_KEYS, value={"url": "s3://b/edge01/app.db?endpoint=http://x"}),
        "url is not s3://BUCKET/",
    ),
    (
        changed(*REPLICA_KEYS, value={"url": "s3://b/edge01/../edge02/app.db"}),
        "without '$', '//', '.' and '..'",
    ),
    (
        changed(*REPLICA_KEYS, value={"url": "s3://b/edge01/%2e%2e/edge02/a.db"}),
        "url is not s3://BUCKET/PATH",
    ),
    (changed(*REPLICA_KEYS, value={"url": "sftp://u@example.com/edge01/app.db"}), "puts a secret"),
    (changed(*REPLICA_KEYS, value={"url": "file:///edge01/app.db"}), "url is not s3://BUCKET/PATH"),
    (changed(*REPLICA_KEYS, value={**BY_URL, "type": "file"}), "replica[0].type is 'file'"),
    ({"bucket": "b", **changed(*REPLICA_KEYS, value=BY_URL)}, "has a url, and path or bucket too"),
    (
        changed(*REPLICA_KEYS, value={"bucket": "b", "path": "edge01/app.db"}),
        "replica[0].type is '': write s3",
    ),
    *(
        (changed(*REPLICA_KEYS, "type", value=kind), f"replica[0].type is '{kind}': write s3")
        for kind in ("file", "sftp", "webdav", "nats", "gs", "abs", "oss")
    ),
    (changed(*REPLICA_KEYS, "webdav-url", value="https://x"), "webdav-url is not a key of Litestream 0.5.17"),
    (changed(*REPLICA_KEYS, "path", value="edge01/../edge02/app.db"), "without '$', '//', '.' and '..'"),
    (changed(*REPLICA_KEYS, "path", value="edge01/${HOME}"), "without '$', '//', '.' and '..'"),
    (changed(*REPLICA_KEYS, "endpoint", value="https://${HOST}"), "Litestream replaces what follows '$'"),
    (
        changed("heartbeat-url", value="http://hc.example.com/ping/1"),
        "litestream_config.heartbeat-url is not https://HOST/PATH",
    ),
    *(
        (changed(*place, f"sse-customer-{key}", value=value), "the fleet's bucket policy denies")
        for place in ((), REPLICA_KEYS)
        for key, value in (("algorithm", "AES256"), ("key-path", "/etc/key"))
    ),
    (changed("mcp-addr", value="0.0.0.0:3001"), "litestream_config.mcp-addr is not for the appliance"),
    (changed("mcp-addr", value="127.0.0.1:3001"), "litestream_config.mcp-addr is not for the appliance"),
    (changed("exec", value="/bin/app"), "litestream_config.exec is not for the appliance"),
    (changed("socket", value={"permissions": 0o666}), "litestream_config.socket is not for the appliance"),
    (changed("socket", value={"path": "/srv/s"}), "litestream_config.socket is not for the appliance"),
    *(
        (changed("addr", value=value), f"litestream_config.addr is '{value}'")
        for value in (
            "127.0.0.1.example.net:9090",
            "127.0.0.1",
            "localhost.example.net:1",
            "0.0.0.0:9090",
            ":1",
        )
    ),
    (database(dir="/var/lib/app", pattern="in/*.db"), "give a pattern of names"),
]


@pytest.mark.parametrize("config", SAFE)
def test_what_is_safe_is_accepted(config: dict[str, Any]) -> None:
    assert problems(config) == ""


@pytest.mark.parametrize(("config", "said"), UNSAFE)
def test_what_exposes_data_or_device_is_refused(config: dict[str, Any], said: str) -> None:
    assert said in problems(config)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("heartbeat-url",), "https://KEY:SECRET@hc.example.com/1"),
        (("endpoint",), "https://KEY:SECRET@s3.example.com"),
        ((*REPLICA_KEYS, "endpoint"), "KEY:SECRET@s3.example.com"),
        ((*REPLICA_KEYS, "url"), "s3://KEY:SECRET@b/edge01/app.db"),
        ((*REPLICA_KEYS, "url"), "s3://b/edge01/app.db?secret-access-key=SECRET"),
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(place: tuple[Any, ...], value: str) -> None:
    said = problems(changed(*place, value=value))
    assert "(value hidden)" in said or "url is not s3://" in said
    assert "SECRET" not in said


# Below the root.
SHARED = [
    "", "srv", "opt", "root", "tmp", "home", "home/pi", "etc", "etc/app", "usr/local/app", "bin/app",
    "sbin/app", "lib/app", "lib64/app", "boot/app", "dev/shm", "proc/app", "sys/app", "run/app", "var",
    "var/lib", "var/cache", "var/log", "var/tmp", "var/tmp/app", "var/run/app", "tmp/app",
    "root/.ssh", "root/app", "home/pi/.ssh", "home/pi/.config/app", "srv/git/.ssh", "var/lib/git/.gnupg/in",
    "var/lib/dpkg", "var/lib/systemd/app", "var/lib/edge-token", "var/lib/edge-rotator/app",
    "opt/litestream/app", "opt/edge-rotator", "var/spool/cron/crontabs", "var/log/journal",
    "var/cache/apt/app", "var/lib/private/app", "var/lib/litestream", "var/lib/litestream/app",
]  # fmt: skip
OWN = [
    "var/lib/app", "srv/app", "opt/app/data", "home/pi/app", "mnt/data", "data/app", "library/app",
    "var/lib/etc", "var/app", "etcetera/app", "var/log/app", "var/spool/app",
    "var/lib/sudoku", "opt/litestreams",
]  # fmt: skip


@pytest.mark.parametrize("directory", SHARED)
def test_a_directory_that_others_use_is_never_shared(directory: str) -> None:
    directory = f"/{directory}"
    path = f"{directory.rstrip('/')}/app.db"
    said = problems(database(path=path))
    assert f"litestream_config.dbs[0].path is '{path}'" in said
    assert "like /var/lib/app/app.db" in said
    assert f"litestream_config.dbs[0].dir is '{directory}'" in problems(database(dir=directory, pattern="*"))
    for key in ("meta_path", "meta_dir"):
        where = {"dir": "/var/lib/app", "pattern": "*.db", key: directory}
        assert f"litestream_config.dbs[0].{key.replace('_', '-')} is '{directory}'" in problems(
            database(**where)
        )


@pytest.mark.parametrize("directory", OWN)
def test_a_directory_of_its_own_may_be_anywhere_else(directory: str) -> None:
    assert problems(database(path=f"/{directory}/app.db")) == ""
    assert problems(database(dir=f"/{directory}/", pattern="*.db", meta_dir=f"/{directory}-meta")) == ""


def test_whoever_manages_directories_may_choose_any_that_the_unit_sees() -> None:
    assert "litestream_manage_directories: false" in problems(database(path="/srv/app.db"))
    assert problems(database(path="/srv/app.db"), managed=False) == ""
    for path in (f"{top}tmp{rest}/app.db" for top in ("/", "/var/") for rest in ("", "/app")):
        assert "does not see" in problems(database(path=path), managed=False)


@pytest.mark.parametrize(
    "name", ["a b", "a\tb", "a\nb", "a%b", "a$b", 'a"b', "a'b", "a\\b", "a//b", "./b", "../b", "a/../b", ".."]
)
@pytest.mark.parametrize("key", ["path", "dir", "meta-path", "meta-dir"])
def test_paths_that_a_unit_would_misread_are_refused(name: str, key: str) -> None:
    keys = {"path": "/var/lib/app/app.db"} if key in ("path", "meta-path") else {"dir": "/var/lib/app"}
    said = problems(database(**{"pattern": "*.db", **keys, key: f"/var/lib/app/{name}"}))
    assert f"litestream_config.dbs[0].{key} is '/var/lib/app/{name}'" in said
    assert "without whitespace" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"dir": "/var/lib/app"}, "dbs[0].dir is '/var/lib/app': give a pattern"),
        ({"dir": "/var/lib/app", "pattern": "*", "path": "/var/lib/app/a.db"}, "no path beside it"),
        ({"path": "/var/lib/app/a.db", "watch": True}, "dbs[0].watch is 'True', which a path does not take"),
        ({"path": "/var/lib/app/a.db", "meta_dir": "/var/lib/m"}, "dbs[0].meta-dir is '/var/lib/m', which"),
    ],
)
def test_keys_that_end_litestream_together_are_refused(keys: dict[str, Any], said: str) -> None:
    assert said in problems(database(**keys))


def test_whatever_litestream_writes_in_is_known() -> None:
    config = {
        "dbs": [
            {"path": "/var/lib/app/a.db", "meta-path": "/var/lib/meta/a"},
            {"path": "/var/lib/app/b.db"},
            {"dir": "/srv/more/", "pattern": "*.db", "recursive": True, "meta-dir": "/var/lib/meta/more"},
        ]
    }
    assert ls.groups_of(config, {"/srv/more/": "more"}, "data", "own") == {
        "/var/lib/app": "data",
        "/var/lib/meta/a": "own",
        "/srv/more": "more",
        "/var/lib/meta/more": "own",
    }
    assert list(ls.groups_of({"dbs": [{"path": "/a.db"}, {"dir": "/"}]}, {}, "data", "own")) == ["/"]
    assert ls.databases(config) == ["/var/lib/app/a.db", "/var/lib/app/b.db"]


TWO = {"dbs": [{"path": "/srv/a/a.db"}, {"path": "/srv/a/b.db"}, {"dir": "/srv/b", "pattern": "*.db"}]}


@pytest.mark.parametrize(
    ("config", "named", "said"),
    [
        (
            TWO,
            {},
            r"dbs\[2\].dir is '/srv/b', and /srv/a is of the group 'data', too: name the group of /srv/b",
        ),
        (TWO, {"/srv/b": "b", "/srv/c": "c"}, "litestream_data_groups names /srv/c, where"),
        (TWO, {"/srv/b": "b"}, ""),
        (
            {"dbs": [{"path": "/srv/a/a.db", "meta-path": "/srv/meta"}]},
            {"/srv/a": "a", "/srv/meta": "a"},
            "litestream_data_groups names /srv/meta, where",
        ),
    ],
)
def test_applications_share_a_group_only_where_it_is_said(
    config: dict[str, Any], named: dict[str, str], said: str
) -> None:
    if said:
        with pytest.raises(ValueError, match=said):
            ls.groups_of(config, named, "data", "own")
    else:
        assert ls.groups_of(config, named, "data", "own") == {"/srv/a": "data"} | named


@pytest.mark.parametrize(
    ("dbs", "said"),
    [
        (
            [{"path": "/srv/a/a.db", "meta-path": "/srv/a"}],
            r"dbs\[0\].meta-path is '/srv/a', and /srv/a is named",
        ),
        (
            [{"path": "/srv/a/a.db", "meta-path": "/srv/b"}, {"path": "/srv/b/b.db"}],
            r"dbs\[1\].path is '/srv/b/b",
        ),
        (
            [{"path": f"/srv/a/{name}.db", "meta-path": "/srv/meta"} for name in "ab"],
            r"dbs\[1\].meta-path is",
        ),
    ],
)
def test_litestreams_own_files_are_in_a_directory_of_their_own(dbs: list[Any], said: str) -> None:
    """An application could put links among them; two databases would overwrite one another's."""
    with pytest.raises(ValueError, match=said):
        ls.groups_of({"dbs": dbs}, {"/srv/a": "a", "/srv/b": "b"}, "data", "own")


@pytest.mark.parametrize("version", ["0.5.17", "0.3.13"])
def test_litestreams_own_files_are_where_no_application_writes(version: str) -> None:
    dbs = [
        {"path": "/srv/a/a.db"},
        {"dir": "/srv/b/", "pattern": "*.db"},
        {"path": "/srv/c/c.db", "meta-path": "/srv/meta"},
        {"dir": "/srv/d", "pattern": "*.db", "meta-dir": "/srv/meta2"},
    ]
    written = ls.render({"dbs": dbs}, version, 0, "", "/var/lib/litestream")["dbs"]
    assert [one.get("meta-path") for one in written] == [
        "/var/lib/litestream/srv/a/a.db",
        "/var/lib/litestream/srv/b",
        "/srv/meta",
        None,
    ]
    assert [{key: one[key] for key in was} for one, was in zip(written, dbs, strict=True)] == dbs


def test_directories_of_one_application_share_a_group_that_is_named() -> None:
    assert ls.groups_of(TWO, {"/srv/b": "b"}, "data", "own") == {"/srv/a": "data", "/srv/b": "b"}
    assert ls.groups_of(TWO, {"/srv/b": "data"}, "data", "own") == {"/srv/a": "data", "/srv/b": "data"}


def test_the_files_beside_a_database_are_searched_with_it() -> None:
    assert ls.searches({"dbs": [{"path": "/srv/app/a[1].db"}]}) == [
        {
            "paths": "/srv/app",
            "patterns": ["a[[]1].db", "a[[]1].db-wal", "a[[]1].db-shm", "a[[]1].db-journal"],
            "recurse": False,
        }
    ]
    assert ls.searches({"dbs": [{"dir": "/srv/app/", "pattern": "*.db", "recursive": True}]}) == [
        {
            "paths": "/srv/app",
            "patterns": ["*.db", "*.db-wal", "*.db-shm", "*.db-journal"],
            "recurse": True,
        }
    ]


@pytest.mark.parametrize(
    ("timeout", "databases", "stop"),
    [
        (None, 1, 45),
        ("30s", 1, 45),
        ("300s", 1, 315),
        ("5m0.5s", 1, 316),
        ("10s", 4, 55),
        (None, 4, 55),
        ("0s", 9, 45),
    ],
)
def test_a_stop_may_take_as_long_as_the_last_syncs(timeout: str | None, databases: int, stop: int) -> None:
    config = {"dbs": GOOD["dbs"] * databases} | ({"shutdown-sync-timeout": timeout} if timeout else {})
    assert ls.stop_timeout(config) == stop


def told_of(config: Any, **more: Any) -> dict[str, Any]:
    given = {
        "config": config,
        "version": "0.5.17",
        "restart_interval": 0,
        "prefix": "edge01/",
        "managed": True,
        "databases": {},
        "bucket": "",
        "region": "eu-central-1",
    }
    places = {"socket": "/run/s", "groups": {}, "group": "data", "own_group": "own", "meta": "/var/lib/own"}
    told: dict[str, Any] = plan(given | places | more)
    return told


def test_one_call_tells_all_that_follows() -> None:
    told = told_of(GOOD)
    assert told["config"] == ls.render(GOOD, "0.5.17", 0, "/run/s", "/var/lib/own")
    assert told["databases"] == ["/var/lib/app/app.db"]
    assert told["directories"] == ["/var/lib/app"]
    assert told["groups"] == {"/var/lib/app": "data"}
    assert told["searches"] == ls.searches(GOOD)
    assert (told["stop_timeout"], told["problems"], told["changed"]) == (45, [], False)
    assert "failed" not in told


def test_every_problem_is_in_the_failure() -> None:
    bad = changed("snapshots", value={}, base=changed("dbs", 0, "path", value="app.db"))
    told = told_of(bad)
    assert told["failed"]
    assert len(told["problems"]) == 2
    assert told["msg"].splitlines() == told["problems"]
    assert "names /srv/x" in told_of(GOOD, groups={"/srv/x": "x"})["msg"]


REPLICA = {"bucket": "b", "path": "edge01/more/"}


@pytest.mark.parametrize(
    ("entry", "single", "meta"),
    [
        ({"path": "/srv/more/in/a.db", "replica": REPLICA}, None, ("/srv/more/in", ".a.db-litestream")),
        (
            {"path": "/srv/more/in/a.db", "meta-path": "/srv/meta", "replica": REPLICA},
            None,
            ("/srv/meta", ""),
        ),
        (
            {"dir": "/srv/more/", "recursive": True, "replica": {**REPLICA, "region": "r"}},
            {"bucket": "b", "path": "edge01/more/in/a.db", "region": "r"},
            ("/srv/more/in", ".a.db-litestream"),
        ),
        (
            {"dir": "/srv/more", "meta-path": "/srv/meta", "replicas": [{"url": "s3://b/edge01/?region=r"}]},
            {"url": "s3://b/edge01/in/a.db?region=r"},
            ("/srv/meta/in", ".a.db-litestream"),
        ),
        (
            {"dir": "/srv/more", "meta-dir": "/srv/meta", "replica": {"url": "s3://b/edge01"}},
            {"url": "s3://b/edge01/in/a.db"},
            ("/srv/meta/in", "a.db-litestream"),
        ),
    ],
)
def test_one_database_of_a_directory_has_a_replica_of_its_own(
    entry: dict[str, Any], single: dict[str, Any] | None, meta: tuple[str, str]
) -> None:
    """Litestream puts them there: tried with 0.5.17."""
    path = "/srv/more/in/a.db"
    assert ls.alone(entry, path) == ({"path": path, "replica": single} if single else entry)
    assert ls.meta(entry, path) == meta


FLAT = {"dir": "/srv/flat/", "pattern": "*.db", "replica": REPLICA}
DEEP = {"dir": "/srv/deep", "pattern": "*.db", "recursive": True, "replica": REPLICA}


@pytest.mark.parametrize(
    ("dbs", "wanted", "path"),
    [
        (GOOD["dbs"], "", "/var/lib/app/app.db"),
        ([*GOOD["dbs"], FLAT], "/var/lib/app/app.db", "/var/lib/app/app.db"),
        ([*GOOD["dbs"], FLAT], "/srv/flat/a.db", "/srv/flat/a.db"),
        ([DEEP], "/srv/deep/in/a.db", "/srv/deep/in/a.db"),
    ],
)
def test_the_database_to_restore_is_found(dbs: list[Any], wanted: str, path: str) -> None:
    assert ls.choose({"dbs": dbs}, wanted)[0] == path


@pytest.mark.parametrize(
    ("dbs", "wanted"),
    [
        ([*GOOD["dbs"], FLAT], ""),
        (GOOD["dbs"], "/var/lib/app/other.db"),
        ([FLAT], ""),
        ([FLAT], "/srv/flat/in/a.db"),
        ([FLAT], "/srv/flatter/a.db"),
        ([DEEP], "/srv/deep/../../etc/shadow"),
    ],
)
def test_a_database_that_is_not_litestreams_is_refused_with_the_choice(dbs: list[Any], wanted: str) -> None:
    with pytest.raises(ValueError, match="give one of /") as error:
        ls.choose({"dbs": dbs}, wanted)
    assert f"restore_database is '{wanted}'" in str(error.value)


@pytest.mark.parametrize(
    ("top", "replica", "place"),
    [
        ({}, {"bucket": "b", "path": "t/a.db"}, ["https://b.s3.eu-central-1.amazonaws.com", "t/a.db"]),
        (
            {},
            {"url": "s3://b/t/a.db", "region": "us-east-1"},
            ["https://b.s3.us-east-1.amazonaws.com", "t/a.db"],
        ),
        ({"bucket": "b"}, {"path": "/t/a.db/"}, ["https://b.s3.eu-central-1.amazonaws.com", "t/a.db"]),
        ({"endpoint": "https://m:9000/"}, {"bucket": "b", "path": "t"}, ["https://m:9000/b", "t"]),
        (
            {"force-path-style": True},
            {"bucket": "b", "path": "t"},
            ["https://s3.eu-central-1.amazonaws.com/b", "t"],
        ),
        (
            {},
            {"bucket": "b", "path": "t", "endpoint": "https://m:9000", "force-path-style": False},
            ["https://b.m:9000", "t"],
        ),
    ],
)
def test_the_rotator_is_told_where_litestream_puts_its_replicas(
    top: dict[str, Any], replica: dict[str, Any], place: list[str]
) -> None:
    """As Litestream's client makes the URL of a bucket."""
    assert ls.replica_places({**top, "dbs": [{"path": "/a.db", "replica": replica}]}, "eu-central-1") == [
        place
    ]


def test_places_are_in_the_order_of_databases_and_patterns() -> None:
    def entry(kind: str, name: str) -> dict[str, Any]:
        return {kind: f"/{name}", "pattern": "*", "replica": {"bucket": "b", "path": name}}

    config = {"dbs": [entry("dir", "d1"), entry("path", "p1"), entry("dir", "d2"), entry("path", "p2")]}
    assert [path for _, path in ls.replica_places(config, "r")] == ["p1", "p2", "d1", "d2"]
    assert ls.databases(config) == ["/p1", "/p2"]


@pytest.mark.parametrize(
    ("top", "intervals", "longest"),
    [({}, [None], 1), ({}, ["5m", "1s"], 300), ({"sync-interval": "10s"}, [None, "1s"], 10)],
)
def test_the_longest_sync_interval(top: dict[str, Any], intervals: list[str | None], longest: float) -> None:
    replicas = [{"sync-interval": interval} if interval else {"path": "x"} for interval in intervals]
    assert ls.sync_interval({**top, "dbs": [{"replica": replica} for replica in replicas]}) == longest


PUMP = {"edge_databases_pump": {"pump": {"path": "/var/lib/pump/pump.db"}}}
CAMERA = {"edge_databases_camera": {"camera": {"path": "/var/lib/camera/camera.db", "group": "video-data"}}}
PLACE = {"bucket": "fleet", "region": "eu-central-1"}
GOOD_REPLICAS = [{"type": "s3", "bucket": "b", "path": f"edge01/{number}"} for number in (1, 2)]


def test_what_is_in_litestream_config_alone_is_as_before() -> None:
    none: list[dict[str, Any]] = [{}, {"edge_databases": {}}]
    for databases in none:
        told = told_of(GOOD, databases=databases, **PLACE)
        assert told["config"] == ls.render(GOOD, "0.5.17", 0, "/run/s", "/var/lib/own")
        assert told["groups"] == {"/var/lib/app": "data"}


def test_groups_of_devices_add_databases() -> None:
    """To those of litestream_config; each application has a group of its own, and the rest is derived."""
    config = {**GOOD, "sync-interval": "10s"}
    told = told_of(config, databases=PUMP | CAMERA, **PLACE)
    replica = {"type": "s3", "bucket": "fleet", "region": "eu-central-1"}
    written = [{key: one[key] for key in ("path", "replica")} for one in told["config"]["dbs"]]
    assert written == [
        GOOD["dbs"][0],
        {"path": "/var/lib/camera/camera.db", "replica": {**replica, "path": "edge01/camera.db"}},
        {"path": "/var/lib/pump/pump.db", "replica": {**replica, "path": "edge01/pump.db"}},
    ]
    assert told["groups"] == {
        "/var/lib/app": "data",
        "/var/lib/camera": "video-data",
        "/var/lib/pump": "pump-data",
    }
    assert told["databases"] == ["/var/lib/app/app.db", "/var/lib/camera/camera.db", "/var/lib/pump/pump.db"]
    assert [path for _url, path in told["replicas"]] == [
        "edge01/app.db",
        "edge01/camera.db",
        "edge01/pump.db",
    ]
    assert (told["patterns"], told["sync_interval"], told["stop_timeout"]) == ([], 10, 45)


@pytest.mark.parametrize(
    ("entry", "version", "top", "written"),
    [
        (
            {
                "path": "/var/lib/a/a.db",
                "replica": {"bucket": "own", "sync-interval": "1m"},
                "meta-path": "/var/lib/m",
            },
            "0.5.17",
            {"region": "us-east-1"},
            {
                "path": "/var/lib/a/a.db",
                "meta-path": "/var/lib/m",
                "replica": {"type": "s3", "path": "edge01/a.db", "bucket": "own", "sync-interval": "1m"},
            },
        ),
        (
            {"path": "/var/lib/a/a.db", "replica": {"url": "s3://own/edge01/x"}},
            "0.5.17",
            {},
            {
                "path": "/var/lib/a/a.db",
                "replica": {"type": "s3", "region": "eu-central-1", "url": "s3://own/edge01/x"},
            },
        ),
        (
            {"dir": "/var/lib/a", "pattern": "*.db"},
            "0.5.17",
            {"bucket": "top"},
            {
                "dir": "/var/lib/a",
                "pattern": "*.db",
                "replica": {"type": "s3", "path": "edge01/a", "region": "eu-central-1"},
            },
        ),
        (
            {"path": "/var/lib/a/a.db"},
            "0.3.13",
            {},
            {"path": "/var/lib/a/a.db", "replicas": [{"type": "s3", "path": "edge01/a.db", **PLACE}]},
        ),
        (
            {"path": "/var/lib/a/a.db", "replicas": GOOD_REPLICAS},
            "0.3.13",
            {},
            {"path": "/var/lib/a/a.db", "replicas": GOOD_REPLICAS},
        ),
    ],
)
def test_what_an_entry_says_wins(
    entry: dict[str, Any], version: str, top: dict[str, Any], written: dict[str, Any]
) -> None:
    told = told_of(top, databases={"edge_databases": {"a": entry}}, version=version, meta="", **PLACE)
    assert told["problems"] == []
    assert told["config"]["dbs"] == [written]


def of(**entry: Any) -> dict[str, Any]:
    """A second variable with one database, `b`."""
    return {"edge_databases_b": {"b": {"path": "/var/lib/b/b.db", **entry}}}


@pytest.mark.parametrize(
    ("databases", "said"),
    [
        ({"edge_database_b": {}}, "edge_database_b is read by nobody: call it edge_databases or"),
        ({"edge_databases_b": None}, "edge_databases_b is a NoneType: write a mapping of names, {} for none"),
        ({"edge_databases_b": ["b"]}, "edge_databases_b is a list: write a mapping"),
        ({"edge_databases_b": {"B b": {}}}, "edge_databases_b.B b is no name"),
        ({"edge_databases_b": {"b" * 28: {}}}, "is no name: take up to 27"),
        ({"edge_databases_b": {"b": "/b.db"}}, "edge_databases_b.b and its replica, if it has one, must be"),
        (of(replica="s3://k:HUSH@b"), "edge_databases_b.b and its replica, if it has one, must be mappings"),
        (
            {"edge_databases_b": {"pump": {"path": "/var/lib/b/b.db"}}},
            "edge_databases_pump.pump has the name of edge_databases_b.pump",
        ),
        (of(group="b, root"), "edge_databases_b.b.group is 'b, root': name a system group"),
        (of(group="root"), "the group 'root' is named by"),
        (of(group="own"), "the group 'own' is named by"),
        (
            of(path="/var/lib/pump/b.db"),
            "edge_databases_pump.pump.group is 'pump-data', and /var/lib/pump is of 'b-data' by edge_data",
        ),
        (
            of(path="/srv/named/b.db"),
            "edge_databases_b.b.group is 'b-data', and /srv/named is of 'n' by litestream_data_groups",
        ),
        # And what the judge of Litestream's keys says, in the operator's words.
        (of(path="/var/lib/pump/pump.db"), "edge_databases_pump.pump.path '/var/lib/pump/pump.db' is also"),
        (of(paht="/x"), "edge_databases_b.b.paht is not a key of Litestream"),
        (of(path="b.db"), "edge_databases_b.b.path is 'b.db', a relative path"),
        ({"edge_databases_b": {"b": {}}}, "edge_databases_b.b has no path"),
        (of(replica={"sync-interval": "1"}), "edge_databases_b.b.replica.sync-interval is '1': write"),
        (of(replica={"type": "sftp"}), "edge_databases_b.b.replica.type is 'sftp'"),
        (of(replica={"path": "edge02/b.db"}), "edge_databases_b.b.replica has path 'edge02/b.db': start it"),
        (of(replica={"bucket": ""}), "edge_databases_b.b.replica names bucket '' and path 'edge01/b.db'"),
        (of(replica={"path": "edge01/pump.db"}), "'fleet/edge01/pump.db', as edge_databases_b.b does"),
        (of(unit="rm -rf /"), "edge_databases_b.b.unit is 'rm -rf /': name the unit that writes it"),
        (of(unit=["b.service", {}]), "edge_databases_b.b.unit is '{}': name the unit"),
        (of(**{"meta-path": "/var/lib/b"}), "edge_databases_b.b.meta-path is '/var/lib/b', and"),
    ],
)  # fmt: skip
def test_an_entry_that_is_wrong_is_named(databases: dict[str, Any], said: str) -> None:
    """By the variable that it is from."""
    groups = {"/srv/named": "n"} if "/srv/named" in str(databases) else {}
    told = told_of({}, databases=PUMP | databases, groups=groups, **PLACE)
    assert told["failed"]
    assert said in told["msg"]
    assert "dbs[" not in told["msg"]
    assert "HUSH" not in told["msg"]


def test_the_units_that_write_a_database_are_known() -> None:
    """And are none of Litestream's keys."""
    databases: dict[str, Any] = {
        "edge_databases": {
            "one": {"path": "/var/lib/one/one.db", "unit": "one.service"},
            "none": {"path": "/var/lib/none/none.db", "unit": []},
            "unsaid": {"path": "/var/lib/unsaid/unsaid.db"},
            "two": {"dir": "/var/lib/two", "pattern": "*.db", "unit": ["b.service", "b.timer"]},
        }
    }
    told = told_of(GOOD, databases=databases, **PLACE)
    assert told["problems"] == []
    assert "unit" not in str(told["config"]).replace("unsaid", "")
    assert told["units"] == {
        "/var/lib/app/app.db": None,
        "/var/lib/one/one.db": ["one.service"],
        "/var/lib/none/none.db": [],
        "/var/lib/unsaid/unsaid.db": None,
        "/var/lib/two": ["b.service", "b.timer"],
    }


def test_an_entry_and_litestream_config_do_not_name_one_database() -> None:
    said = told_of(GOOD, databases=of(path="/var/lib/app/app.db"), **PLACE)["msg"]
    assert "edge_databases_b.b.path '/var/lib/app/app.db' is also that of litestream_config.dbs[0]" in said


def test_a_group_that_nobody_named_is_not_anothers() -> None:
    """`edge` would be of edge-data, which is the group of the directories without a name."""
    entry = {"path": "/var/lib/edge/edge.db"}
    for said, problem in ((entry, True), (entry | {"group": "edge-data"}, False)):
        told = told_of(GOOD, databases={"edge_databases": {"edge": said}}, group="edge-data", **PLACE)
        assert ("edge_databases.edge.group is 'edge-data'" in told.get("msg", "")) == problem


def profiled(profile: str, config: Any = GOOD, version: str = "0.5.17") -> dict[str, Any]:
    """What follows from a configuration with a profile."""
    args = {"config": config, "databases": {}, "groups": {}, "group": "edge-data", "own_group": "litestream"}
    args |= {"version": version, "restart_interval": 0, "prefix": "edge01/", "managed": True}
    args |= {"bucket": "", "region": "eu-central-1", "socket": "/run/s", "meta": "", "profile": profile}
    told: dict[str, Any] = plan(args)
    return told


def test_a_profile_says_how_often_a_database_is_looked_at() -> None:
    looks = {profile: profiled(profile)["monitor_interval"] for profile in ls.PROFILES}
    assert looks == {"default": 1, "metered": 60, "hourly": 3600}
    # It is what makes files, and each file is a request.
    written = profiled("metered")["config"]
    assert [entry["monitor-interval"] for entry in written["dbs"]] == ["1m"]
    assert "monitor-interval" not in written
    assert "monitor-interval" not in profiled("default")["config"]["dbs"][0]


def test_what_the_operator_says_wins_over_a_profile() -> None:
    config = changed("dbs", 0, "monitor-interval", value="10s")
    config |= {"levels": [{"interval": "2h"}], "snapshot": {"retention": "400h"}, "l0-retention": "3h"}
    told = profiled("hourly", config)
    assert told["monitor_interval"] == 10
    written = told["config"]
    assert (written["levels"], written["l0-retention"]) == ([{"interval": "2h"}], "3h")
    assert written["snapshot"] == {"interval": "168h", "retention": "400h"}
    assert written["l0-retention-check-interval"] == "24h"


def test_a_profile_is_judged_with_what_the_operator_says() -> None:
    assert (
        "shorter than snapshot.interval '168h'"
        in profiled("metered", {**GOOD, "snapshot": {"retention": "96h"}})["msg"]
    )
    assert "failed" not in profiled("default", {**GOOD, "snapshot": {"retention": "96h"}})
    assert profiled("metred")["msg"] == (
        "litestream_profile is 'metred': Litestream 0.5.17 has default, metered, hourly here, choose one"
    )
    assert "Litestream 0.3.13 has default here" in profiled("hourly", old({}), "0.3.13")["msg"]
    assert "failed" not in profiled("default", old({}), "0.3.13")


@pytest.mark.parametrize("profile", ls.PROFILES)
def test_every_profile_is_made_of_keys_that_are_known(profile: str) -> None:
    """Judged as an operator's own would be; and each level lasts longer than the one below it."""
    said = dict(ls.PROFILES[profile])
    look = {"monitor-interval": said.pop("monitor-interval", "1s")}
    config = {**said, "dbs": [{**look, **GOOD["dbs"][0]}]}
    assert problems(config) == ""
    written = profiled(profile)["config"]
    levels = [level["interval"] for level in written["levels"]]
    steps = [look["monitor-interval"], *levels, written["snapshot"]["interval"]]
    lasting = [ls.seconds(step) or 0 for step in steps]
    assert lasting == sorted(set(lasting))


def test_the_roles_choices_are_the_profiles() -> None:
    spec = yaml.safe_load((ROOT / "roles/litestream/meta/argument_specs.yml").read_text())
    option = spec["argument_specs"]["main"]["options"]["litestream_profile"]
    assert option["choices"] == list(ls.PROFILES)
