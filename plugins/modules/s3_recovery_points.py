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
  - Knows the layout of Litestream 0.5 (V(DATABASE/0000/MIN-MAX.ltx)) and of 0.3 (V(DATABASE/generations/));
    other objects are passed over.
  - A database that nobody writes to has an old recovery point, too. Choose C(max_age) of a thing by how often
    its application writes.
  - The time is when S3 took the object, so no device's clock matters. Where Litestream has pruned the object
    of the newest transaction, it is that of the object into which it was compacted, minutes later.
  - Asks for what is new and does not list everything. With Litestream's defaults that are three requests for
    a thing with one database, and four more where more than 1,000 objects of the lowest level are kept
    (C(l0-retention)). For Litestream 0.3 it is one for each 1,000 objects of the present generations.
  - A prefix for which 250 requests do not do is given up, and told as such.
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
  metrics_file:
    description:
      - File for node_exporter's textfile collector, readable by all, like
        V(/var/lib/prometheus/node-exporter/edge.prom). Empty for none.
    type: str
    default: ""
  data_file:
    description: JSON file of what is returned, which its owner alone may read. Empty for none.
    type: str
    default: ""
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
"""

RETURN = r"""
points:
  description:
    - One for each database, and one for each thing without any or that was given up; the oldest first.
    - The keys are C(thing), C(bucket), C(database), C(time) (ISO 8601), C(age_s), C(max_age_s), C(late),
      C(txid), C(problem).
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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import aws
from ansible_collections.edge_litestream.appliance.plugins.module_utils.s3_replicas import (
    MAX_REQUESTS,
    Newest,
    Prefix,
    TooMuchError,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace

THREADS = 16
LABEL_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
METRICS = {
    "edge_recovery_point_updated_timestamp_seconds": "When the bucket was looked at.",
    "edge_recovery_point_databases": "Databases of a thing of which something can be restored.",
    "edge_recovery_point_max_age_seconds": "So old the recovery points of a thing may be.",
    "edge_recovery_point_timestamp_seconds": "When the newest transaction of a database came to S3.",
}


def look(client: Any, thing: dict[str, Any], now: datetime.datetime) -> tuple[list[dict[str, Any]], int]:
    """Return what can be restored of one thing, and how many requests that took."""
    below, top = Prefix(client, thing["bucket"]), thing["name"] + "/"
    found: dict[str, Newest | None] = {}
    problem = ""
    try:
        for prefix, folders in below.databases(top):
            found[prefix.removeprefix(top).rstrip("/")] = below.newest(prefix, folders)
    except TooMuchError:
        problem = f"given up after {MAX_REQUESTS} requests: there is more below {top} than Litestream keeps"
    points = [
        {
            "thing": thing["name"],
            "bucket": thing["bucket"],
            "database": "".join(sign if sign.isprintable() else "?" for sign in name),
            "time": newest.time.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "age_s": max(0, int((now - newest.time).total_seconds())),
            "max_age_s": thing["max_age"],
            "late": (now - newest.time).total_seconds() > thing["max_age"],
            "txid": newest.txid or None,
            "problem": "",
        }
        for name, newest in found.items()
        if newest
    ]
    if problem or not points:
        missing = dict.fromkeys(("database", "time", "age_s", "txid"))
        told = {**missing, "problem": problem or "nothing can be restored", "late": True}
        points.append(
            {"thing": thing["name"], "bucket": thing["bucket"], "max_age_s": thing["max_age"], **told}
        )
    return points, below.requests


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
    head = line.format("thing", "database", "recovery point", "age", "problem")
    return [head, *rows, f"{len(things)} things, {len(late)} with a recovery point that is late or missing"]


def metrics(points: list[dict[str, Any]], now: datetime.datetime) -> str:
    """Write the points as Prometheus reads them."""
    restorable = [point for point in points if point["time"]]
    each = {point["thing"]: point["max_age_s"] for point in points}
    counted = dict.fromkeys(each, 0)
    for point in restorable:
        counted[point["thing"]] += 1

    def labels(**named: str) -> str:
        return ",".join(f'{key}="{value.translate(LABEL_ESCAPES)}"' for key, value in named.items())

    samples: list[list[tuple[str, float]]] = [
        [("", now.timestamp())],
        [(labels(thing=thing), count) for thing, count in counted.items()],
        [(labels(thing=thing), age) for thing, age in each.items()],
        [
            (
                labels(thing=point["thing"], database=point["database"]),
                datetime.datetime.fromisoformat(point["time"]).timestamp(),
            )
            for point in restorable
        ],
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
    points = [point for found, _requests in looked for point in found]
    points.sort(key=lambda point: (point["age_s"] is not None, -(point["age_s"] or 0), point["thing"]))
    done = {
        "points": points,
        "lines": table(points),
        "requests": sum(requests for _found, requests in looked),
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
    }
    module = AnsibleModule(
        {
            "things": {"type": "list", "elements": "dict", "required": True, "options": thing},
            "metrics_file": {"type": "str", "default": ""},
            "data_file": {"type": "str", "default": ""},
            **aws.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    aws.serve(module, look_at_all)


if __name__ == "__main__":
    main()
