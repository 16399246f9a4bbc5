"""Make promtool's tests of the alerts from metrics that were recorded while faults really happened.

A fault was recorded three times: before, when status told of it, and some seconds later. A timestamp that
moved between the last two goes on moving, as it does while the fault lasts; what stood still stays so.
"""

from __future__ import annotations

from typing import Any

HEALTHY_MIN = 10  # minutes before the fault begins
SLACK_MIN = 2  # minutes of samples after the alert's own limit

Samples = dict[str, float]


def series(name: str) -> str:
    """Name of a series as Prometheus has it: with the device it is of."""
    bare, brace, labels = name.partition("{")
    return f'{bare}{{instance="edge"' + (f",{labels}" if brace else "}")


def moves(name: str, earlier: Samples, later: Samples, seconds: float) -> bool:
    """Whether a timestamp keeps pace with the clock."""
    advance = later[name] - earlier.get(name, later[name])
    return "_timestamp_seconds" in name and advance > seconds / 2


def values(name: str, recorded: dict[str, Any], minutes: int) -> list[str]:
    """One sample a minute, _ for none; the fault begins at minute HEALTHY_MIN of promtool's clock."""
    before, during, after = (recorded[when] for when in ("before", "during", "after"))
    zero = during["at"] - 60 * HEALTHY_MIN  # what promtool calls 1970
    stamp = "_timestamp_seconds" in name

    def shift(value: float) -> float:
        return value - zero if stamp and value else value

    found = []
    for minute in range(minutes):
        now = zero + 60 * minute
        if minute < HEALTHY_MIN:
            value = before["samples"].get(name)
            # A healthy device's timestamps move, but for the certificate's.
            if value is not None and stamp and "certificate" not in name:
                value += now - before["at"]
        else:
            value = after["samples"].get(name)
            seconds = after["at"] - during["at"]
            if value is not None and moves(name, during["samples"], after["samples"], seconds):
                value += now - after["at"]
        found.append("_" if value is None else f"{shift(value):.3f}")
    return found


def tests(recorded: dict[str, Any], alerts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Make a test per fault: silence before it, then its alert within the time that the table gives."""
    found = []
    for fault, record in recorded.items():
        name, within = alerts[fault]["name"], alerts[fault]["within_min"]
        minutes = HEALTHY_MIN + within + SLACK_MIN
        names = sorted({*record["before"]["samples"], *record["after"]["samples"]})
        firing = 'count(ALERTS{alertstate="firing"})'
        found.append(
            {
                "name": fault,
                "interval": "1m",
                "input_series": [
                    {
                        "series": series(each),
                        "values": " ".join(
                            "_" if value is None else f"{value:.3f}"
                            for value in values(each, record, minutes)
                        ),
                    }
                    for each in names
                ],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": f"{HEALTHY_MIN - 1}m", "exp_samples": []},
                    {
                        "expr": firing.replace("{", f'{{alertname="{name}",'),
                        "eval_time": f"{HEALTHY_MIN + within}m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                ],
            }
        )
    return found
