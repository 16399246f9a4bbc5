"""Seen from another machine: false servers are sent nothing, and one port is open."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from experiment import observe
from experiment.impostor import assert_provider_refused, assert_s3_refused

SCAN = """
import json, socket, sys
found = []
for port in range(1, 65536):
    with socket.socket() as attempt:
        attempt.settimeout(2)
        if attempt.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(json.dumps(found))
"""


@pytest.mark.usefixtures("at_rest")
def test_a_false_provider_is_sent_nothing(host: Any) -> None:
    assert_provider_refused(host)


@pytest.mark.usefixtures("at_rest")
def test_a_false_s3_is_sent_nothing(host: Any) -> None:
    assert_s3_refused(host)


def test_one_port_answers(host: Any) -> None:
    address = host.check_output("ip -4 -o address show scope global").split()[3].partition("/")[0]
    scanned = observe.run(observe.CLOUD, f"python3 -I -c {shlex.quote(SCAN)} {address}")
    assert json.loads(scanned) == [22]
