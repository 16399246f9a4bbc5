"""The command line. A tick that has nothing to do ends here, before anything heavy is imported."""

from __future__ import annotations

import gc
import os
import sys

from edge_rotator import rotation
from edge_rotator.config import DEFAULT_PATH
from edge_rotator.errors import KINDS, RotatorError, place_of
from edge_rotator.events import NOTICE, event

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


def _run(arguments: list[str]) -> int:
    plain = _plain(arguments)
    if plain:
        command, path = plain
        return rotation.due(path) if command == "due" else rotation.rotate(path)
    from edge_rotator.usage import parser

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
    """Run a command and return its exit code. Without arguments it is the process's only work."""
    if arguments is not None:
        return _guarded(arguments)
    # A run ends before there is garbage worth looking for.
    gc.disable()
    code = _guarded(sys.argv[1:])
    if _plain(sys.argv[1:]):
        # All is written and closed; taking Python apart would cost a tick a tenth more.
        os._exit(code)
    return code


def _guarded(arguments: list[str]) -> int:
    """Make of every error one line, never a traceback."""
    quiet = arguments[-1:] == ["due"]
    try:
        return _run(arguments)
    except RotatorError as error:
        if quiet:
            return 0  # cannot tell: let `rotate` say what is wrong
        if error.kind.name == "busy" and _plain(arguments):
            event("skipped", NOTICE, reason="busy")
            return 0
        rotation.report(error)
        return error.kind.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as exc:
        if quiet:
            return 0
        rotation.report(RotatorError("internal_error", place_of(exc)))
        return KINDS["internal_error"].exit_code
