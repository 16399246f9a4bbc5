"""The arguments and the manual that goes with them, written for whoever stands beside the device."""

from __future__ import annotations

import argparse

from edge_rotator.config import DEFAULT_PATH

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
TLS, 30-36 the provider's refusal, 40-46 its answer, 50 clock, 60-69 pycurl,
token and files, 70-74 handing over, 75 another run is busy. `due`, `status`
and `doctor` have their own.
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
Is there anything to do? Cheap enough to be asked every few seconds: the
timer's unit starts a rotation only if so. Prints nothing, touches neither
token nor network.
"""
_DUE_END = """\
exit codes: 0 a rotation or a restart is due, or it cannot be told; 1 nothing
to do.

example:
  edge-rotator due && echo due
"""
_STATUS = """\
One screen: is the device well; how long do credentials and certificate last;
when was the last rotation and when is the next; what failed last and what
fixes it; when did Litestream last sync. Asks neither token nor network, so it
always answers at once.
"""
_STATUS_END = """\
exit codes, as monitoring expects them: 0 all well, 1 warning, 2 critical (no
valid credentials, PIN refused, certificate expired), 3 unknown (cannot read
configuration or state: run it as the service's user or as root).

examples:
  sudo -u edge-rotator edge-rotator status
  sudo -u edge-rotator edge-rotator status --json
"""
_DOCTOR = """\
When `status` is not well and its fix did not help: walks the chain link by
link, from the configuration over pycurl, module, token, key, certificate,
clock, DNS and TLS to S3, Litestream and the restart rule. A line each: ok,
failed with the fix, or skipped. The first failed line is the one to fix.
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

examples:
  sudo edge-rotator csr > device.csr
  sudo edge-rotator csr --create-key --common-name edge01 --user edge-rotator \\
    --module /usr/lib/softhsm/libsofthsm2.so --token-label edge \\
    --key-label device --pin-file /etc/edge-token/pin \\
    --env SOFTHSM2_CONF=/etc/edge-token/softhsm2.conf > device.csr
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser, whose help is also the manual."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="edge-rotator", description=_TOP, epilog=_TOP_END, formatter_class=raw)
    top.add_argument("--config", metavar="PATH", default=DEFAULT_PATH, help="configuration (%(default)s)")
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

    doctor = command("doctor", "check the whole chain, a line each with the fix", _DOCTOR, _DOCTOR_END)
    doctor.add_argument(
        "--login",
        action="store_true",
        help="log in to the token and ask the provider too (a wrong PIN costs a try)",
    )

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
