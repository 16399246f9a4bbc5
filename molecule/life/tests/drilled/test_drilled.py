"""Backups restore, whether their device is on or off; one that does not is named."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BUCKET, Aws, Playbook, lab

from experiment import observe
from experiment.phases import Played, wait_for

pytestmark = pytest.mark.timeout(900)
DAMAGED, OFF = "edge01", "edge02"
ROW = r"{} /var/lib/sample-app/sample.db {} "


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the history is, and what is restored for a while."""
    return tmp_path_factory.mktemp("drill")


@pytest.fixture(scope="module")
def words(kept: Path) -> list[str]:
    # This machine does not know the name of the devices' endpoint.
    variables = {
        "drill_endpoint": os.environ["AWS_ENDPOINT_URL"],
        "drill_history": str(kept / "history"),
        "drill_scratch": str(kept / "scratch"),
    }
    return [f"--extra-vars={json.dumps(variables)}"]


def history(kept: Path) -> list[dict[str, Any]]:
    files = sorted((kept / "history").iterdir())
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def well(playbook: Playbook, words: list[str]) -> Played:
    """Drill both, while rows are written."""
    return playbook("drill", *words)


@pytest.fixture(scope="module")
def unwell(well: Played, aws: Aws, playbook: Playbook, words: list[str]) -> Iterator[Played]:
    """Drill them while one is off, and the newest objects of the other are damaged."""
    lab("power-cut", OFF)
    sound = {}
    # The snapshot too: a compaction, every five minutes, takes the place of what is damaged below it.
    for level in ("0000", "0009"):
        key = max(aws.objects(f"{DAMAGED}/sample.db/{level}"))
        sound[key] = aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        aws.s3.put_object(Bucket=BUCKET, Key=key, Body=sound[key][:-40])
    try:
        yield playbook("drill", *words)
    finally:
        for key, body in sound.items():
            aws.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        lab("boot", OFF)
        wait_for(lambda: "ok" in observe.run(OFF, "sudo edge-rotator status", check=False).split())


def test_what_is_restored_is_what_the_device_had(well: Played, kept: Path) -> None:
    assert well.code == 0, well.text
    for device in (DAMAGED, OFF):
        assert re.search(ROW.format(device, "yes") + r"\d+ \d+ s [\d.]+ s equal", well.text), well.text
    assert "2 of 2 restored, 2 compared and equal" in well.text
    assert [(record["ok"], record["compared"]) for record in history(kept)] == [(True, "equal")] * 2
    assert all(record["rows"] > 0 and record["point_age_s"] < 60 for record in history(kept))


def test_a_device_that_is_off_is_drilled_all_the_same(unwell: Played) -> None:
    row = ROW.format(OFF, "yes") + r"\d+ \d+ s [\d.]+ s no \(not compared: the device cannot be reached\)"
    assert re.search(row, unwell.text), unwell.text


def test_a_backup_that_does_not_restore_fails_by_name(unwell: Played, kept: Path) -> None:
    assert unwell.code != 0
    assert re.search(ROW.format(DAMAGED, "no") + r".*Litestream could not restore it: ", unwell.text)
    assert f"{DAMAGED}: /var/lib/sample-app/sample.db: Litestream could not restore it: " in unwell.text
    assert "1 of 2 restored, 0 compared and equal" in unwell.text
    last = {record["thing"]: record["ok"] for record in history(kept)[2:]}
    assert last == {DAMAGED: False, OFF: True}
    assert [path.name for path in (kept / "scratch").iterdir() if path.is_dir()] == []
