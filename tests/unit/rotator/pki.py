"""Throw-away certificate authorities for the tests."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
_USES = (
    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
    "decipher_only",
)  # fmt: skip
_NONE = dict.fromkeys(_USES, False)
CA_USAGE = x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **_NONE)
SIGNING_USAGE = x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **_NONE)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authority:
    """A CA whose certificate is at `path`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.path = directory / f"{name}.pem"
        self.name = name
        self.path.write_bytes(self.sign(name, self.key.public_key(), ca=True))

    def sign(
        self,
        common: str,
        public_key: ec.EllipticCurvePublicKey,
        names: tuple[str, ...] = (),
        ca: bool = False,
        start: datetime.datetime | None = None,
        days: float = 30,
    ) -> bytes:
        """Issue a certificate (PEM)."""
        start = start or now() - DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common))
            .issuer_name(_name(self.name))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + days * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            # Python 3.13 refuses a chain without these identifiers, and a CA without its key usage.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .add_extension(CA_USAGE if ca else SIGNING_USAGE, critical=True)
        )
        if names:
            alternative = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
            builder = builder.add_extension(alternative, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign_request(self, request: bytes, days: float = 30) -> bytes:
        """Issue a certificate for a CSR (PEM) whose signature holds."""
        loaded = x509.load_pem_x509_csr(request)
        assert loaded.is_signature_valid
        key = loaded.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        common = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return self.sign(str(common), key, days=days)

    def server(
        self, directory: Path, host: str, start: datetime.datetime | None = None, days: float = 30
    ) -> tuple[Path, Path]:
        """Issue a server certificate; return the paths of certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        stem = directory / f"{self.name}-{host}-{days}-{start.year if start else 0}"
        certificate, private = stem.with_suffix(".crt"), stem.with_suffix(".key")
        certificate.write_bytes(self.sign(host, key.public_key(), (host,), start=start, days=days))
        private.write_bytes(key_pem(key))
        return certificate, private


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
