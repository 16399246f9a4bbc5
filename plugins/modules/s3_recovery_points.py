#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Tell of every thing, from the bucket alone, how new what can be restored is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: s3_recovery_points
short_description: Tell how new what can be restored is, from the bucket alone
version_added: 2.0.0
description:
  - Finds the databases below each thing's prefix, and of each the newest transaction and when it came to S3.
    No device is asked. It changes nothing.
  - Told the configuration of a thing's Litestream, it looks for each database of it, and tells of those that
    are missing. A C(dir) of which the bucket has no database is missing, too.
  - Knows the layout of Litestream 0.5 (V(DATABASE/0000/MIN-MAX.ltx)) and of 0.3 (V(DATABASE/generations/));
    other objects are passed over.
  - A database that nobody writes to has an old recovery point, too. Choose C(max_age) of a thing by how often
    its application writes.
  - The time is when S3 took the object, so no device's clock matters. Where Litestream has pruned the object
    of the newest transaction, it is that of the object into which it was compacted, minutes later.
  - Asks for what is new and does not list everything. With Litestream's defaults that are three requests for
    a thing with one database, two for each further one, and four more for one of which more than 1,000
    objects of the lowest level are kept (C(l0-retention)). For Litestream 0.3 it is one for each 1,000
    objects of the present generations, and two for each generation.
  - A database of the configuration for which 250 requests do not do is given up, and told as such. So is what
    else lies below a prefix after 250, and 25 more for each database found there, up to 1,000 of them.
  - Needs the right C(s3:ListBucket).
extends_documentation_fragment:
  - edge_litestream.appliance.aws
  - edge_litestream.appliance.aws.check_mode
options:
  things:
    description: The things to look at.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the thing; its prefix is this and a slash.
        type: str
        required: true
      bucket:
        description: Name of the bucket.
        type: str
        required: true
      max_age:
        description: Seconds after which its recovery point is late.
        type: float
        required: true
      config:
        description:
          - Litestream's configuration, as M(edge_litestream.appliance.litestream_config) returns it. Without
            it only what is in the bucket is known.
          - Of a replica, bucket and path count, and no endpoint.
        type: dict
      problem:
        description: Why there is no C(config), where there should be one. Empty for none.
        type: str
        default: ""
  metrics_file:
    description:
      - File for node_exporter's textfile collector, readable by all, like
        V(/var/lib/prometheus/node-exporter/edge.prom). Empty for none.
    type: path
  data_file:
    description: JSON file of what is returned, which its owner alone may read. Empty for none.
    type: path
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: How new is what can be restored
  edge_litestream.appliance.s3_recovery_points:
    things:
      - name: edge-0001
        bucket: example-edge-backups
        max_age: 86400
        config: "{{ plan.config }}"
"""

RETURN = r"""
points:
  description:
    - One for each database, and one for each thing without any or that was given up; the oldest first.
    - The keys are C(thing), C(bucket), C(database), C(time) (ISO 8601), C(age_s), C(max_age_s), C(late),
      C(txid), C(problem), C(missing) (it is configured, and nothing of it can be restored) and C(unknown)
      (what can be restored is not known).
  type: list
  elements: dict
  returned: always
lines:
  description: The same as a table, the last line counts.
  type: list
  elements: str
  returned: always
requests:
  description: Requests that were made.
  type: int
  returned: always
