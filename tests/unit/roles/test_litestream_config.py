"""litestream_config: what Litestream would ignore or choke on is refused, with key, value and mend."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SPEC = importlib.util.spec_from_file_location("ls", ROOT / "roles/litestream/filter_plugins/litestream.py")
assert SPEC and SPEC.loader
ls: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ls)

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


def problems(config: Any, version: str = "0.5.17", restart: float = 0) -> str:
    return "\n".join(ls.litestream_problems(config, version, restart, "edge01/"))


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
    rendered = ls.litestream_render(old({}), "0.3.13", 600)
    assert rendered["dbs"][0]["replicas"][0]["retention-check-interval"] == "300s"
    assert "retention-check-interval" not in str(ls.litestream_render(old({}), "0.3.13", 0))


def test_rendering_keeps_what_the_operator_set() -> None:
    rendered = ls.litestream_render(changed("snapshot", value={"interval": "6h"}), "0.5.17", 0, "/run/s")
    assert rendered["snapshot"] == {"interval": "6h", "retention": "72h"}
    assert rendered["socket"] == {"enabled": True, "path": "/run/s", "permissions": 0o660}
    assert rendered["addr"] == "127.0.0.1:9090"
    assert rendered["dbs"] == GOOD["dbs"]
    assert problems(rendered) == ""


@pytest.mark.parametrize(("text", "value"), [("1h30m", 5400), ("250ms", 0.25), ("10", None), ("1d", None)])
def test_durations_are_go_durations(text: str, value: float | None) -> None:
    assert ls.seconds(text) == value


def test_an_unknown_series_is_refused() -> None:
    assert "versions 0.3 and 0.5" in problems(GOOD, "0.6.0")
