"""Modules are run as Ansible runs them: arguments in, one JSON answer out."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import init_plugin_loader
from ansible.utils.collection_loader import AnsibleCollectionConfig

# From here on `ansible_collections` are found as Ansible finds them.
if not AnsibleCollectionConfig.collection_finder:
    init_plugin_loader([str(Path(__file__).resolve().parents[3] / ".collections")])

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the module that the test's file is named after: its answer, `failed` included."""
    name = request.path.stem.removeprefix("test_")
    module = importlib.import_module(f"ansible_collections.edge_litestream.appliance.plugins.modules.{name}")

    def answer(check: bool = False, **args: Any) -> dict[str, Any]:
        with patch_module_args({**args, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return dict(json.loads(capsys.readouterr().out))

    return answer
