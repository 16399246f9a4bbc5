# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Runs module device_certificate on the control node: the fleet CA's key stays there."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge_litestream.appliance.plugins.module_utils.signing_requests import (
    CertificateError,
    check_subject,
    der,
    read_request,
    subject,
)
from ansible_collections.edge_litestream.appliance.plugins.module_utils.written import replace

# ansible-core brings it; a tool that looks at this file alone may do without.
with contextlib.suppress(ImportError):
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
    from cryptography.x509.oid import ExtendedKeyUsageOID

BACKDATE = datetime.timedelta(minutes=5)  # for whoever checks the certificate by a slow clock


def read_authority(certificate_file: str, key_file: str) -> tuple[x509.Certificate, Any]:
    """Read the fleet CA's certificate and private key, which have to belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(Path(certificate_file).read_bytes())
    except ValueError as error:
        raise CertificateError(f"{certificate_file} is no PEM certificate: {error}") from None
    try:
        key: Any = serialization.load_pem_private_key(Path(key_file).read_bytes(), password=None)
    except TypeError:
        raise CertificateError(
            f"{key_file} has a passphrase, which nobody can enter here: give the path of a key without one, "
            "for instance on an encrypted file system, or sign by hand and deliver the certificate"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{key_file} is no PEM private key that can be used") from None
    if der(key.public_key()) != der(certificate.public_key()):
        raise CertificateError(f"{key_file} is not the key of {certificate_file}")
    try:
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        authority = False
    if not authority:
        raise CertificateError(f"{certificate_file} is not a CA's certificate: it lacks CA:TRUE")
    return certificate, key


def sign(
    request: x509.CertificateSigningRequest,
    common_name: str,
    authority: x509.Certificate,
    key: Any,
    days: int,
) -> str:
    """Make a client certificate. Of the request, only the key is in it."""
    now = datetime.datetime.now(datetime.UTC)
    if authority.not_valid_after_utc <= now:
        raise CertificateError(
            f"the CA's certificate expired on {authority.not_valid_after_utc:%Y-%m-%d}: renew it"
        )
    usage = dict.fromkeys(
        [
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ],
        False,
    )
    try:
        known = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
    except x509.ExtensionNotFound:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    public_key = request.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(common_name))
        .issuer_name(authority.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + datetime.timedelta(days=days), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(issuer, critical=False)
    )
    # These two kinds of key have their digest built in.
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()


def write(path: Path, text: str) -> None:
    """Put a text into its file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(str(path), text, 0o644)


class ActionModule(ActionBase):
    """What Ansible loads."""

    _requires_connection = False

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module's documentation lists."""
        super().run(tmp, task_vars)
        _unused, args = self.validate_argument_spec(
            argument_spec={
                "request": {"type": "str", "required": True},
                "public_key": {"type": "str", "required": True, "no_log": False},
                "common_name": {"type": "str", "required": True},
                "ca_certificate": {"type": "path"},
                "ca_key": {"type": "path", "no_log": False},
                "validity_days": {"type": "int", "default": 365},
                "request_dest": {"type": "path"},
            },
            required_one_of=[("ca_key", "request_dest")],
            mutually_exclusive=[("ca_key", "request_dest")],
            required_together=[("ca_certificate", "ca_key")],
        )
        try:
            return provide(dry=self._task.check_mode, **args)
        except (CertificateError, ValueError, OverflowError, OSError) as error:
            name = args["common_name"]
            return {"failed": True, "changed": False, "msg": f"no certificate for '{name}': {error}"}


def provide(
    request: str,
    public_key: str,
    common_name: str,
    ca_certificate: str | None,
    ca_key: str | None,
    validity_days: int,
    request_dest: str | None,
    dry: bool,
) -> dict[str, Any]:
    """Sign a request, or keep it for somebody else to sign."""
    found = read_request(request, public_key)
    if request_dest:
        check_subject(found, common_name)
        text, path = found.public_bytes(serialization.Encoding.PEM).decode(), Path(request_dest)
        changed = not path.is_file() or path.read_text(errors="replace") != text
        if changed and not dry:
            write(path, text)
        return {"changed": changed, "request_dest": request_dest}
    authority, key = read_authority(str(ca_certificate), str(ca_key))
    certificate = sign(found, common_name, authority, key, validity_days)
    return {"changed": True} if dry else {"changed": True, "certificate": certificate}
