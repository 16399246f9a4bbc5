#!/usr/bin/python3
"""Initialise a SoftHSM token as its service user.

The PIN goes through a terminal, never through argv or environment:
softhsm2-util reads PINs from its command line or from a terminal; only the second keeps them out of /proc.
Prints "initialised" when it made a token and "present" when the label was there already.
"""

import argparse
import os
import pathlib
import pty
import pwd
import secrets
import select
import subprocess
import time

TIMEOUT_S = 30
PIN_LENGTH = range(4, 256)  # what SoftHSM takes


def become(user: str) -> None:
    """Drop from root to `user`, so that the store's files belong to it."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.umask(0o077)


def token_exists(label: str) -> bool:
    """Tell whether a token of that label is in the store."""
    shown = subprocess.run(
        ["/usr/bin/softhsm2-util", "--show-slots"], check=True, capture_output=True, text=True
    ).stdout
    return any(
        line.strip().startswith("Label:") and line.split(":", 1)[1].strip() == label
        for line in shown.splitlines()
    )


def initialise(label: str, pin: str) -> str:
    """Run softhsm2-util on a pseudo terminal and answer its four questions; return what it printed."""
    so_pin = secrets.token_hex(12)  # of no use with SoftHSM, whose PIN cannot lock: not kept
    answers = [so_pin, so_pin, pin, pin]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(  # noqa: S606 - no shell is wanted
            "/usr/bin/softhsm2-util",
            ["softhsm2-util", "--init-token", "--free", "--label", label],
        )
    seen, pending = "", ""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                chunk = os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the kernel's way to say that the other end closed
                break
            seen, pending = seen + chunk, pending + chunk
            if pending.rstrip().endswith(":"):
                if not answers:  # it asks again: it did not like what it got
                    break
                time.sleep(0.1)  # the tool drops what was typed before it switched echo off
                os.write(terminal, (answers.pop(0) + "\n").encode())
                pending = ""
    finally:
        os.close(terminal)  # whatever still waits for an answer ends by SIGHUP
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0 or answers:
        raise SystemExit(f"softhsm2-util --init-token ended with {status}: {seen.strip()}")
    return seen


def main() -> None:
    """Read the arguments, make the token if it is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label", required=True)
    parser.add_argument("--pin-file", required=True, type=pathlib.Path)
    parser.add_argument("--user", required=True)
    parser.add_argument("--conf", required=True)
    args = parser.parse_args()
    pin = args.pin_file.read_text(encoding="ascii")
    if not pin.isascii() or not pin.isprintable() or len(pin) not in PIN_LENGTH:
        raise SystemExit(
            f"{args.pin_file} holds {len(pin)} characters, or a line break: "
            "write 4 to 255 printable characters and nothing else into it, or remove it for a new PIN"
        )
    become(args.user)
    os.environ["SOFTHSM2_CONF"] = args.conf
    if token_exists(args.label):
        print("present")
        return
    initialise(args.label, pin)
    if not token_exists(args.label):
        raise SystemExit(f"no token labelled {args.label!r} after softhsm2-util --init-token")
    print("initialised")


if __name__ == "__main__":
    main()
