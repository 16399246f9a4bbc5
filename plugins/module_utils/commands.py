# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Run a command whose output others can make: no module keeps more of it than it has a use for."""

from __future__ import annotations

import os
import selectors
import subprocess
from typing import Any

MOST = 65536  # bytes, far above any key or request


def run(command: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that may print for ever: it is what a token makes it do.

    Raises OSError where it cannot be started.
    """
    with (
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child,
        selectors.DefaultSelector() as open_ones,
    ):
        said: dict[Any, bytes] = {child.stdout: b"", child.stderr: b""}
        for pipe in said:
            open_ones.register(pipe, selectors.EVENT_READ)
        while open_ones.get_map():
            for key, _unused in open_ones.select():
                data = os.read(key.fd, MOST)
                said[key.fileobj] += data
                if not data:
                    open_ones.unregister(key.fileobj)
                elif len(said[key.fileobj]) > MOST:
                    child.kill()
                    return 1, "", f"{command[0]} printed more than {MOST} bytes"
    output, errors = (text.decode(errors="replace") for text in said.values())
    return child.returncode, output, errors
