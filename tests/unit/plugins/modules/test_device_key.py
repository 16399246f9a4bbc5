"""device_key: what it starts knows the PIN, and must not leave it in a core dump."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[4]
CORE = 1 << 20
CODE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge_litestream.appliance.plugins.modules import device_key
with patch_module_args(json.load(sys.stdin)):
    device_key.main()
"""


def test_no_child_dumps_core(tmp_path: Path) -> None:
    """Each command writes its own limits down; the module itself starts with others."""
    command = ["sh", "-c", f"cat /proc/self/limits >>{tmp_path}/limits; echo text"]
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
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (CORE, CORE)),
    )
    assert json.loads(done.stdout)["changed"], done.stderr
    cores = re.findall(r"^Max core file size +(\S+) +(\S+)", (tmp_path / "limits").read_text(), re.MULTILINE)
    assert cores == [("0", "0")] * 3
