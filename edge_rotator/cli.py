"""The command line. A tick that has nothing to do ends here, before anything heavy is imported."""

from __future__ import annotations

import gc
import os
import sys

from edge_rotator import rotation
from edge_rotator.config import DEFAULT_PATH
from edge_rotator.errors import KINDS, RotatorError
from edge_rotator.events import INFO, event

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_PLAIN_ARGUMENTS = 3


def _plain(arguments: list[str]) -> tuple[str, str] | None:
    """Recognise `[--config PATH] due|rotate`, the timer's two calls; None for all else."""
    path = DEFAULT_PATH
    if len(arguments) == _PLAIN_ARGUMENTS and arguments[0] == "--config":
        path = arguments[1]
        arguments = arguments[2:]
    if arguments in (["due"], ["rotate"]):
        return arguments[0], path
    return None


def parser() -> argparse.ArgumentParser:
    """Build the full parser, whose help is also the manual."""
    import argparse

    top = argparse.ArgumentParser(
        prog="edge-rotator",
        description="Fetches short-lived AWS credentials with the key in this device's token "
        "and hands them to Litestream.",
        epilog="Exit codes: 0 done, 2 wrong usage; else the error's own code, see the line "
        "`event=failed` and docs/troubleshooting.",
    )
    top.add_argument(
        "--config", metavar="PATH", default=DEFAULT_PATH, help="configuration (%(default)s)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    rotate = commands.add_parser("rotate", help="fetch and hand over credentials if they are due")
    rotate.add_argument(
        "--force", action="store_true", help="now, whatever schedule and back-off say (not the PIN)"
    )
    rotate.add_argument(
        "--dry-run", action="store_true", help="ask the provider, check the answer, store nothing"
    )
    commands.add_parser("due", help="exit 0 if a tick has work to do, 1 if not")

    status = commands.add_parser(
        "status", help="one screen: exit 0 all well, 1 warning, 2 critical, 3 unknown"
    )
    status.add_argument("--json", action="store_true", help="for machines")

    doctor = commands.add_parser("doctor", help="check the whole chain, a line each with the mend")
    doctor.add_argument(
        "--login", action="store_true", help="log in to the token too (a wrong PIN costs a try)"
    )

    csr = commands.add_parser("csr", help="signing request for the token's key")
    csr.add_argument("--create-key", action="store_true", help="make the key pair if there is none")
    csr.add_argument("--public-key", action="store_true", help="only the public key, as PEM")
    csr.add_argument("--common-name", metavar="NAME", default="", help="the thing's name")
    csr.add_argument("--output", metavar="FILE", default="-", help="where to (%(default)s: stdout)")
    csr.add_argument("--module", metavar="PATH", default="", help="PKCS#11 module")
    csr.add_argument("--token-label", metavar="LABEL", default="", help="the token's label")
    csr.add_argument("--key-label", metavar="LABEL", default="", help="the key's label")
    csr.add_argument("--pin-file", metavar="PATH", default="", help="the PIN, without a newline")
    csr.add_argument("--user", metavar="USER", default="", help="become this user if root")
    csr.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="set for the module"
    )
    return top


def _run(arguments: list[str]) -> int:
    plain = _plain(arguments)
    if plain:
        command, path = plain
        return rotation.due(path) if command == "due" else rotation.rotate(path)
    args = parser().parse_args(arguments)
    if args.command == "rotate":
        if args.dry_run:
            return rotation.dry_run(args.config)
        return rotation.rotate(args.config, force=args.force)
    if args.command == "due":
        return rotation.due(args.config)
    if args.command == "status":
        from edge_rotator import status

        return status.run(args.config, args.json)
    if args.command == "doctor":
        from edge_rotator import doctor

        return doctor.run(args.config, args.login)
    from edge_rotator import csr

    return csr.run(args)


def main(arguments: list[str] | None = None) -> int:
    """Run a command as the process's only work and return its exit code."""
    # A run ends before there is garbage worth looking for, at its end too: a tenth of its cost.
    gc.disable()
    try:
        return _guarded(arguments)
    finally:
        gc.freeze()


def _guarded(arguments: list[str] | None) -> int:
    """Make of every error one line, never a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet = arguments[-1:] == ["due"]
    try:
        return _run(arguments)
    except RotatorError as error:
        if quiet:
            return 0  # cannot tell: let `rotate` say what is wrong
        if error.kind.name == "busy" and _plain(arguments):
            event("skipped", INFO, reason="busy")
            return 0
        rotation.report(error)
        return error.kind.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as exc:
        if quiet:
            return 0
        rotation.report(RotatorError("internal_error", _place(exc)))
        return KINDS["internal_error"].exit_code


def _place(exc: Exception) -> str:
    """Type and innermost place of an exception, without its text."""
    trace = exc.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if not trace:
        return type(exc).__name__
    name = os.path.basename(trace.tb_frame.f_code.co_filename)
    return f"{type(exc).__name__} at {name}:{trace.tb_lineno}"
