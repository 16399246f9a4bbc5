"""`edge-rotator csr`: key pair, signing request and public key, as the role needs them."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from edge_rotator import backend, files, lock, rotation, token
from edge_rotator import config as configuration
from edge_rotator.errors import RotatorError

if TYPE_CHECKING:
    import argparse

    from pkcs11.types import Session

    from edge_rotator.config import Config

_CURVE = "secp256r1"


def _create_key(session: Session, label: str) -> None:
    """Make an EC P-256 key pair in the token; the private half can never be read out.

    Raises `token_failed`.
    """
    import pkcs11
    from pkcs11 import Attribute, KeyType, MechanismFlag
    from pkcs11.util.ec import encode_named_curve_parameters

    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVE)}, local=True
    )
    sign = MechanismFlag.SIGN | MechanismFlag.VERIFY
    # A TPM's key signs and decrypts, or tpm2-pkcs11 does not make it.
    both = sign | MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    for capabilities in (sign, both):
        try:
            # What the module says about the first try would be taken for a failure.
            with backend.Captured():
                parameters.generate_keypair(
                    id=os.urandom(8),
                    label=label,
                    store=True,
                    capabilities=capabilities,
                    public_template={Attribute.PRIVATE: False},
                    private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
                )
        except pkcs11.PKCS11Error as exc:
            failed = f"{type(exc).__name__} {exc}".strip()
        else:
            return
    raise RotatorError("token_failed", f"no key can be made: {failed}")


def _signing_request(session: Session, label: str, common_name: str) -> bytes:
    """Make a PKCS#10 request (PEM) for the EC key with this label, signed by the token."""
    from asn1crypto import csr, keys, pem, x509
    from pkcs11 import Mechanism
    from pkcs11.util.ec import encode_ecdsa_signature

    private = token.find_private_key(session, label)
    if private is None:
        raise RotatorError("key_missing", f"no private key with the label {label}")
    public = token.public_key_info(token.find_public_key(session, label))
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.build({"common_name": common_name}),
            "subject_pk_info": keys.PublicKeyInfo.load(public),
            "attributes": [],
        }
    )
    digest = hashlib.sha256(info.dump()).digest()
    request = csr.CertificationRequest(
        {
            "certification_request_info": info,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": encode_ecdsa_signature(private.sign(digest, mechanism=Mechanism.ECDSA)),
        }
    )
    return bytes(pem.armor("CERTIFICATE REQUEST", request.dump()))


def _public_key(session: Session, label: str) -> bytes:
    """Render the public key (PEM)."""
    from asn1crypto import pem

    key = token.find_public_key(session, label)
    return bytes(pem.armor("PUBLIC KEY", token.public_key_info(key)))


def _made(args: argparse.Namespace, secret: str | None) -> bytes:
    """Make the key if that is asked for; return request or public key."""
    place, label = args.token_label, args.key_label
    with token.open_session(token.find_token(args.module, place), secret, rw=args.create_key) as session:
        if args.create_key:
            if token.find_private_key(session, label) is None:
                _create_key(session, label)
                print(f"created key {label} in {place}", file=sys.stderr)
            else:
                print(f"key {label} exists in {place}", file=sys.stderr)
        if args.public_key:
            return _public_key(session, label)
        return _signing_request(session, label, args.common_name)


def _fill_in(args: argparse.Namespace) -> Config | None:
    """Complete the flags from the configuration, which may be missing if they say everything."""
    complete = args.module and args.token_label and args.key_label
    try:
        config = configuration.load(args.config)
    except RotatorError:
        if not complete:
            raise
        config = None
    for item in args.env:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise RotatorError("config_invalid", f"--env {item}: must be NAME=VALUE")
        os.environ[name] = value
    if config:
        for name, value in config.environment.items():
            os.environ.setdefault(name, value)
        args.module = args.module or config.module
        args.token_label = args.token_label or config.label
        args.key_label = args.key_label or config.key_label
        args.common_name = args.common_name or config.thing_name
        # Flags that name a token may mean another one, whose PIN is not the configuration's.
        args.pin_file = args.pin_file or ("" if complete else config.pin_file)
    args.user = args.user or (config.user if config else "")
    if os.geteuid() == 0 and not args.user:
        raise RotatorError(
            "config_invalid", "--user is needed: as root no module is loaded, name the service's user"
        )
    if not args.public_key and not args.common_name:
        raise RotatorError("config_invalid", "--common-name is needed: the thing's name")
    return config


def run(args: argparse.Namespace) -> int:
    """Do what the flags ask; a flag wins over the configuration."""
    config = _fill_in(args)
    # The PIN is the one that the rotator would try next.
    shared = config if config and args.pin_file == config.pin_file else None
    secret = None
    # The public half is visible without a login, which then costs no PIN try.
    if args.create_key or not args.public_key:
        secret = token.read_pin(args.pin_file)
    files.become(args.user)
    # Before the first installation there is no state directory: nobody to exclude, nowhere to latch.
    installed = config is not None and Path(config.state_directory).is_dir()
    with (
        lock.held(config) if config and installed else nullcontext(),
        rotation.login(shared) if shared and installed and secret else nullcontext(),
    ):
        data = _made(args, secret)
    if args.output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    try:
        files.write_atomic(os.path.abspath(args.output), data, 0o644)
    except OSError as exc:
        raise RotatorError("write_failed", f"{args.output}: {exc.strerror}") from None
    return 0
