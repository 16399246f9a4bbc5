#!/usr/bin/python
"""Build files in a Debian made for it and thrown away."""

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_build
short_description: Build files in a Debian made for it and thrown away
description:
  - Runs a shell script in a minimal Debian of the wanted release and architecture, which mmdebstrap makes
    for this one build and which is gone afterwards. The script has no network. It runs in a directory that
    holds C(sources/) and the empty C(out/).
  - Delegate it to a host that you trust, like V(localhost), never to one that the files are for. That host
    needs C(mmdebstrap) and C(debian-archive-keyring), and for another architecture than its own also
    C(qemu-user-static), C(binfmt-support) and C(arch-test).
  - The files are kept on the control node with their digests. Nothing is built where they are there already;
    files that have changed since are refused.
options:
  release:
    description: Debian's release, like V(bookworm).
    type: str
    required: true
  machine:
    description: What the kernel of the machine that the files are for calls it.
    type: str
    choices: [x86_64, aarch64, armv7l]
    required: true
  packages:
    description: Debian packages that the script needs.
    type: list
    elements: str
    required: true
  script:
    description: The build, for C(sh -eu). What it leaves in C(out/) is the result, plain files all.
    type: str
    required: true
  sources:
    description: Directory on the control node that the script finds as C(sources/).
    type: path
    required: true
  output:
    description: Directory on the control node that keeps the result.
    type: path
    required: true
  mirrors:
    description: Where Debian's packages come from, by URL or as lines of C(sources.list). Empty for
      deb.debian.org.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds after which the build has failed.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The module is built
  edge_litestream.appliance.debian_build:
    release: bookworm
    machine: aarch64
    packages: [gcc, libc6-dev]
    script: gcc -shared -fPIC -o out/answer.so sources/answer.c
    sources: /srv/answer
    output: /var/cache/answer/bookworm-aarch64
  delegate_to: localhost
"""

RETURN = r"""
files:
  description: Paths on the control node.
  type: list
  elements: str
  returned: when they are there
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf"}
ENDING_S = 60  # what mmdebstrap gets to clean up
TIMED_OUT = (124, 137)  # exit codes of timeout
ENVIRONMENT = "PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8"
# mmdebstrap's words for what to leave out.
APT = ['APT::Install-Recommends "false"', 'Acquire::Languages "none"']


def missing(module: AnsibleModule, architecture: str) -> str:
    """Say what this host lacks for such a build: a command that mends it, or nothing."""
    if shutil.which("mmdebstrap") is None:
        return "apt-get install mmdebstrap debian-archive-keyring"
    if ARCHITECTURES.get(os.uname().machine) == architecture:
        return ""
    tool = shutil.which("arch-test")
    if tool is None:
        return "apt-get install qemu-user-static binfmt-support arch-test"
    code, _unused, _unused = module.run_command([tool, architecture])
    return "apt-get install qemu-user-static && update-binfmts --enable" if code else ""


def command(parameters: dict[str, Any], script: Path) -> list[str]:
    """One mmdebstrap that makes the Debian, builds in it and removes it."""
    sources, output = parameters["sources"], parameters["output"]
    return [
        "timeout",
        f"--kill-after={ENDING_S}",
        str(parameters["timeout"]),
        "mmdebstrap",
        "--variant=apt",
        "--format=null",
        f"--architectures={ARCHITECTURES[parameters['machine']]}",
        f"--include={','.join(parameters['packages'])}",
        *(f"--aptopt={line}" for line in APT),
        "--dpkgopt=force-unsafe-io",
        '--customize-hook=mkdir --parents "$1/build/out"',
        f"--customize-hook=tar-in {sources} /build",
        f"--customize-hook=upload {script} /build/script",
        # Without a network, so that nothing comes in that is not pinned.
        '--customize-hook=unshare --net chroot "$1" '
        f"env --ignore-environment --chdir=/build {ENVIRONMENT} sh -eu script",
        f"--customize-hook=tar-out /build/out {output}",
        parameters["release"],
        "-",
        *parameters["mirrors"],
    ]


def main() -> None:
    """Build; the action on the control node hands over the sources as an archive, and takes one back."""
    module = AnsibleModule(
        {
            "release": {"type": "str", "required": True},
            "machine": {"type": "str", "choices": list(ARCHITECTURES), "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "script": {"type": "str", "required": True},
            "sources": {"type": "path", "required": True},
            "output": {"type": "path", "required": True},
            "mirrors": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    architecture, host = ARCHITECTURES[parameters["machine"]], os.uname().nodename
    lacking = missing(module, architecture)
    if lacking:
        module.fail_json(
            msg=f"{host} cannot build for Debian {parameters['release']} {architecture}: {lacking}; "
            "or name a Debian host that you trust, and that is no device, as build host"
        )
    # Not /tmp, which may be in memory. Others may enter: without root mmdebstrap works as other users.
    folder = Path(tempfile.mkdtemp(prefix="debian_build.", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        script = folder / "script"
        script.write_text(parameters["script"])
        code, output, errors = module.run_command(
            command(parameters, script), environ_update={"TMPDIR": str(folder), "LC_ALL": "C.UTF-8"}
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if code:
        tail = "\n".join((output + errors).strip().splitlines()[-15:])
        late = f", ended after {parameters['timeout']} s" if code in TIMED_OUT else ""
        what = f"the build for Debian {parameters['release']} {architecture}"
        module.fail_json(msg=f"{what} failed on {host}{late}:\n{tail}")
    built = Path(parameters["output"])
    built.chmod(0o644)  # who logs in fetches it, whoever builds
    module.exit_json(changed=True, sha256=hashlib.sha256(built.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
