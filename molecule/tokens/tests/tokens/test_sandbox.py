"""The sandbox of every unit in this scenario's modes, with a TPM and with metrics."""

from __future__ import annotations

from typing import Any

from experiment.exposure import assert_exposure


def test_exposure_is_what_the_table_says(host: Any) -> None:
    assert_exposure(host)
