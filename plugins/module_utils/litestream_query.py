# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Ask Litestream, by the one service that passes questions on to it: litestream-query."""

from __future__ import annotations

import json
import socket
from typing import Any

SOCKET = "/run/litestream-query.sock"
ANSWER_S = 45  # longer than Litestream is given for a sync


def ask(path: str, question: str) -> dict[str, Any]:
    """Ask a question, `list` or `sync DATABASE`; what went wrong is in the answer's `error`."""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(ANSWER_S)
            asked.connect(path)
            asked.sendall(question.encode())
            asked.shutdown(socket.SHUT_WR)
            with asked.makefile("rb") as answer:
                return dict(json.loads(answer.read()))
    except (OSError, ValueError) as error:
        return {"error": f"Litestream cannot be asked: {error}"}
