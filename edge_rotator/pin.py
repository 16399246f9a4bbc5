"""The PIN: found as a path, read only where python-pkcs11 needs it, never shown."""

from __future__ import annotations

import os

from edge_rotator.errors import RotatorError

_LONGEST = 256


def _load(pin_file: str) -> tuple[str, bytes]:
    path = pin_file
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if directory and os.path.exists(f"{directory}/pin"):
        path = f"{directory}/pin"
    try:
        with open(path, "rb") as file:
            pin = file.read(_LONGEST + 1)
    except OSError as exc:
        raise RotatorError("pin_unreadable", f"{path}: {exc.strerror}") from None
    # The unit's credential is a copy of the file, a tab where there is none: the file is what to fix.
    if pin[-1:] in (b"\n", b"\r"):
        raise RotatorError("pin_unreadable", f"{pin_file} ends with a newline, which is not the PIN's")
    if not 1 <= len(pin) <= _LONGEST or not all(0x20 <= byte < 0x7F for byte in pin):
        detail = f"{pin_file} must exist and hold 1 to {_LONGEST} printable ASCII characters"
        raise RotatorError("pin_unreadable", detail)
    return path, pin


def find(pin_file: str) -> str:
    """Path of the file that holds the PIN: systemd's credential `pin`, else `pin_file`.

    Empty for a token without PIN. Raises `pin_unreadable` unless it holds a PIN and nothing else.
    """
    return _load(pin_file)[0] if pin_file else ""


def read(pin_file: str) -> str | None:
    """Read the PIN itself from the same place; None for a token without one."""
    import resource

    # A module that crashes must not put the PIN into a core dump.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _load(pin_file)[1].decode("ascii") if pin_file else None


def in_memory(pin: str) -> str:
    """Put the PIN into a file that is nowhere but in this process; return its path."""
    import ctypes

    # Having changed its user, the process may not look into its own /proc unless it says so.
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE
    handle = os.memfd_create("pin", os.MFD_CLOEXEC)
    os.write(handle, pin.encode("ascii"))
    return f"/proc/self/fd/{handle}"
