"""playbooks/recovery_points.yml, as an operator runs it, against moto's server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml

from tests.unit.aws_server import aws

ROOT = Path(__file__).resolve().parents[3]
BUCKET, OTHER = "example-edge-backups", "example-metered-backups"


def play(directory: Path, url: str, *options: str) -> tuple[int, str]:
    """Run the playbook with an inventory of five devices: how it ended, and what was said."""
    hosts: dict[str, Any] = {
        "edge-0001": {},
        "edge-0002": {"edge_rotator_thing_name": "pump", "fleet_bucket": OTHER, "recovery_points_max_age": 0},
        "edge-0003": {},
        "edge-0004": {"edge_databases_broken": {"Bad": {"path": "/var/lib/bad/bad.db"}}},
        "edge-0005": {"litestream_state": "absent"},
    }
    known: dict[str, Any] = {"fleet_bucket": BUCKET, "edge_rotator_region": "eu-central-1"}
    known |= {"recovery_points_file": str(directory / "points.json")}
    known |= {"recovery_points_metrics_file": str(directory / "points.prom")}
    known["edge_databases"] = {
        "app": {"path": "/var/lib/app/app.db"},
        "log": {"path": "/var/lib/log/log.db"},
        "each": {"dir": "/var/lib/each", "pattern": "*.db"},
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"edge_devices": {"hosts": hosts, "vars": known}}))
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), "--inventory=hosts.yml", *options),
            str(ROOT / "playbooks/recovery_points.yml"),
        ],
        cwd=directory,
        env={
            **os.environ,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "operator",
            "AWS_SECRET_ACCESS_KEY": "operator",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_INJECT_FACT_VARS": "False",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_every_device_of_the_inventory_is_looked_at(tmp_path: Path) -> None:
    with aws() as url:
        keys = {"aws_access_key_id": "operator", "aws_secret_access_key": "operator"}
        s3 = boto3.client("s3", endpoint_url=url, region_name="eu-central-1", **keys)
        for bucket, thing in ((BUCKET, "edge-0001"), (OTHER, "pump")):
            where = {"LocationConstraint": "eu-central-1"}
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=where)
            key = f"{thing}/app.db/0000/{1:016x}-{1:016x}.ltx"
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
        code, said = play(tmp_path, url)
        assert code == 0, said
        assert "ok=3 changed=0" in said
        assert "edge-0003 app.db - - nothing can be restored" in said
        assert "edge-0004 - - - its databases are not known: edge_databases_broken.Bad is no name" in said
        assert "4 things, 4 with a recovery point that is late or missing" in said
        assert "; 7 configured databases are missing; 1 were given up" in said
        points = json.loads((tmp_path / "points.json").read_text())["points"]
        assert {
            (point["thing"], point["database"]): (point["bucket"], point["late"], point["missing"])
            for point in points
            if point["database"] in (None, "app.db")
        } == {
            ("edge-0001", "app.db"): (BUCKET, False, False),
            ("pump", "app.db"): (OTHER, True, False),
            ("edge-0003", "app.db"): (BUCKET, True, True),
            ("edge-0004", None): (BUCKET, True, False),
        }
        metrics = (tmp_path / "points.prom").read_text()
        assert 'edge_recovery_point_missing{thing="edge-0001",database="log.db"} 1' in metrics
        assert 'edge_recovery_point_missing{thing="edge-0001",database="each/*.db"} 1' in metrics
        assert 'edge_recovery_point_missing{thing="edge-0001",database="app.db"} 0' in metrics
        assert 'edge_recovery_point_unknown{thing="edge-0004"} 1' in metrics
        code, said = play(tmp_path, url, "--limit=edge-0001")
        assert code != 0
        assert "leave it out; every device of the inventory is looked at" in said
        code, said = play(tmp_path, url, "--extra-vars=fleet_bucket=")
        assert code != 0
        assert "fleet_bucket is not set for edge-0001" in said
