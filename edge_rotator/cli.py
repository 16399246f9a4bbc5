"""The command line: what each command is for, and one line for every error, never a traceback."""

from __future__ import annotations

import argparse
import os
import re
import sys
from functools import partial

from edge_rotator import config as configuration
from edge_rotator import rotation, schedule
from edge_rotator.clock import read_clock
from edge_rotator.errors import KINDS, NOTICE, RotatorError, event, place_of

_TOP = """\
Fetches short-lived AWS credentials with the key in this device's token and
hands them to Litestream. A timer runs it; by hand you look, check and force:

  edge-rotator status          is this device well, and if not, what fixes it
  edge-rotator doctor          check the whole chain link by link
  edge-rotator rotate --force  fetch credentials now

One line per event, `event=failed` with its fix, is in the journal:
  sudo journalctl --no-pager --lines=200 --unit=edge-rotator.service
"""
_TOP_END = """\
Exit codes are the error's class and never change: 0 done, 1 a fault in this
program, 2 wrong usage, 3 configuration, 4 wrong user, 10-15 network, 20-23
TLS, 24 the proxy, 30-36 the provider's refusal, 40-46 its answer, 50 clock,
60-69 pycurl, token and files, 70-74 handing over, 75 another run is busy, 76
and does not end, 77-78 timer and unit, 79 S3. `due`, `status` and `doctor`
have their own.
"""
_ROTATE = """\
One tick: if credentials are due, fetch them, check them, replace the file and
make Litestream use them. If they are not, do nothing and say nothing. Good
credentials are never replaced by a failure.

Run it as the service does, never as root: the PIN is the service's alone.
  sudo systemctl --no-pager start edge-rotator.service        as the timer does
  sudo systemctl --no-pager start edge-rotator-force.service  due or not
"""
_ROTATE_END = """\
exit codes: 0 done or not due; else the class of the error (see edge-rotator
--help). The line `event=failed` on stderr, or in the journal, names it, with
the fix and when the next try is.

example, after fixing an IoT policy, without waiting for the next try:
  sudo systemctl --no-pager start edge-rotator-force.service
  sudo journalctl --no-pager --lines=200 --unit=edge-rotator-force.service
"""
_DUE = """\
Is there anything to do? Reads /run/edge-rotator/next, which says when to run
next and which file has to exist until then, as the timer's unit does by
itself before it starts a rotation. Prints nothing, changes nothing, touches
neither token nor network.
"""
_DUE_END = """\
exit codes: 0 a rotation or a restart is due, or it cannot be told; 1 nothing
to do.

example:
  edge-rotator due && echo due
"""
_STATUS = """\
One screen: is the device well; how long do credentials and certificate last;
when was the last rotation, when is the next, does the timer tick; what failed
last and what fixes it; when did Litestream last sync. Asks neither token nor
network, so it always answers at once.
"""
_STATUS_END = """\
exit codes, as monitoring expects them: 0 all well, 1 warning, 2 critical (no
valid credentials, PIN refused, certificate expired, no ticks), 3 unknown
(cannot read configuration or state: run it as the service's user or as root).

examples:
  sudo -u edge-rotator edge-rotator status
  sudo -u edge-rotator edge-rotator status --json
"""
_METRICS = """\
Writes the metrics for node_exporter's textfile collector to the file that
service.metrics_file names. A timer of its own runs it once a minute where
such a file is wanted.
"""
_METRICS_END = """\
exit codes: 0 done; 3 no file is named; 70 it cannot be written.

example, as root:
  systemctl start edge-rotator-metrics.service
"""
_DOCTOR = """\
When `status` is not well and its fix did not help: walks the chain link by
link, from the configuration over timer, pycurl, module, token, key,
certificate, clock, DNS and TLS to S3, Litestream and the restart rule. A line
each: ok, failed with the fix, or skipped. The first failed line is the one to
fix.
Every check is bounded; all take seconds, at worst some minutes.

No PIN is used, unless you add --login: then the token is logged in to and the
provider asked for credentials that are thrown away. A wrong PIN costs one of
the token's tries (a TPM has few), so not until everything before it is ok. A
PIN that was refused before is not tried again until its file changes.
"""
_DOCTOR_END = """\
exit codes: 0 nothing failed, 1 something did.

examples:
  sudo -u edge-rotator edge-rotator doctor
  sudo edge-rotator doctor --login   (root reads the PIN, then gives root up)
"""
_CSR = """\
For enrolment: prints a signing request for the key in the token. With
--create-key it makes the key first if the token has none with that label; the
private half never leaves the token. With --public-key it prints the public
key only, which needs no PIN. What the configuration says can be given as
flags, before there is a configuration.
"""
_CSR_END = """\
exit codes: 0 done; else the class of the error (see edge-rotator --help).

examples, as root:
  edge-rotator csr > device.csr
  edge-rotator csr --create-key --common-name edge01 --user edge-rotator \\
    --module /usr/lib/softhsm/libsofthsm2.so --token-label edge \\
    --key-label device --pin-file /etc/edge-token/pin \\
    --env SOFTHSM2_CONF=/etc/edge-token/softhsm2.conf > device.csr
"""
_REPORT = """\
Puts a report, read from standard input, below the thing's own prefix in the
bucket, with the credentials at hand. A device that pulls tells there how it
went, for people who cannot reach it.
"""
_REPORT_END = """\
exit codes: 0 done; else the class of the error (see edge-rotator --help).

example, as root:
  edge-rotator report pull/last.json < /var/lib/edge-pull/last.json
"""
_REPORT_NAME = re.compile(r"[a-z]+/[a-z]+\.json")
_REPORT_MAX = 65536


