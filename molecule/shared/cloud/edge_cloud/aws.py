"""AWS's control plane: moto's server, put right where a device or a playbook would notice the difference.

Its packages are those of the control node; /opt/control-node shows them to this machine.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from moto import server
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.config import default_user_config
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.iot import models
from moto.iot.exceptions import InvalidRequestException

from edge_cloud import settings

# When all certificates end that AWS IoT signs.
_END = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


def update_termination_protection(self: CloudFormationResponse) -> ActionResult:
    """Protect a stack that is there, or do so no longer."""
    stack = self.cloudformation_backend.get_stack(self._get_param("StackName"))
    stack.enable_termination_protection = self._get_param("EnableTerminationProtection")
    return ActionResult({"StackId": stack.stack_id})


def update_certificate(self: models.IoTBackend, certificate_id: str, new_status: str) -> None:
    """Give a certificate another status, and note when."""
    certificate = self.describe_certificate(certificate_id)
    certificate.status = new_status
    certificate.last_modified_date = utcnow()


def correct(tls: Path, provider_host: str) -> None:
    """Let AWS IoT sign with its own CA, know certificates as AWS does, and name the lab's provider."""
    # A certificate's id is the SHA-256 of its DER.
    default_user_config["iot"]["use_valid_cert"] = True
    original_certificate, original_endpoint = models.FakeCertificate.__init__, models.FakeEndpoint.__init__

    def read_validity(self: Any, certificate_pem: str, *others: Any, **named: Any) -> None:
        original_certificate(self, certificate_pem, *others, **named)
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        self.validity_not_before = certificate.not_valid_before_utc.replace(tzinfo=None)
        self.validity_not_after = certificate.not_valid_after_utc.replace(tzinfo=None)

    def name_endpoint(self: Any, endpoint_type: str, region_name: str) -> None:
        original_endpoint(self, endpoint_type, region_name)
        if endpoint_type == "iot:CredentialProvider":
            self.endpoint = provider_host

    def create_certificate_from_csr(self: Any, csr: str, set_as_active: bool) -> Any:
        pem = sign(csr, tls / "aws-ca.crt", tls / "aws-ca.key")
        return self.register_certificate(
            pem, ca_certificate_pem=None, set_as_active=set_as_active, status="INACTIVE"
        )

    models.FakeCertificate.__init__ = read_validity  # type: ignore[method-assign]
    models.FakeEndpoint.__init__ = name_endpoint  # type: ignore[method-assign]
    models.IoTBackend.update_certificate = update_certificate  # type: ignore[method-assign]
    CloudFormationResponse.update_termination_protection = update_termination_protection  # type: ignore[attr-defined]
    models.IoTBackend.create_certificate_from_csr = create_certificate_from_csr  # type: ignore[method-assign]


def sign(csr: str, ca_certificate: Path, ca_key: Path) -> str:
    """Return a certificate for the request's key and subject; AWS refuses one that its key did not sign."""
    try:
        request = x509.load_pem_x509_csr(csr.encode())
    except ValueError:
        raise InvalidRequestException("The certificate signing request is not readable") from None
    if not request.is_signature_valid:
        raise InvalidRequestException("The certificate signing request is not signed by its key")
    issuer = x509.load_pem_x509_certificate(ca_certificate.read_bytes())
    key: Any = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    no_usage = (
        *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(issuer.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=2))
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **dict.fromkeys(no_usage, False)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def main(path: Path = settings.CONFIG) -> None:
    """Serve until the process is ended."""
    config = settings.load(path)
    correct(Path(config.tls), config.provider_host)
    server.main(["--host", "0.0.0.0", "--port", config.control_url.rpartition(":")[2]])  # noqa: S104


if __name__ == "__main__":
    main()
