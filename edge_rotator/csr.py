"""`edge-rotator csr`: key pair, signing request and public key, as the role needs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge_rotator import config as configuration
from edge_rotator import files, pin, rotation, token
from edge_rotator.errors import LATCH, RotatorError
from edge_rotator.files import write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from edge_rotator.config import Config


def _write(output: str, data: bytes) -> None:
    """Write to stdout for `-`, else replace the file."""
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        write_atomic(os.path.abspath(output), data, 0o644)
    except OSError as exc:
        raise RotatorError("write_failed", f"{output}: {exc.strerror}") from None


def _config(path: str, complete: bool) -> Config | None:
    """Load the configuration; it may be missing if the flags say everything."""
    try:
        return configuration.load(path)
    except RotatorError:
        if complete:
            return None
        raise


def _pin_file(args: argparse.Namespace, config: Config | None, complete: bool) -> str:
    """Path of the PIN that is used: the flag's, else the configuration's."""
    return args.pin_file or (config.pin_file if config and not complete else "")


def _pin(args: argparse.Namespace, config: Config | None, complete: bool) -> str | None:
    """Read the PIN, if it is needed and there is one. Raises `pin_refused` while it is latched."""
    if args.public_key and not args.create_key:
        return None  # the public half is visible without a login, which then costs no PIN try
    pin_file = _pin_file(args, config, complete)
    if config and pin_file == config.pin_file:
        rotation.refuse_latched(config)
    return pin.read(pin_file)


def _made(args: argparse.Namespace, place: token.TokenPlace, secret: str | None, name: str) -> bytes:
    """Make the key if that is asked for; return request or public key."""
    with token.open_session(token.find_token(place), secret, rw=args.create_key) as session:
        if args.create_key:
            if token.find_private_key(session, place.key_label) is None:
                token.create_key(session, place.key_label)
                print(f"created key {place.key_label} in {place.label}", file=sys.stderr)
            else:
                print(f"key {place.key_label} exists in {place.label}", file=sys.stderr)
        if args.public_key:
            return token.public_key_pem(session, place.key_label)
        return token.signing_request(session, place.key_label, name)


def _remember(error: RotatorError, config: Config | None, pin_file: str) -> None:
    """Latch a PIN that was refused, if it is the one the rotator would try next."""
    if config and error.kind.retry == LATCH and pin_file == config.pin_file:
        rotation.latch(config)


def run(args: argparse.Namespace) -> int:
    """Do what the flags ask; a flag wins over the configuration."""
    complete = bool(args.module and args.token_label and args.key_label)
    config = _config(args.config, complete)
    place = token.TokenPlace(
        args.module or (config.module if config else ""),
        args.token_label or (config.label if config else ""),
        args.key_label or (config.key_label if config else ""),
    )
    for item in args.env:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise RotatorError("config_invalid", f"--env {item}: must be NAME=VALUE")
        os.environ[name] = value
    if config:
        for name, value in config.environment.items():
            os.environ.setdefault(name, value)
    secret = _pin(args, config, complete)
    common_name = args.common_name or (config.thing_name if config else "")
    if not args.public_key and not common_name:
        raise RotatorError("config_invalid", "--common-name is needed: the thing's name")
    files.become(args.user or (config.user if config else "root"))
    # Before the first installation there is no state directory, and nobody to exclude.
    locked = config is not None and Path(config.state_directory).is_dir()
    held = files.lock(config.state_directory, patient=True) if config and locked else None
    try:
        data = _made(args, place, secret, common_name)
    except RotatorError as error:
        _remember(error, config if locked else None, _pin_file(args, config, complete))
        raise
    finally:
        if held is not None:
            os.close(held)
    _write(args.output, data)
    return 0
