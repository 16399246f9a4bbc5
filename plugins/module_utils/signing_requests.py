# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""What a certificate signing request has to be before anybody signs it."""

from __future__ import annotations

import contextlib
from typing import Any

# ansible-core brings it; a tool that looks at this file alone may do without.
with contextlib.suppress(ImportError):
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import NameOID

MAX_REQUEST = 16384  # characters; a request for an RSA key of 4096 bits has 1,700
MIN_RSA_BITS = 2048


class CertificateError(Exception):
    """What stands in the way, as one sentence with what to do."""


def der(key: Any) -> bytes:
    """Encode a public key, for comparison."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, spki))


def strong(key: Any) -> bool:
    """Whether a device's key is of a kind that AWS IoT takes and nobody can guess."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS


def read_request(text: str, public_key: str | None = None) -> x509.CertificateSigningRequest:
    """Read a request that a device wrote. It has to be signed with its own key, and that is the token's."""
    if len(text) > MAX_REQUEST:
        raise CertificateError(f"the request has {len(text)} characters, more than {MAX_REQUEST}")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        key: Any = request.public_key()
        token: Any = serialization.load_pem_public_key(public_key.encode()) if public_key else key
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateError(f"the request or the token's public key cannot be read: {error}") from None
    if not strong(key):
        raise CertificateError(
            f"the request's key is neither EC P-256 nor RSA of {MIN_RSA_BITS} bits or more"
        )
    if not signed:
        raise CertificateError("the request is not signed with its own key")
    if der(key) != der(token):
        raise CertificateError("the request is for another key than the token's")
    return request


def check_subject(request: x509.CertificateSigningRequest, common_name: str) -> None:
    """Refuse a request by which another CA, which takes what it says, would certify more than this name."""
    try:
        more = [f"extension {extension.oid.dotted_string}" for extension in request.extensions]
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        more = ["extensions that cannot be read"]
    if request.subject != subject(common_name) or more:
        told = ", ".join([f"the subject '{request.subject.rfc4514_string()}'", *more])
        raise CertificateError(
            f"the request asks for {told}, instead of 'CN={common_name}' alone: "
            "if the thing has a new name, remove device.csr on the device for a new request"
        )


def subject(common_name: str) -> x509.Name:
    """Make the only name that a device's certificate has."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