"""

import datetime
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import (
    aws,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils import (
    litestream_config as ls,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.s3_replicas import (
    Newest,
    Prefix,
    TooMuchError,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace

Samples = list[tuple[str, float]]
THREADS = 16
LABEL_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
METRICS = {
    "edge_recovery_point_updated_timestamp_seconds": "When the bucket was looked at.",
    "edge_recovery_point_databases": "Databases of a thing of which something can be restored.",
    "edge_recovery_point_max_age_seconds": "So old the recovery points of a thing may be.",
    "edge_recovery_point_unknown": "Databases and prefixes of a thing that were given up, or are not known.",
    "edge_recovery_point_missing": "1 for a configured database of which nothing can be restored.",
    "edge_recovery_point_timestamp_seconds": "When the newest transaction of a database came to S3.",
}


class Look:
    """What can be restored of one thing."""

    def __init__(self, client: Any, thing: dict[str, Any], now: datetime.datetime) -> None:
        self.client, self.thing, self.now, self.requests = client, thing, now, 0
        self.top = f"{thing['name']}/"
        self.points: list[dict[str, Any]] = []

    def name(self, bucket: str, prefix: str) -> str:
        """Name of a database or of a pattern: what is below the thing's prefix is named by the rest alone."""
        name = prefix.removeprefix(self.top) if self.within(bucket, prefix) else f"s3://{bucket}/{prefix}"
        return "".join(sign if sign.isprintable() else "?" for sign in name.rstrip("/"))

    def note(self, name: str | None, newest: Newest | None, problem: str = "", **more: bool) -> None:
        """Add a point."""
        age = (self.now - newest.time).total_seconds() if newest else None
        self.points.append(
            {
                "thing": self.thing["name"],
                "bucket": self.thing["bucket"],
                "database": name,
                "time": newest.time.isoformat(timespec="seconds").replace("+00:00", "Z") if newest else None,
                "age_s": None if age is None else max(0, int(age)),
                "max_age_s": self.thing["max_age"],
                "late": age is None or age > self.thing["max_age"],
                "txid": newest.txid or None if newest else None,
                "problem": problem,
                "missing": False,
                "unknown": False,
                **more,
            }
        )

    def configured(self, bucket: str, prefix: str) -> None:
        """Look for one that has to be there."""
        name, below = self.name(bucket, prefix), Prefix(self.client, bucket)
        try:
            newest = below.newest(prefix, below.folders(prefix))
        except TooMuchError as error:
            self.note(name, None, str(error), unknown=True)
        else:
            self.note(name, newest, "" if newest else "nothing can be restored", missing=not newest)
        self.requests += below.requests

    def found(self, bucket: str, top: str, known: set[str]) -> list[str]:
        """Look for whatever else is below a prefix; return where each database is."""
        below, places = Prefix(self.client, bucket), []
        try:
            for prefix, folders in below.databases(top, known=known):
                if newest := below.newest(prefix, folders):
                    self.note(self.name(bucket, prefix), newest)
                    places.append(prefix)
        except TooMuchError as error:
            self.note(None, None, str(error), unknown=True)
        self.requests += below.requests
        return places

    def run(self) -> None:
        """Look for what is configured, then for what there is besides."""
        config = self.thing["config"] or {}
        paths: set[tuple[str, str]] = set()
        patterns: list[tuple[str, str, str]] = []
        for entry in config.get("dbs", []):
            bucket, place = ls.location(ls.replicas_of(entry)[0], config)
            if "dir" in entry:
                patterns.append((bucket, f"{place}/", entry["pattern"]))
            else:
                paths.add((bucket, f"{place}/"))
        # First, and each for itself: whatever a device puts beside them, these are known.
        for bucket, prefix in sorted(paths):
            self.configured(bucket, prefix)
        tops = {(self.thing["bucket"], self.top)}
        tops |= {(bucket, prefix) for bucket, prefix, _pattern in patterns if not self.within(bucket, prefix)}
        there = [
            (bucket, place)
            for bucket, top in sorted(tops)
            for place in self.found(bucket, top, {prefix for where, prefix in paths if where == bucket})
        ]
        given_up = any(point["database"] is None for point in self.points)
        for bucket, prefix, pattern in [] if given_up else patterns:
            if not any(where == bucket and place.startswith(prefix) for where, place in there):
                name = self.name(bucket, f"{prefix}{pattern}")
                self.note(name, None, "nothing can be restored", missing=True)
        if self.thing["problem"]:
            self.note(None, None, f"its databases are not known: {self.thing['problem']}", unknown=True)
        if not self.points:
            self.note(None, None, "nothing can be restored")

    def within(self, bucket: str, prefix: str) -> bool:
        """Tell whether it is below the thing's own prefix."""
        return bucket == self.thing["bucket"] and prefix.startswith(self.top)


def look(client: Any, thing: dict[str, Any], now: datetime.datetime) -> Look:
    """Look at one thing."""
    done = Look(client, thing, now)
    done.run()
    return done


