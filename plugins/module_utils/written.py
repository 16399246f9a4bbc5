# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Files that the control node keeps for people and programs."""

from __future__ import annotations

import os
import tempfile


def replace(path: str, content: str, mode: int) -> None:
    """Put a file in place of what is there, whole or not at all; a link is replaced, not followed.

    Raises OSError.
    """
    directory, name = os.path.split(os.path.abspath(path))
    handle, made = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, path)
    except BaseException:
        os.unlink(made)
        raise
