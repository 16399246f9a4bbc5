"""The release that failed is taken back, and what cannot be taken back is refused."""

from __future__ import annotations

import re

import pytest
from conftest import NEW, OLD, REPORT, VARIABLES, report, roll_out, status, used

pytestmark = pytest.mark.timeout(1200)
# What Litestream 0.3 would understand.
OLD_CONFIG = {
    "dbs": [
        {
            "path": "/var/lib/sample-app/sample.db",
            "replicas": [{"type": "s3", "bucket": "b", "path": "edge04/sample.db", "region": "eu-central-1"}],
        }
    ]
}


def test_rollback_makes_it_well_again() -> None:
    done = roll_out("rollback", "--limit=edge04")
    assert done.code == 0, done.text
    assert f"litestream: {NEW} -> {OLD}" in done.text
    assert used("edge04") == OLD
    assert status("edge04")["level"] == "ok"
    assert not REPORT.with_name("rollback.report").exists(), "nobody is left"
    assert REPORT.read_text().split() == ["edge04"], "it is still to be upgraded"


def test_litestream_03_is_refused_before_anything_changes() -> None:
    before = report()
    variables = {"litestream_version": "0.3.13", "litestream_config": OLD_CONFIG, "edge_databases": {}}
    done = roll_out("upgrade", "--tags=litestream", "--limit=edge04", "--check", variables=variables)
    assert done.code != 0
    assert "Litestream 0.3 reads nothing of what 0.5 has replicated" in done.text
    assert f"Set litestream_version to {OLD} or newer" in done.text
    assert re.search(r"edge04 : ok=\d+ changed=0 ", done.text), done.text
    assert report() == before, "check mode writes no report"


def test_check_mode_says_what_would_change() -> None:
    done = roll_out(
        "upgrade",
        "--tags=litestream",
        "--limit=edge04",
        "--check",
        variables={**VARIABLES, "lab_release": "good"},
    )
    assert done.code == 0, done.text
    assert "ring rest: edge04" in done.text
    assert not re.search(r"edge04 : ok=\d+ changed=0 ", done.text), done.text
    assert used("edge04") == OLD
