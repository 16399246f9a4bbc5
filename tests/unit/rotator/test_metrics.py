"""Metrics: the names Prometheus would choose, and the truth at every stage."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Device, Time
from test_doctor import control_socket, listing
from tokens import need

from edge_rotator import __version__, metrics, systemd
from edge_rotator.metrics import render

RULES = ROOT / "files"
CACHE = Path(os.environ.get("EDGE_CACHE_DIR", "/var/cache/edge-litestream"))


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool") or CACHE / "bin/promtool"
    need("prometheus", Path(program))
    return subprocess.run(
        [program, *arguments], input=text, text=True, capture_output=True, check=False, cwd=RULES
    )


@pytest.fixture
def file(local: Device, world: Time) -> Path:
    path = local.root / "run/edge_rotator.prom"
    local.configure(service={"metrics_file": str(path)}, delivery={"litestream_socket": ""})
    return path


def samples(device: Device, path: Path) -> dict[str, float]:
    """Have the file written; return value by name and labels, without our prefix."""
    assert device.tick("metrics") == 0
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {
        name.removeprefix("edge_rotator_"): float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines)
    }


def test_names_pass_promtool(local: Device, file: Path, tmp_path: Path) -> None:
    with control_socket(tmp_path / "s", listing(3.0, None)) as path:
        local.configure(delivery={"litestream_socket": str(path)})
        assert local.tick() == 0
        samples(local, file)
    checked = promtool("check", "metrics", text=file.read_text())
    assert (checked.returncode, checked.stderr) == (0, "")
    assert file.stat().st_mode & 0o7777 == 0o644
    assert list(file.parent.glob(".*.tmp")) == []


def test_after_a_rotation(
    local: Device, file: Path, world: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "restarts", lambda service: 2)
    with control_socket(tmp_path / "s", listing(3.0, None, behind={"db1": 5.0})) as path:
        local.configure(delivery={"litestream_socket": str(path)})
        assert local.tick() == 0
        found = samples(local, file)
    assert found[f'build_info{{version="{__version__}",backend="file",mode="process"}}'] == 1
    assert found["updated_timestamp_seconds"] == pytest.approx(world.wall, abs=0.01)
    assert found["credentials_expiry_timestamp_seconds"] == pytest.approx(world.wall + 840, abs=2)
    assert found["last_success_timestamp_seconds"] == pytest.approx(world.wall, abs=0.01)
    assert found['attempts_total{class="rotated"}'] == 1
    assert (found["litestream_up"], found["litestream_restarts_total"]) == (1, 2)
    assert found["replication_limit_seconds"] == 17, "of a sync-interval of 1 s"
    sync = found['replication_last_sync_timestamp_seconds{db="/db0"}']
    assert sync == pytest.approx(world.wall - 3, abs=3)
    assert found['replication_last_sync_timestamp_seconds{db="/db1"}'] == 0, "never synced"
    assert [found[f'replicated{{db="/db{n}"}}'] for n in (0, 1)] == [1, 0]
    assert found['replica_ahead_timestamp_seconds{file="db1"}'] == 5
    assert {found[name] for name in ("failing", "pin_latched", "restart_pending")} == {0}
    assert found["certificate_expiry_timestamp_seconds"] > world.wall
    assert found["certificate_validity_seconds"] == pytest.approx(30 * 86400)
    assert found["clock_skew_seconds"] == pytest.approx(0, abs=2)


def test_after_failures(local: Device, file: Path, world: Time) -> None:
    local.server.respond = lambda handler: handler.reply(500, b"")
    assert local.tick() == 15
    world.advance(3600)
    assert local.tick() == 15
    found = samples(local, file)
    assert found['attempts_total{class="server_error"}'] == 2
    assert found['attempts_total{class="rotated"}'] == 0
    assert found["failing"] == 1
    assert found["credentials_expiry_timestamp_seconds"] == 0
    assert found["last_success_timestamp_seconds"] == 0
    assert "litestream_up" not in found


def test_expiry_is_never_in_the_future_without_credentials(local: Device, file: Path, world: Time) -> None:
    assert local.tick() == 0
    local.server.stop()
    world.reboot(local)
    assert local.tick() == 11
    assert samples(local, file)["credentials_expiry_timestamp_seconds"] <= world.wall + 0.01


def test_restart_pending(local: Device, file: Path) -> None:
    local.configure(delivery={"mode": "environment"})
    local.fake("restart", code=1)
    assert local.tick() == 71
    assert samples(local, file)["restart_pending"] == 1
    local.fake("restart")
    assert local.tick() == 0
    assert samples(local, file)["restart_pending"] == 0


def test_only_its_own_command_writes_it(
    local: Device, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert local.tick() == 0
    assert local.tick("due") == 1
    local.tick("status")
    assert not file.exists()
    local.configure(service={"metrics_file": "/nowhere/edge_rotator.prom"})
    assert local.tick("metrics") == 70
    assert "error=write_failed" in capsys.readouterr().err
    local.configure(service={"metrics_file": ""})
    assert local.tick("metrics") == 3
    assert "service.metrics_file names no file" in capsys.readouterr().err


def test_unreadable_certificate_leaves_the_rest(local: Device, file: Path) -> None:
    assert local.tick() == 0
    local.certificate.write_text("nonsense")
    assert not any("certificate" in name for name in samples(local, file))
    assert "failing" in samples(local, file)


def test_labels_are_escaped() -> None:
    assert render([]) == ""
    made = render([("replicated", {"db": 'a"b\\c\nd'}, 1)])
    assert made.splitlines()[2] == 'edge_rotator_replicated{db="a\\"b\\\\c\\nd"} 1.000'


def test_alerts() -> None:
    for command in ("check rules prometheus-alerts.yml", "test rules prometheus-alerts-test.yml"):
        done = promtool(*command.split())
        assert done.returncode == 0, done.stdout + done.stderr


def emitted() -> set[str]:
    """Every metric that this project makes, by the tables from which they are written."""
    module = (ROOT / "plugins/modules/s3_recovery_points.py").read_text()
    table = ast.literal_eval(re.search(r"^METRICS = (\{.*?^\})", module, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    return {f"edge_rotator_{name}" for name in metrics.table()} | set(table)


def test_every_metric_of_the_table_is_written(
    monkeypatch: pytest.MonkeyPatch, local: Device, file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(systemd, "restarts", lambda service: 0)
    monkeypatch.setattr(systemd, "ticks", lambda: systemd.Ticks(True, True, 1.0, "", ""))
    with control_socket(tmp_path / "s", listing(3.0, behind={"db0": 5.0})) as path:
        local.configure(delivery={"litestream_socket": str(path)})
        assert local.tick() == 0
        samples(local, file)
    written = set(re.findall(r"^# HELP edge_rotator_(\w+)", file.read_text(), re.MULTILINE))
    assert written == set(metrics.table())


def test_alerts_name_only_metrics_there_are() -> None:
    used = set(re.findall(r"\bedge_\w+", (RULES / "prometheus-alerts.yml").read_text()))
    assert used - {"edge_litestream"} <= emitted()
    alerts = set(re.findall(r"alert: (\w+)", (RULES / "prometheus-alerts.yml").read_text()))
    tested = (RULES / "prometheus-alerts-test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n\s+- ", tested))
    assert fired == alerts, "each alert is seen to fire"


def test_the_page_on_monitoring_has_every_metric_and_every_alert() -> None:
    text = (ROOT / "docs/monitoring.md").read_text()
    listed = re.findall(r"^\| `(edge_\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(emitted())
    alerts = re.findall(r"alert: (\w+)", (RULES / "prometheus-alerts.yml").read_text())
    assert re.findall(r"^\| `((?:Edge|Litestream)\w+)` \| (?:warning|critical)", text, re.MULTILINE) == alerts


def test_the_dashboard_asks_for_metrics_there_are_in_words_that_prometheus_knows(tmp_path: Path) -> None:
    dashboard = json.loads((RULES / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) > 10
    asked.append(dashboard["templating"]["list"][1]["query"]["query"].partition("(")[2].partition(",")[0])
    # One names three by a pattern.
    words = re.sub(r"edge_rotator_\(([\w|]+)\)", lambda found: found[1].replace("|", " "), " ".join(asked))
    known = {name.removeprefix("edge_rotator_") for name in emitted()} | emitted()
    named = set(re.findall(r"\b(?:edge_\w+|litestream_\w+|\w+_(?:latched|stuck|pending))\b", words))
    assert named <= known, named - known
    asked = [text.replace("$instance", ".*") for text in asked]
    rules = [{"record": f"x{number}", "expr": text} for number, text in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    done = promtool("check", "rules", "--lint=none", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_counts_as_silent_whom_the_alert_tells() -> None:
    """By what the device says of itself: one that replicates once an hour may be heard of as seldom."""
    dashboard = json.loads((RULES / "grafana-dashboard.json").read_text())
    (asked,) = (
        target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
        if "count(time() - max_over_time(edge_rotator_updated" in target["expr"]
    )
    rules = yaml.safe_load((RULES / "prometheus-alerts.yml").read_text())["groups"]
    (alert,) = (
        rule["expr"] for group in rules for rule in group["rules"] if rule["alert"] == "EdgeDeviceSilent"
    )
    asked = asked.replace('{instance=~"$instance"}', "").removeprefix("count(").removesuffix(") or vector(0)")
    assert "".join(asked.split()) == "".join(alert.split())


def test_a_database_that_litestream_does_not_know_is_one_that_never_synced(
    local: Device, file: Path, tmp_path: Path
) -> None:
    """Without a sample there is nothing an alert could miss."""
    with control_socket(tmp_path / "s", listing()) as path:
        local.configure(delivery={"litestream_socket": str(path), "databases": ["/app.db"]})
        assert local.tick() == 0
        assert samples(local, file)['replication_last_sync_timestamp_seconds{db="/app.db"}'] == 0


def test_a_pattern_without_a_database_is_one_that_never_synced(
    local: Device, file: Path, tmp_path: Path
) -> None:
    with control_socket(tmp_path / "s", listing(3.0)) as path:
        local.configure(delivery={"litestream_socket": str(path), "patterns": ["/db*", "/srv/*.db"]})
        assert local.tick() == 0
        told = samples(local, file)
    assert told['replication_last_sync_timestamp_seconds{db="/srv/*.db"}'] == 0
    assert 'replication_last_sync_timestamp_seconds{db="/db*"}' not in told
