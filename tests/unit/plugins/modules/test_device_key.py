"""device_key: what it starts knows the PIN, and must not leave it in a core dump."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
CORE = 1 << 20
CODE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge_litestream.appliance.plugins.modules import device_key
with patch_module_args(json.load(sys.stdin)):
    device_key.main()
"""


def run(tmp_path: Path, script: str, limit: int, most: int) -> dict[str, Any]:
    """Result of the module, started with this limit, with a command that makes key and request."""
    command = ["sh", "-c", script]
    arguments: dict[str, Any] = {
        "public_key_command": command,
        "request_command": command,
        "request_file": f"{tmp_path}/request",
        "certificate_file": f"{tmp_path}/certificate",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"PYTHONPATH": str(ROOT / ".collections"), "PATH": "/usr/bin:/bin"},
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
    )
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_command_that_prints_for_ever_is_ended(tmp_path: Path, stream: str) -> None:
    """It says what its token makes it say; the module runs as root and keeps all that it reads."""
    told = run(tmp_path, f"exec yes >&{stream}", resource.RLIMIT_AS, 2**30)
    assert "sh printed more than 65536 bytes" in told["msg"]
    assert not (tmp_path / "request").exists()


def test_no_child_dumps_core(tmp_path: Path) -> None:
    """Each command writes its own limits down; the module itself starts with others."""
    told = run(tmp_path, f"cat /proc/self/limits >>{tmp_path}/limits; echo text", resource.RLIMIT_CORE, CORE)
    assert told["changed"]
    cores = re.findall(r"^Max core file size +(\S+) +(\S+)", (tmp_path / "limits").read_text(), re.MULTILINE)
    assert cores == [("0", "0")] * 3