def table(points: list[dict[str, Any]]) -> list[str]:
    """Lines of the table, the first one its head, the last one counts."""
    line = "{:16} {:24} {:20} {:>10} {}"
    rows = [
        line.format(
            point["thing"],
            point["database"] or "-",
            point["time"] or "-",
            "-" if point["age_s"] is None else f"{point['age_s']} s",
            point["problem"] or ("late" if point["late"] else ""),
        ).rstrip()
        for point in points
    ]
    things = {point["thing"] for point in points}
    late = {point["thing"] for point in points if point["late"]}
    missing = sum(point["missing"] for point in points)
    unknown = sum(point["unknown"] for point in points)
    head = line.format("thing", "database", "recovery point", "age", "problem")
    said = f"{len(things)} things, {len(late)} with a recovery point that is late or missing"
    said += f"; {missing} configured databases are missing" if missing else ""
    said += f"; {unknown} were given up" if unknown else ""
    return [head, *rows, said]


def metrics(points: list[dict[str, Any]], now: datetime.datetime) -> str:
    """Write the points as Prometheus reads them."""
    named = [point for point in points if point["database"]]
    restorable = [point for point in named if point["time"]]
    each = {point["thing"]: point["max_age_s"] for point in points}
    counted, unknown = dict.fromkeys(each, 0), dict.fromkeys(each, 0)
    for point in restorable:
        counted[point["thing"]] += 1
    for point in points:
        unknown[point["thing"]] += point["unknown"]

    def labels(**named: str) -> str:
        return ",".join(f'{key}="{value.translate(LABEL_ESCAPES)}"' for key, value in named.items())

    def by_database(chosen: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> Samples:
        # By its labels: what a device calls its databases must not make a sample twice, or none is read.
        pairs = {labels(thing=each["thing"], database=each["database"]): value(each) for each in chosen}
        return list(pairs.items())

    samples: list[Samples] = [
        [("", now.timestamp())],
        [(labels(thing=thing), count) for thing, count in counted.items()],
        [(labels(thing=thing), age) for thing, age in each.items()],
        [(labels(thing=thing), count) for thing, count in unknown.items()],
        by_database([point for point in named if not point["unknown"]], lambda point: point["missing"]),
        by_database(restorable, lambda point: datetime.datetime.fromisoformat(point["time"]).timestamp()),
    ]
    lines = []
    for (name, meaning), found in zip(METRICS.items(), samples, strict=True):
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        lines += [f"{name}{'{' + inner + '}' if inner else ''} {value:.0f}" for inner, value in found]
    return "\n".join(lines) + "\n"


def look_at_all(module: AnsibleModule) -> dict[str, Any]:
    """Do what the module's documentation says."""
    params = module.params
    now = datetime.datetime.now(datetime.UTC)
    client = aws.client(module, "s3", max_pool_connections=THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        looked = list(pool.map(lambda thing: look(client, thing, now), params["things"]))
    points = [point for found in looked for point in found.points]
    points.sort(key=lambda point: (point["age_s"] is not None, -(point["age_s"] or 0), point["thing"]))
    done = {
        "points": points,
        "lines": table(points),
        "requests": sum(found.requests for found in looked),
    }
    document = json.dumps({"looked": now.isoformat(timespec="seconds"), "points": points}, indent=1) + "\n"
    for name, content, mode in (
        ("metrics_file", metrics(points, now), 0o644),
        ("data_file", document, 0o600),
    ):
        if params[name] and not module.check_mode:
            try:
                replace(params[name], content, mode)
            except OSError as error:
                raise aws.AwsError(
                    f"{name} is '{params[name]}', which cannot be written: {error.strerror}"
                ) from None
    return {"changed": False, **done}


def main() -> None:
    """Answer Ansible."""
    thing = {
        "name": {"type": "str", "required": True},
        "bucket": {"type": "str", "required": True},
        "max_age": {"type": "float", "required": True},
        "config": {"type": "dict"},
        "problem": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        {
            "things": {"type": "list", "elements": "dict", "required": True, "options": thing},
            "metrics_file": {"type": "path"},
            "data_file": {"type": "path"},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    aws.serve(module, look_at_all)


if __name__ == "__main__":
    main()