def _report_name(text: str) -> str:
    """Take a name that is no replica's."""
    if not _REPORT_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like pull/last.json")
    return text


def parser() -> argparse.ArgumentParser:
    """Build the parser, whose help is also the manual."""
    # As wide as the texts are; by default each parser asks the terminal, which costs a rotation 3 ms.
    raw = partial(argparse.RawDescriptionHelpFormatter, width=78)
    top = argparse.ArgumentParser(prog="edge-rotator", description=_TOP, epilog=_TOP_END, formatter_class=raw)
    top.add_argument(
        "--config", metavar="PATH", default=configuration.DEFAULT_PATH, help="configuration (%(default)s)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, description: str, end: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=description, epilog=end, formatter_class=raw)

    rotate = command("rotate", "fetch and hand over credentials if they are due", _ROTATE, _ROTATE_END)
    rotate.add_argument(
        "--force",
        action="store_true",
        help="now, whatever schedule and back-off say; a refused PIN still holds",
    )
    rotate.add_argument(
        "--dry-run", action="store_true", help="ask the provider, check the answer, store nothing"
    )
    command("due", "tell by the exit code if there is anything to do", _DUE, _DUE_END)

    status = command("status", "is this device well? one screen", _STATUS, _STATUS_END)
    status.add_argument("--json", action="store_true", help="for machines")

    command("metrics", "write the metrics for node_exporter", _METRICS, _METRICS_END)

    doctor = command("doctor", "check the whole chain, a line each with the fix", _DOCTOR, _DOCTOR_END)
    doctor.add_argument(
        "--login",
        action="store_true",
        help="log in to the token and ask the provider too (a wrong PIN costs a try)",
    )

    report = command("report", "put a report below the thing's prefix in S3", _REPORT, _REPORT_END)
    report.add_argument("name", metavar="NAME", type=_report_name, help="like pull/last.json")

    csr = command("csr", "key pair and signing request for enrolment", _CSR, _CSR_END)
    for flag, metavar, text in (
        ("--common-name", "NAME", "the thing's name, for the request"),
        ("--module", "PATH", "PKCS#11 module"),
        ("--token-label", "LABEL", "the token's label"),
        ("--key-label", "LABEL", "the key's label"),
        ("--pin-file", "PATH", "file with the PIN, without a newline; none for a token without PIN"),
        ("--user", "USER", "started as root, become this user before the module is loaded"),
    ):
        csr.add_argument(flag, metavar=metavar, default="", help=text)
    csr.add_argument("--output", metavar="FILE", default="-", help="where to (%(default)s is stdout)")
    csr.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="set for the module; repeatable"
    )
    csr.add_argument("--create-key", action="store_true", help="make an EC P-256 key pair if there is none")
    csr.add_argument("--public-key", action="store_true", help="only the public key, as PEM")
    return top


def _due(path: str) -> int:
    """Return 0 if there is something to do, 1 if not; what cannot be told is something to do."""
    try:
        return 0 if schedule.is_due(configuration.as_user(path).directory, read_clock().boot) else 1
    except Exception:
        return 0  # `rotate` says what is wrong


def _run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if args.command == "due":
        return _due(args.config)
    if args.command == "rotate":
        return rotation.dry_run(args.config) if args.dry_run else rotation.rotate(args.config, args.force)
    if args.command == "status":
        from edge_rotator import status

        return status.run(args.config, args.json)
    if args.command == "metrics":
        from edge_rotator import metrics

        return metrics.run(args.config)
    if args.command == "doctor":
        from edge_rotator import doctor

        return doctor.run(args.config, args.login)
    if args.command == "report":
        from edge_rotator import s3

        return s3.report(args.config, args.name, sys.stdin.buffer.read(_REPORT_MAX))
    from edge_rotator import csr

    return csr.run(args)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; make of every error one line."""
    args = parser().parse_args(arguments)
    # Not the caller's: a lock file that the service's user may not open would end all rotations.
    os.umask(0o027)
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except RotatorError as error:
        if error.kind.name == "busy" and args.command == "rotate" and not (args.force or args.dry_run):
            event("skipped", NOTICE, reason="busy")
            return 0
        rotation.report(error)
        return error.kind.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Who reads has seen enough, as with `| head`; what Python still holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as exc:
        rotation.report(RotatorError("internal_error", place_of(exc)))
        return KINDS["internal_error"].exit_code
