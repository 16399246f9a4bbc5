# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Hands a PIN to the device by standard input; module pin_file has the documentation.

A module's arguments would be in a file on both machines wherever pipelining is off.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase

# The PIN is in a variable of this shell and in its built-ins: in no argument, no environment, no core dump,
# and in no file but the one. A line break ends it: what was cut off on its way is not taken for a PIN.
SCRIPT = r"""
set -eu
umask 077
ulimit -c 0
IFS= read -r pin || { echo "the PIN was cut off on its way" >&2; exit 1; }
if [ ! -e "$1" ] && [ ! -L "$1" ]; then
  state=missing
elif [ -f "$1" ] && [ ! -L "$1" ] && printf %s "$pin" | cmp -s - "$1"; then
  state=access
  if [ "$(stat -c %u:%g:%a "$1")" = 0:0:600 ]; then state=same; fi
else
  state=other
fi
if [ "$2" = write ] && [ "$state" != same ]; then
  rm -f "$1.new"
  printf %s "$pin" >"$1.new"
  chown 0:0 "$1.new"
  sync "$1.new"
  mv -fT "$1.new" "$1"
fi
echo "state=$state"
"""


class ActionModule(ActionBase):
    """What Ansible loads."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module's documentation lists; the PIN is not in it."""
        super().run(tmp, task_vars)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "str", "required": True},
                "pin": {"type": "str", "required": True, "no_log": True},
            }
        )
        path, pin = args["path"], args["pin"]
        if not pin or not pin.isascii() or not pin.isprintable():
            return {"failed": True, "msg": "pin (value hidden) is empty or not printable ASCII on one line"}
        words = ["/bin/sh", "-c", SCRIPT, "sh", path, "compare" if self._task.check_mode else "write"]
        done = self._low_level_execute_command(shlex.join(words), in_data=f"{pin}\n".encode())
        states = [line for line in done["stdout_lines"] if line.startswith("state=")]
        if done["rc"] or not states:
            why = done["stderr"].strip().replace(pin, "(PIN)") or f"exit code {done['rc']}"
            return {"failed": True, "msg": f"{path} cannot be written: {why}"}
        state = states[-1].removeprefix("state=")
        return {"changed": state != "same", "held": state}
