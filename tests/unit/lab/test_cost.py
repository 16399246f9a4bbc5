"""What a device costs: what is counted, and what a hurried day is."""

from __future__ import annotations

import pytest

from experiment import cost
from experiment.observe import Request
from plugins.module_utils import litestream_config as ls


def request(method: str, key: str = "edge01/sample.db/0000/x.ltx", query: str = "", up: int = 0) -> Request:
    return Request(1.0, method, key, 200, "", "AKIA", up, query, 10)


@pytest.mark.parametrize(
    ("method", "query", "kind"),
    [
        ("PUT", "x-id=PutObject", "PUT"),
        ("GET", "list-type=2&prefix=edge01%2F", "LIST"),
        ("GET", "x-id=GetObject", "GET"),
        ("POST", "delete=", "DELETE"),
        ("POST", "delete", "DELETE"),
        ("DELETE", "x-id=DeleteObject", "DELETE"),
        ("POST", "uploads=", "POST"),
    ],
)
def test_requests_have_the_names_of_the_bill(method: str, query: str, kind: str) -> None:
    assert cost.kind(request(method, query=query)) == kind


def test_a_day_has_as_many_as_the_time_that_was_lived() -> None:
    """Six hours were lived: four times as many. A snapshot is not counted, it is computed."""
    seen = [request("PUT", up=100), request("PUT", up=50), request("GET", query="list-type=2")]
    seen += [request("PUT", key="edge01/sample.db/0009/x.ltx", up=10**9)]
    found = cost.per_day(seen, 6 * 3600)
    assert found["requests"] == {"PUT": 8, "LIST": 4, "GET": 0, "DELETE": 0}
    assert (found["bytes_up"], found["bytes_down"], found["refused"]) == (600, 120, 0)


@pytest.mark.parametrize("profile", ls.PROFILES)
def test_a_hurried_profile_is_the_same_in_less_time(profile: str) -> None:
    """Every interval is divided by one number, the application's own too; Litestream takes it."""
    faster = cost.FASTER[profile]
    variables = cost.hurried(profile)
    whole = ls.render({"dbs": [{}]}, "0.5.17", profile=profile)
    entry = variables["edge_databases"]["sample"]
    look = whole["dbs"][0].get("monitor-interval", "1s")

    def lived(duration: str) -> float:
        return (ls.seconds(duration) or 0) * faster

    assert lived(entry["monitor-interval"]) == pytest.approx(ls.seconds(look), rel=0.01)
    pairs = zip(variables["litestream_config"]["levels"], whole["levels"], strict=True)
    assert all(lived(a["interval"]) == ls.seconds(b["interval"]) for a, b in pairs)
    assert variables["sample_app_interval"] * faster == cost.ROW_EVERY_S
    config, _, _ = ls.merge(
        variables["litestream_config"],
        {"edge_databases": variables["edge_databases"]},
        {},
        "other",
        "0.5.17",
        {"prefix": "edge01/", "bucket": "b", "region": "eu-central-1"},
    )
    config["dbs"][0]["replica"] |= {"bucket": "b", "endpoint": "https://s3.lab.test:9000"}
    assert ls.check(config, "0.5.17", profile=profile) == []
