"""Every Python that may run as root on a device is isolated (`-I`).

`python3 -c` and `python3 -m` look for modules in the working directory first, which for Ansible's
tasks and for sudo is the login user's: whoever writes `json.py` there would be root.
"""

from __future__ import annotations

import re

import pytest

from experiment.installed import ROOT

PLACES = (
    "roles",
    "playbooks",
    "plugins",
    "docs",
    "molecule/default",
    "molecule/tokens",
    "molecule/board",
    "molecule/life",
    "molecule/shared/experiment",
)
KINDS = (".yml", ".j2", ".py", ".md", ".sh")
# In a shell's line, in a list on one line, in a YAML list with a line each: the word after the interpreter.
CALL = re.compile(r"""(?<![\w.-])(?:/usr/bin/)?python3?(?:\.\d+)?["']?[,\s]+(?:-\s+)?["']?(-\w+|/\S+)""")
OURSELVES = re.compile(r"""sys\.executable,\s*["'](-\w+)""")  # in a module that is root on the device
ISOLATED = ("-I", "-IS")
NOT_ON_DEVICES = ("python3 -m venv ",)  # on the control node, by whoever sits there


def calls(text: str, by_module: bool) -> list[str]:
    """Calls of Python in this text that are not isolated."""
    for known in NOT_ON_DEVICES:
        text = text.replace(known, "")
    found = [match for pattern in (CALL, OURSELVES)[: 1 + by_module] for match in pattern.finditer(text)]
    return [match[0] for match in found if match[1] not in ISOLATED]


@pytest.mark.parametrize("place", PLACES)
def test_python_is_isolated(place: str) -> None:
    files = [path for path in sorted((ROOT / place).rglob("*")) if path.suffix in KINDS]
    assert files
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    found = {name: calls(text, name.startswith("plugins/")) for name, text in texts.items()}
    assert {name: bad for name, bad in found.items() if bad} == {}


@pytest.mark.parametrize(
    "text",
    [
        "cmd: python3 -c 'import json'",
        "ExecStart=/usr/bin/python3 /opt/x.py",
        "ExecStart=/usr/bin/python3 -m x",
        'run(["sudo", "python3", "-c", X])',
        "argv:\n  - /usr/bin/python3\n  - -m\n  - pip",
        "{{ ['python3', '-m', 'pip'] }}",
        "sudo python3.13 -S -c 1",
        '[sys.executable, "-m", "pip"]',
    ],
)
def test_what_is_not_isolated_is_found(text: str) -> None:
    assert calls(text, by_module=True)


@pytest.mark.parametrize(
    "text",
    [
        "cmd: python3 -I -c 'import json'",
        "#!/usr/bin/python3 -IS\n",
        'run(["sudo", "python3", "-I", "-c", X])',
        "argv:\n  - /usr/bin/python3\n  - -I\n  - -m",
        "apt-get install python3 python3-venv",
        "needs Python 3, and python3-apt - or more",
    ],
)
def test_what_is_isolated_is_left_alone(text: str) -> None:
    assert calls(text, by_module=True) == []
