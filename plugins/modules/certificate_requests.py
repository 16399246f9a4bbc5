#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Read a directory of certificate signing requests, or refuse it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_requests
short_description: Read a directory of certificate signing requests
description:
  - Reads every file C(THING.csr) of a directory. A request has to ask for C(CN=THING) alone, with no
    extension, be signed with its own key, EC P-256 or RSA of 2048 bits or more, and no two may have one key.
  - It has to be a regular file of one name. No link is followed, and no pipe or device is read.
  - Names all files that cannot be used at once, and then returns none.
requirements:
  - cryptography
options:
  directory:
    description: The directory. Files with other names are ignored.
    type: path
    required: true
attributes:
  check_mode:
    description: Nothing is ever changed.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: Read what the factory has sent
  edge_litestream.appliance.certificate_requests:
    directory: enrollment
  register: read
"""

RETURN = r"""
requests:
  description: Every request, with C(thing), C(request) and C(public_key), both as PEM.
  returned: success
  type: list
  elements: dict
"""

import os
import re
import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors, signing_requests

WITHOUT_CRYPTOGRAPHY = ""
try:
    from cryptography.hazmat.primitives import serialization
except ImportError:
    WITHOUT_CRYPTOGRAPHY = traceback.format_exc()

SHOWN = 10  # files that a failure names


def read(path: Path, directory: int) -> dict[str, str]:
    """Read one request in an open directory. Raises CertificateError where nobody should sign it."""
    thing = path.stem
    if not re.fullmatch(r"[a-zA-Z0-9:_-]{1,64}", thing):
        raise signing_requests.CertificateError(
            "the name is not 1 to 64 of a-z, A-Z, 0-9, colon, underscore, hyphen"
        )
    try:
        with os.fdopen(descriptors.open_file(path.name, directory), "rb") as file:
            content = file.read(signing_requests.MAX_REQUEST + 1)
    except descriptors.UnsafeError as error:
        raise signing_requests.CertificateError(f"{error}: put the request itself there") from None
    if len(content) > signing_requests.MAX_REQUEST:
        raise signing_requests.CertificateError(f"it is longer than {signing_requests.MAX_REQUEST} bytes")
    found = signing_requests.read_request(content.decode(errors="replace"))
    signing_requests.check_subject(found, thing)
    encoding, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return {
        "thing": thing,
        "request": found.public_bytes(encoding).decode(),
        "public_key": found.public_key().public_bytes(encoding, spki).decode(),
    }


def read_all(directory: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Read all requests; return them, and what is wrong with others."""
    requests: dict[str, dict[str, str]] = {}
    problems = []
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path in sorted(directory.glob("*.csr")):
            try:
                one = read(path, opened)
                other = requests.setdefault(one["public_key"], one)
                if other is not one:
                    raise signing_requests.CertificateError(f"its key is also that of {other['thing']}.csr")
            except (signing_requests.CertificateError, OSError) as error:
                problems.append(f"{path.name}: {error}")
    finally:
        os.close(opened)
    return list(requests.values()), problems


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule({"directory": {"type": "path", "required": True}}, supports_check_mode=True)
    if WITHOUT_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=WITHOUT_CRYPTOGRAPHY)
    directory = Path(module.params["directory"])
    try:
        requests, problems = read_all(directory) if directory.is_dir() else ([], [])
    except OSError as error:
        module.fail_json(msg=f"cannot read {directory}: {error.strerror}")
    if problems:
        module.fail_json(
            msg=f"{len(problems)} requests in {directory} cannot be used, and none was: "
            + "; ".join(problems[:SHOWN])
        )
    if not requests:
        module.fail_json(msg=f"there is no request THING.csr in {directory}: correct the path")
    module.exit_json(changed=False, requests=requests)


if __name__ == "__main__":
    main()
