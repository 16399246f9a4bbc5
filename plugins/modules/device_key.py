#!/usr/bin/python
"""Have a key pair and its certificate signing request on a device, and tell how its certificate stands."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_key
short_description: Have a key pair and its certificate signing request, and tell how the certificate stands
description:
  - Asks for the public key, and makes key pair and request where there is no key or the request is
    another key's.
  - Reads the certificate and compares it with the key. No private key is read, and no secret is in
    any command line.
options:
  public_key_command:
    description: Command and arguments that print the public key as PEM. Where the program is missing,
      there is no key yet.
    type: list
    elements: str
    required: true
  request_command:
    description: Command and arguments that print a request as PEM, and make the key pair if there is none.
    type: list
    elements: str
    required: true
  request_file:
    description: Where the request is kept.
    type: path
    required: true
  certificate_file:
    description: Where the certificate is, if there is one.
    type: path
    required: true
  renew_before_s:
    description: A certificate with less than this many seconds left is said to be V(expiring).
    type: int
    default: 0
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The key is in its file, and its request beside it
  edge_litestream.appliance.device_key:
    public_key_command: [openssl, pkey, -pubout, -in, /etc/edge-key/device.key]
    request_command: [openssl, req, -new, -subj, /CN=edge01, -key, /etc/edge-key/device.key]
    request_file: /etc/edge-identity/device.csr
    certificate_file: /etc/edge-identity/device.crt
"""

RETURN = r"""
public_key:
  description: The public key as PEM; empty in check mode where there is none yet.
  type: str
  returned: always
request:
  description: The certificate signing request as PEM; empty in check mode where there is none yet.
  type: str
  returned: always
certificate:
  description: V(ok), V(missing), V(expiring) or V(other_key).
  type: str
  returned: always
"""

import os
import resource
import selectors
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

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


def ask(command: list[str]) -> tuple[str, str]:
    """Output of a command, and why there is none."""
    code, output, errors = run(command)
    return (output.strip(), "") if code == 0 else ("", errors.strip() or f"exit code {code}")


def public_key(module: AnsibleModule) -> tuple[str, str]:
    """Ask for the public key; in a new device the program that is asked is missing, too."""
    try:
        return ask(module.params["public_key_command"])
    except OSError as error:
        return "", str(error)


def read(kind: str, file: str, *more: str) -> str:
    """Ask openssl about a request (req) or a certificate (x509); empty where it cannot be read."""
    if not Path(file).exists():
        return ""
    try:
        return ask(["openssl", kind, "-in", file, "-noout", *more])[0]
    except OSError:
        return ""


def certificate_state(module: AnsibleModule, key: str) -> str:
    """How the certificate stands to the key and to the time."""
    file = module.params["certificate_file"]
    owner = read("x509", file, "-pubkey")
    if not owner:
        return "missing"
    if owner != key:
        return "other_key"
    lasts = read("x509", file, "-checkend", str(module.params["renew_before_s"]))
    return "ok" if lasts else "expiring"


def write_request(target: str, text: str) -> None:
    """Put the request into its file, whole or not at all."""
    fresh = Path(f"{target}.new")
    fresh.write_text(text + "\n")
    fresh.chmod(0o644)
    fresh.replace(target)


def main() -> None:
    """Make what is missing, and report."""
    module = AnsibleModule(
        {
            "public_key_command": {"type": "list", "elements": "str", "required": True},
            "request_command": {"type": "list", "elements": "str", "required": True},
            "request_file": {"type": "path", "required": True},
            "certificate_file": {"type": "path", "required": True},
            "renew_before_s": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    # What is asked reads the PIN, or is the key's file: it dumps no core.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = module.params["request_file"]
    key, _unused = public_key(module)
    changed = not key or read("req", file, "-pubkey") != key
    if changed and not module.check_mode:
        try:
            request, why = ask(module.params["request_command"])
        except OSError as error:
            request, why = "", str(error)
        if not request:
            module.fail_json(msg=f"no key pair and request could be made: {why}")
        write_request(file, request)
        key, why = public_key(module)
        if not key:
            module.fail_json(msg=f"the key cannot be asked for: {why}")
    module.exit_json(
        changed=changed,
        public_key=key,
        request=Path(file).read_text() if Path(file).exists() else "",
        certificate=certificate_state(module, key),
    )


if __name__ == "__main__":
    main()
