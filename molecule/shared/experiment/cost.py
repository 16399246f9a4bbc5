"""What a device costs with each profile: requests, bytes, flash; per day, measured in minutes.

`make bench-cost MINUTES=n` boots a cloud and one device of process mode, and gives it one profile after the
other. A day does not fit into minutes, so all intervals of a profile are divided by one number, and the
application writes as many times faster: what happens per interval is the same. Requests and their bytes are
of the S3 gate's log, bytes on the wire of the device's cable, bytes to flash of what Linux counts for a
process. Nothing is asserted. docs/cost.md computes the rest: snapshots, rotations, prices.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiment import observe
from experiment.observe import Request
from experiment.stage import ROOT, Stage, add_options, hosts_file, machines, record
from lab.network import veth
from lab.shell import run
from plugins.module_utils.litestream_config import PROFILES, render, seconds

RECORD = ROOT / "docs/cost.yml"
DEVICE = "edge01"
ROW_EVERY_S = 5.0
LIFETIME_S = 43200
DAY_S = 86400
# How many times faster each profile lives here: what is looked at every second cannot be hurried much.
FASTER = {"default": 20, "metered": 480, "hourly": 480}


def hurried(profile: str) -> dict[str, Any]:
    """Return the variables of a device that lives a profile so many times faster."""
    faster = FASTER[profile]

    def shorter(duration: str) -> str:
        return f"{(seconds(duration) or 0) / faster * 1000:.0f}ms"

    whole = render({"dbs": [{}]}, "0.5.17", profile=profile)
    look = whole["dbs"][0].get("monitor-interval", "1s")
    return {
        "litestream_profile": profile,
        "sample_app_interval": ROW_EVERY_S / faster,
        "edge_rotator_expected_lifetime": LIFETIME_S,
        "litestream_config": {
            "levels": [{"interval": shorter(level["interval"])} for level in whole["levels"]],
            "l0-retention": shorter(whole["l0-retention"]),
            "l0-retention-check-interval": shorter(whole["l0-retention-check-interval"]),
            # None falls into the run: what one costs depends on the database, and is computed.
            "snapshot": {"interval": "24h", "retention": "72h"},
        },
        "edge_databases": {
            "sample": {
                "path": observe.DATABASE,
                "group": "edge-data",
                "monitor-interval": shorter(look),
                "checkpoint-interval": shorter("1m"),
                "replica": {
                    "bucket": "{{ lab_bucket }}",
                    "endpoint": "{{ lab_s3_endpoint }}",
                    "force-path-style": True,
                },
            }
        },
    }


def kind(request: Request) -> str:
    """Name a request as S3's bill does."""
    if request.method == "GET" and "list-type" in request.query:
        return "LIST"
    if request.method == "POST" and request.query.split("&")[0].rstrip("=") == "delete":
        return "DELETE"
    return request.method


def per_day(requests: list[Request], lived_s: float) -> dict[str, Any]:
    """Count requests by kind, and their bytes, as many as there would be in a day."""
    times = DAY_S / lived_s
    steady = [request for request in requests if "/0009/" not in request.key]
    counts = Counter(map(kind, steady))
    return {
        "requests": {name: round(counts[name] * times) for name in ("PUT", "LIST", "GET", "DELETE")},
        "bytes_up": round(sum(request.bytes_in for request in steady) * times),
        "bytes_down": round(sum(request.bytes_out for request in steady) * times),
        "refused": len(observe.refused(requests)),
    }


def wire() -> tuple[int, int]:
    """Bytes that the device has sent and received so far, of all layers from Ethernet's up."""
    (link,) = json.loads(run("ip", "-json", "-stats", "link", "show", "dev", veth(DEVICE)))
    counted = link.get("stats64") or link["stats"]
    return int(counted["rx"]["bytes"]), int(counted["tx"]["bytes"])


def written(unit: str) -> int:
    """Bytes that a unit's main process has caused to be written to a disk."""
    command = f"sudo cat /proc/$(systemctl show --property=MainPID --value {unit})/io"
    lines = dict(line.split(": ") for line in observe.run(DEVICE, command).splitlines())
    return int(lines["write_bytes"])


class Bench(Stage):
    """One run."""

    def __init__(self, minutes: float, target: Path, hosts: Path) -> None:
        super().__init__("bench-cost", target, hosts)
        self.minutes = minutes

    def run(self) -> dict[str, Any]:
        """Do it all; return what there is to keep."""
        found: dict[str, Any] = {}
        for profile in PROFILES:
            if found:
                self.converge(hurried(profile))
            else:
                self.set_up({"edge-litestream": LIFETIME_S}, hurried(profile))
            found[profile] = self.measure(profile)
        self.say("measuring a rotation")
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "minutes": self.minutes,
            "row_every_s": ROW_EVERY_S,
            "litestream": observe.run(DEVICE, "litestream version").strip(),
            "profiles": found,
            "rotation_wire_bytes": self.rotation(),
        }

    def measure(self, profile: str) -> dict[str, Any]:
        """Look at a profile for the given time."""
        time.sleep(20)  # until its first snapshot and what was left of the one before are gone
        self.say(f"profile {profile}, {FASTER[profile]} times faster, for {self.minutes:g} minutes")
        since, begin = observe.now(observe.CLOUD), time.monotonic()
        flash = {unit: written(f"{unit}.service") for unit in ("litestream", "sample-app")}
        sent, received = wire()
        time.sleep(self.minutes * 60)
        sent, received = wire()[0] - sent, wire()[1] - received
        until = observe.now(observe.CLOUD)
        lived = (time.monotonic() - begin) * FASTER[profile]
        times = DAY_S / lived
        requests = [request for request in observe.s3_requests(DEVICE, since) if request.at <= until]
        return {
            "faster": FASTER[profile],
            "hours": round(lived / 3600, 1),
            **per_day(requests, lived),
            "wire_up": round(sent * times),
            "wire_down": round(received * times),
            "flash": {
                unit: round((written(f"{unit}.service") - before) * times) for unit, before in flash.items()
            },
            "wal_bytes": int(observe.run(DEVICE, f"sudo stat -c %s {observe.DATABASE}-wal")),
        }

    def rotation(self) -> int:
        """Bytes on the wire, both ways, of one rotation; nothing else talks meanwhile, ssh least of all."""
        observe.run(DEVICE, "sudo systemctl stop sample-app.service litestream.path litestream.service")
        observe.run(
            DEVICE, "sudo systemd-run --quiet --on-active=10s systemctl start edge-rotator-force.service"
        )
        time.sleep(5)
        before = sum(wire())
        time.sleep(20)
        return sum(wire()) - before


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long to measure each profile")
    add_options(parser, RECORD)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hosts = hosts_file(
            Path(folder), {DEVICE: {"edge_rotator_delivery": "process", "lab_suite": "bookworm"}}
        )
        bench = Bench(arguments.minutes, ROOT / "build/bench-cost", hosts)
        with machines(bench, arguments.keep):
            result = bench.run()
    print(json.dumps(result, indent=2))
    if arguments.record:
        record(RECORD, "make bench-cost RECORD=1", result)


if __name__ == "__main__":
    main()
