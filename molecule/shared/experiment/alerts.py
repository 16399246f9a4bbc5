"""Make promtool's tests of the alerts from metrics that were recorded while faults really happened.

A fault was recorded three times: before, when status told of it, and some seconds later. A timestamp that
moved between the last two goes on moving, as it does while the fault lasts; what stood still stays so.
"""

from __future__ import annotations

from typing import Any

HEALTHY_MIN = 10  # minutes before the fault begins
SLACK_MIN = 2  # minutes of samples after the alert's own limit


def compact(recorded: list[tuple[float, dict[str, float]]]) -> dict[str, Any]:
    """Put the three records of a fault side by side; None where one has no such series."""
    names = sorted({name for _, samples in recorded for name in samples})
    return {
        "at": [at for at, _ in recorded],
        "samples": {name: [samples.get(name) for _, samples in recorded] for name in names},
    }


def series(name: str) -> str:
    """Name of a series as Prometheus has it: with the device it is of."""
    bare, brace, labels = name.partition("{")
    return f'{bare}{{instance="edge"' + (f",{labels}" if brace else "}")


def values(name: str, at: list[float], samples: list[float | None], minutes: int) -> str:
    """One sample a minute, _ for none; the fault begins at minute HEALTHY_MIN of promtool's clock."""
    before, during, after = samples
    zero = at[1] - 60 * HEALTHY_MIN  # what promtool calls 1970
    stamp = "_timestamp_seconds" in name
    moves = stamp and None not in (during, after) and after - during > (at[2] - at[1]) / 2  # type: ignore[operator]
    found = []
    for minute in range(minutes):
        healthy = minute < HEALTHY_MIN
        value = before if healthy else after
        if value is None:
            found.append("_")
            continue
        # A healthy device's timestamps move, but for the certificate's.
        if moves or (healthy and stamp and "certificate" not in name):
            value += zero + 60 * minute - at[0 if healthy else 2]
        found.append(f"{value - zero if stamp and value else value:.3f}")
    return " ".join(found)


def tests(recorded: dict[str, Any], alerts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Make a test per fault: silence before it, then its alert within the time that the table gives."""
    firing = 'count(ALERTS{alertstate="firing"})'
    return [
        {
            "name": fault,
            "interval": "1m",
            "input_series": [
                {
                    "series": series(name),
                    "values": values(
                        name, record["at"], samples, HEALTHY_MIN + alerts[fault]["within_min"] + SLACK_MIN
                    ),
                }
                for name, samples in record["samples"].items()
            ],
            "promql_expr_test": [
                {"expr": firing, "eval_time": f"{HEALTHY_MIN - 1}m", "exp_samples": []},
                {
                    "expr": firing.replace("{", f'{{alertname="{alerts[fault]["name"]}",'),
                    "eval_time": f"{HEALTHY_MIN + alerts[fault]['within_min']}m",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                },
            ],
        }
        for fault, record in recorded.items()
    ]
