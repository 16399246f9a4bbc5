"""The table of faults is sound, its words are in the docs, and its alerts fire on what was recorded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from edge_rotator.errors import KINDS
from experiment import alerts, faults

ROOT = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("EDGE_CACHE_DIR", "/var/cache/edge-litestream"))
FAULTS = faults.load()
NAMES = [fault.name for fault in FAULTS]
RULES = (ROOT / "files/prometheus-alerts.yml").read_text()


def test_names_are_unique_and_can_be_asked_for() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert [fault.name for fault in faults.choose("pin-wrong, token-gone", short=False)] == [
        "token-gone",
        "pin-wrong",
    ]
    assert {fault.group for fault in faults.choose("s3", short=False)} == {"s3"}
    assert 3 < len(faults.choose("", short=True)) < len(FAULTS)
    with pytest.raises(SystemExit, match="nonsense"):
        faults.choose("nonsense", short=False)


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_row_names_only_what_there_is(fault: faults.Fault) -> None:
    for command in fault.inject + fault.heal + fault.mend:
        ((where, text),) = command.items()
        assert where in {"device", "cloud", "control"}
        for playbook in re.findall(r"playbooks/[\w/]+\.yml", text):
            assert (ROOT / playbook).exists()
    assert set(fault.modes) <= {"environment", "process"}
    if fault.status:
        assert fault.status.level in faults.LEVELS[1:]
    checks = set(
        re.findall(r'^        \("(\w+)", ', (ROOT / "edge_rotator/doctor.py").read_text(), re.MULTILINE)
    )
    assert set(fault.doctor or {}) <= checks | {"config"}
    assert set((fault.doctor or {}).values()) <= set(KINDS)
    if fault.alert:
        assert f"alert: {fault.alert['name']}\n" in RULES
    if fault.mend:
        assert fault.alert, "where somebody is needed, somebody has to be woken"


WAKING = [fault for fault in FAULTS if fault.alert and fault.status]


@pytest.mark.parametrize("fault", WAKING, ids=[fault.name for fault in WAKING])
def test_who_is_woken_finds_an_entry_by_the_words_of_status(fault: faults.Fault) -> None:
    assert fault.status
    text = (ROOT / "docs/troubleshooting.md").read_text()
    words, colon, kind = fault.status.says.partition(": ")
    entries = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL))
    if colon:
        assert f"`{kind}`" in next(entry for head, entry in entries.items() if head.lower() in words)
    else:
        # The page says DIRECTORY where status names one.
        for each in words.split(" | "):
            assert re.sub(r" /\S+$", "", each).lower() in text.lower()


def test_alerts_fire_on_what_was_recorded_from_the_real_fault(tmp_path: Path) -> None:
    recorded = yaml.safe_load(faults.RECORDED.read_text())["recorded"]
    wanted = {fault.name: fault.alert for fault in FAULTS if fault.alert}
    missing = set(wanted) - set(recorded)
    assert not missing, f"run `make faults FAULTS={','.join(sorted(missing))}`"
    assert set(recorded) <= set(wanted)
    tests = alerts.tests(recorded, wanted)
    (tmp_path / "prometheus-alerts.yml").write_text(RULES)
    document = {"rule_files": ["prometheus-alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document, width=100000))
    promtool = shutil.which("promtool") or str(CACHE / "bin/promtool")
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
