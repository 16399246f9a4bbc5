#!/usr/bin/python
"""Have a key pair and its certificate signing request on a device, and tell how its certificate stands."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_key
short_description: Have a key pair and its certificate signing request, and tell how the certificate stands
description:
  - Asks for the public key, and makes a request where the request is another key's.
  - Makes a key pair only where none was ever made. A marker beside the certificate, C(identity.json), says
    which were, by the SHA-256 of their public keys. On a device of before the marker, its certificate does.
  - Fails where a key that was made is not to be had, or is another one. What an operator names anew, by
    O(token_label) or O(key_label), is a new identity.
  - Reads the certificate and compares it with the key. No private key is read, and no secret is in
    any command line.
options:
  public_key_command:
    description: Command and arguments that print the public key as PEM. Where the program is missing,
      there is no key yet.
    type: list
    elements: str
    required: true
  key_command:
    description: Command and arguments that make the key pair.
    type: list
    elements: str
    required: true
  request_command:
    description: Command and arguments that print a request as PEM.
    type: list
    elements: str
    required: true
  token_label:
    description: Label of the token; empty for a key in a file.
    type: str
    default: ""
  key_label:
    description: Label of the key in its token, or path of its file.
    type: str
    required: true
  thing:
    description: Whose key it is.
    type: str
    required: true
  request_file:
    description: Where the request is kept.
    type: path
    required: true
  certificate_file:
    description: Where the certificate is, if there is one, and the marker beside it.
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
    public_key_command: [openssl, pkey, -passin, "pass:", -pubout, -in, /etc/edge-key/device.key]
    key_command: [openssl, genpkey, -algorithm, ED25519, -out, /etc/edge-key/device.key]
    key_label: /etc/edge-key/device.key
    thing: edge01
    request_command: [openssl, req, -passin, "pass:", -new, -subj, /CN=edge01, -key, /etc/edge-key/device.key]
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
certificate_id:
  description: SHA-256 of the certificate that was made for this key last; empty where none was.
  type: str
  returned: always
"""

import os
import resource
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import commands, descriptors, identity


def ask(command: list[str]) -> tuple[str, str]:
    """Output of a command, and why there is none."""
    code, output, errors = commands.run(command)
    return (output.strip(), "") if code == 0 else ("", errors.strip() or f"exit code {code}")


def public_key(module: AnsibleModule) -> tuple[str, str]:
    """Ask for the public key; in a new device the program that is asked is missing, too."""
    try:
        return ask(module.params["public_key_command"])
    except OSError as error:
        return "", str(error)


def read(kind: str, file: str, *more: str) -> str:
    """Ask openssl about a request or certificate; empty where it cannot be read. Raises OSError."""
    return ask(["openssl", kind, "-in", file, "-noout", *more])[0] if Path(file).exists() else ""


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


def make(module: AnsibleModule, what: str, command: list[str]) -> str:
    """Output of a command that makes something; fails where it does not."""
    try:
        output, why = ask(command)
    except OSError as error:
        output, why = "", str(error)
    if why:
        module.fail_json(msg=f"{what} cannot be made: {why}")
    return output


def former(module: AnsibleModule, marker: list[dict[str, str]] | None, key: str, why: str) -> dict[str, str]:
    """Return what was made for this key before, empty where nothing was.

    Raises IdentityError where it is not what is there.
    """
    token, label = module.params["token_label"], module.params["key_label"]
    file = module.params["certificate_file"]
    place = f"key '{label}' in token '{token}'" if token else f"key {label}"
    made = [one for one in marker or [] if (one["token"], one["key"]) == (token, label)]
    if not key and (made or (marker is None and os.path.lexists(file))):
        raise identity.lost(f"{place} is not to be had: {why}", os.path.dirname(file), file)
    if not key and not token and os.path.lexists(label):
        raise identity.IdentityError(
            f"{place} is there, but openssl cannot read it, and no other is made in its place: {why}. "
            "If it has a passphrase, take that off with 'openssl pkey -in OLD -out NEW'; "
            "if nothing needs it, move it away"
        )
    if made and made[0]["public_key_sha256"] != identity.digest(key):
        was = made[0]["public_key_sha256"]
        raise identity.lost(f"{place} is another one than {was} (SHA-256)", os.path.dirname(file), file)
    return made[0] if made else {}


def present(
    module: AnsibleModule, marker: list[dict[str, str]] | None, made: dict[str, str], key: str, state: str
) -> dict[str, str]:
    """Describe the identity as it is now."""
    # A device of before the marker has made its certificate, whosever key that is for.
    certified = state in ("ok", "expiring") or (marker is None and state == "other_key")
    return {
        "token": module.params["token_label"],
        "key": module.params["key_label"],
        "thing": module.params["thing"],
        "public_key_sha256": identity.digest(key),
        "certificate_id": identity.digest(Path(module.params["certificate_file"]).read_text())
        if certified
        else made.get("certificate_id", ""),
    }


def bring_about(module: AnsibleModule) -> dict[str, object]:
    """Make what is missing; return the module's answer. Raises IdentityError."""
    file, check = module.params["request_file"], module.check_mode
    directory = os.path.dirname(module.params["certificate_file"])
    marker = identity.read(directory)
    key, why = public_key(module)
    made = former(module, marker, key, why)
    changed = not key or read("req", file, "-pubkey") != key
    if not key and not check:
        make(module, "a key pair", module.params["key_command"])
        key, why = public_key(module)
        if not key:
            module.fail_json(msg=f"the key cannot be asked for: {why}")
    if changed and not check:
        write_request(file, make(module, "a request", module.params["request_command"]))
    state = certificate_state(module, key)
    now = present(module, marker, made, key, state) if key else {}
    if now != made:
        changed = True
        others = [one for one in marker or [] if one != made]
        if not check:
            identity.write(directory, [*others, now])
    return {
        "changed": changed,
        "public_key": key,
        "request": Path(file).read_text() if Path(file).exists() else "",
        "certificate": state,
        "certificate_id": now.get("certificate_id", ""),
    }


def main() -> None:
    """Make what is missing, and report."""
    module = AnsibleModule(
        {
            "public_key_command": {"type": "list", "elements": "str", "required": True},
            "key_command": {"type": "list", "elements": "str", "required": True, "no_log": False},
            "request_command": {"type": "list", "elements": "str", "required": True},
            "token_label": {"type": "str", "default": "", "no_log": False},
            "key_label": {"type": "str", "required": True, "no_log": False},
            "thing": {"type": "str", "required": True},
            "request_file": {"type": "path", "required": True},
            "certificate_file": {"type": "path", "required": True},
            "renew_before_s": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    # What is asked reads the PIN, or is the key's file: it dumps no core.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = bring_about(module)
    except (identity.IdentityError, descriptors.UnsafeError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
