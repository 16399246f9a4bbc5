# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""The marker of a device's identity: what was made for it, so that nothing else is made in its place."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets

from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors

NAME = "identity.json"
MAX_BYTES = 65536
FIELDS = ("token", "key", "thing", "public_key_sha256", "certificate_id")


class IdentityError(Exception):
    """Why no identity may be made here, with what to do."""


def digest(pem: str) -> str:
    """SHA-256 of what a PEM text carries; of a certificate, AWS IoT calls it the certificate's ID."""
    lines = pem.split("-----BEGIN ", 1)[-1].split("-----END ", 1)[0].splitlines()[1:]
    return hashlib.sha256(base64.b64decode("".join(lines))).hexdigest()


def read(directory: str) -> list[dict[str, str]] | None:
    """Return every identity that was made; None where there is no marker.

    Raises IdentityError where it is not root's alone, or is none.
    """
    path = os.path.join(directory, NAME)
    above = -1
    try:
        above = descriptors.open_directory(directory, roots=True)
        with open(descriptors.open_file(NAME, above), "rb") as file:
            if not all(descriptors.only_roots(os.fstat(one)) for one in (above, file.fileno())):
                raise IdentityError(
                    f"{path} could have been written by others than root: look at what it says, then "
                    f"chown root:root {directory} {path} && chmod go-w {directory} {path}"
                )
            found = json.loads(file.read(MAX_BYTES))["identities"]
    except FileNotFoundError:
        return None
    except descriptors.UnsafeError as error:
        raise IdentityError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    finally:
        if above >= 0:
            os.close(above)
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and all(isinstance(one.get(field), str) for field in FIELDS) for one in found
    ):
        raise IdentityError(
            f"{path} is damaged: put back what it said, or remove it; "
            "the next converge writes it again where key and certificate are there"
        )
    return found


def write(directory: str, identities: list[dict[str, str]]) -> None:
    """Put the marker into its place, whole or not at all."""
    above = descriptors.open_directory(directory, roots=True)
    temporary = f".{NAME}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o644, dir_fd=above), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)
            json.dump({"identities": identities}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, NAME, src_dir_fd=above, dst_dir_fd=above)
        os.fsync(above)
    finally:
        os.close(above)


def lost(what: str, directory: str, certificate: str) -> IdentityError:
    """Say that an identity was made here and is not to be had, and both ways on."""
    evidence = [path for path in (os.path.join(directory, NAME), certificate) if os.path.lexists(path)]
    return IdentityError(
        f"{what}. This device has an identity already ({', '.join(evidence)}), and none is made in its "
        "place: bring token and key back, as docs/troubleshooting.md says under 'The identity is gone'. Only "
        "if they are lost for good, or you really want a new identity: "
        f"rm {' '.join(evidence)} on the device, converge again, and replace the certificate in AWS"
    )
