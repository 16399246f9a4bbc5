"""What actions share that have files built on a trusted host; see module debian_build."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import keep, sha256

# What a device may say of its platform, which becomes a path and an argument here.
PLAIN = re.compile(r"[a-z0-9][a-z0-9_]*", re.ASCII)
# Neither a path nor hidden.
NAME = re.compile(r"\w[\w.+-]*", re.ASCII)


class BuildError(Exception):
    """What the build host said."""


def check_platform(options: dict[str, Any]) -> None:
    """Refuse a platform that is none; its words are facts, so a device's.

    Raises BuildError.
    """
    for name in ("release", "machine"):
        if not PLAIN.fullmatch(str(options.get(name))):
            raise BuildError(f"{name} is {options.get(name)!r}: that is no Debian")


class BuildingAction(ActionBase):  # type: ignore[misc]
    """An action whose task is delegated to the build host, while everything else is the control node's."""

    def build(
        self, options: dict[str, Any], fill: Callable[[Path], object], output: Path, task_vars: Any
    ) -> list[Path]:
        """Have the files of `output` built from what `fill` provides, unless they are there.

        Raises BuildError, KeptError.
        """

        def make(target: Path) -> None:
            with tempfile.TemporaryDirectory() as name:
                sources, packed, built = (
                    Path(name, part) for part in ("sources", "sources.tar", "built.tar")
                )
                sources.mkdir()
                fill(sources)
                with tarfile.open(packed, "w") as archive:
                    archive.add(sources, "sources")
                self._build(options, packed, built, task_vars)
                unpack(built, target)

        files: list[Path] = keep(output, make)
        return files

    def _build(self, options: dict[str, Any], packed: Path, built: Path, task_vars: Any) -> None:
        """Bring the archive to the build host, build there, and fetch what the module vouches for."""
        shell = self._connection._shell
        self._make_tmp_path()
        there, result = (shell.join_path(shell.tmpdir, path.name) for path in (packed, built))
        self._transfer_file(str(packed), there)
        self._fixup_perms2((shell.tmpdir, there))
        answer = self._execute_module(
            module_name="edge_litestream.appliance.debian_build",
            module_args={**options, "sources": there, "output": result},
            task_vars=task_vars,
        )
        if answer.get("failed"):
            raise BuildError(answer.get("msg", answer))
        self._connection.fetch_file(result, str(built))
        if sha256(built) != answer["sha256"]:
            raise BuildError(f"{result} changed on its way from the build host: converge again")


def unpack(built: Path, target: Path) -> None:
    """Unpack the plain files of a build's `out/`."""
    with tarfile.open(built) as archive:
        files = [member for member in archive if not member.isdir()]
        for member in files:
            name = member.name.removeprefix("./").removeprefix("out/")
            if not member.isfile() or not NAME.fullmatch(name):
                raise BuildError(f"the build left {member.name!r} in out/: only plain files are taken")
            source = archive.extractfile(member)
            (target / name).write_bytes(source.read() if source else b"")
    if not files:
        raise BuildError("the build left nothing in out/")
