"""files: templates are rendered on the control node, as ansible.builtin.template renders them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Owner and group stay, so that no root is needed.
OWNER = {"owner": "", "group": ""}


class Role:
    """A role whose one task writes files on this machine, and its templates."""

    def __init__(self, top: Path) -> None:
        self.top, self.templates, self.written = top, top / "roles/app/templates", top / "etc"
        self.templates.mkdir(parents=True)
        (top / "roles/app/tasks").mkdir()
        self.written.mkdir()

    def entry(self, name: str, template: str, **options: Any) -> dict[str, Any]:
        """Make a template, and give the entry of the file that comes of it."""
        (self.templates / f"{name}.j2").write_text(template)
        return {"path": str(self.written / name), "template": f"{name}.j2", **OWNER, **options}

    def play(self, files: list[dict[str, Any]], *options: str, **known: Any) -> tuple[int, str]:
        """Run the role: how it ended, and what was said."""
        task = {"edge_litestream.appliance.files": {"files": files}}
        (self.top / "roles/app/tasks/main.yml").write_text(json.dumps([task]))
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        host = {"hosts": "edge01", "gather_facts": False, "vars": {**local, **known}, "roles": ["app"]}
        (self.top / "play.yml").write_text(json.dumps([host]))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory=edge01,", *options]
        done = subprocess.run(
            [*command, str(self.top / "play.yml")],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role(tmp_path)


# Blocks, line breaks at the end, backslashes, what looks like a template in a value, and another template.
TEMPLATES = {
    "plain": "# {{ ansible_managed }}\nsize={{ size }}\n",
    "blocks": "{% for one in [1, 2] %}\n  {% if one %}\none={{ one }}\n  {% endif %}\n{% endfor %}\n",
    "open": "no line break at the end {{ size }}",
    "many": "two line breaks at the end {{ size }}\n\n",
    "value": "{{ size }}",
    "list": "{{ [size, 'b'] }}",
    "slashes": "a\\nb {{ 'c\\nd' }} \\\\ {{ data }}\n",
    "included": "{% include 'plain.j2' %}{% import 'value.j2' as other %}\n",
}


@pytest.mark.parametrize("managed", [{}, {"ansible_managed": "by hand {{ size }}"}])
def test_a_template_is_what_the_lookup_makes_of_it(role: Role, managed: dict[str, str]) -> None:
    files = [role.entry(name, text) for name, text in TEMPLATES.items()]
    for name in TEMPLATES:
        looked_up = f"{{{{ lookup('ansible.builtin.template', '{name}.j2') }}}}"
        files.append({"path": str(role.written / f"{name}.lookup"), "content": looked_up, **OWNER})
    data = {"__ansible_unsafe": "{{ size }}"}
    code, said = role.play(files, size=7, data=data, **managed)
    assert code == 0, said
    for name in TEMPLATES:
        assert (role.written / name).read_bytes() == (role.written / f"{name}.lookup").read_bytes(), name
    first = "by hand 7" if managed else "Ansible managed"
    assert (role.written / "plain").read_text() == f"# {first}\nsize=7\n"


def test_a_template_without_a_word_is_an_empty_file(role: Role) -> None:
    code, said = role.play([role.entry("empty", "{% if false %}x{% endif %}")])
    assert (code, (role.written / "empty").read_bytes()) == (0, b""), said


def test_variables_of_one_template_are_its_own(role: Role) -> None:
    text = "{{ item.force }} {{ size }}\n"
    files = [
        role.entry("forced", text, template_vars={"item": {"force": True}, "size": 8}),
        role.entry("due", text, template_vars={"item": {"force": "{{ size == 9 }}"}}),
        role.entry("none", "{{ item is defined }} {{ size }}\n"),
    ]
    code, said = role.play(files, size=7)
    assert code == 0, said
    written = [(role.written / name).read_text() for name in ("forced", "due", "none")]
    assert written == ["True 8\n", "False 7\n", "False 7\n"]


def test_check_mode_shows_the_difference_and_writes_nothing(role: Role) -> None:
    entry = role.entry("conf", "size={{ size }}\n")
    code, said = role.play([entry], "--check", "--diff", size=7)
    assert (code, list(role.written.iterdir())) == (0, [])
    assert "+size=7" in said
    assert "changed=1" in said
    assert role.play([entry], size=7)[0] == 0
    code, said = role.play([entry], "--check", "--diff", size=7)
    assert (code, "changed=0" in said, "size=7" in said) == (0, True, False)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {"template": "lost.j2"}, ["etc/conf cannot be made from template lost.j2", "Could not find"]),
        ("{{ lost }}\n", {}, ["etc/conf cannot be made from template conf.j2", "'lost' is undefined"]),
        ("{% if %}\n", {}, ["etc/conf cannot be made from template conf.j2", "Syntax error"]),
        ("a\n", {"content": "b\n"}, ["etc/conf has both content and template conf.j2"]),
        ("a\n", {"template_vars": ["b"]}, ["etc/conf: template_vars of template conf.j2 is no dictionary"]),
        ("a\n", {"template": None, "template_vars": {"b": 1}}, ["template_vars", "template"]),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    role: Role, text: str, options: dict[str, Any], words: list[str]
) -> None:
    files = [role.entry("good", "a\n"), role.entry("conf", text) | options]
    code, said = role.play(files)
    assert code != 0
    assert [word for word in words if word not in said] == [], said
    assert list(role.written.iterdir()) == []
