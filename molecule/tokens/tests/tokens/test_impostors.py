"""A false provider is sent nothing, by an engine with a TPM, and pkcs11-provider."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.impostor import assert_provider_refused


@pytest.mark.usefixtures("at_rest")
def test_a_false_provider_is_sent_nothing(host: Any) -> None:
    assert_provider_refused(host)
