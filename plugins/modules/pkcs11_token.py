#!/usr/bin/python
"""Initialise a token through its PKCS#11 module, as its service user.

In a child of this process, so that the PINs are in nobody's argv or environment: softhsm2-util takes them
from argv, pkcs11-tool takes at most 20 characters from a terminal, and tpm2_ptool hands what opens the TPM's
objects to the argv of tpm2_create.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_token
short_description: Initialise a token through its PKCS#11 module
description:
  - Makes an empty token with a security officer's and a user's PIN, as the user whom its store belongs to.
    That process is the user for good before it loads the PKCS#11 module, and is given PINs only to make the
    token.
  - Finishes what an interrupted run began. A token that is ready is left as it is.
  - Makes no token where an identity was made in one of this label before, and none beside files in the store
    that its user cannot use; a PKCS#11 module would take both for an empty store.
  - Reads the PINs from files, so that no PIN is in anybody's arguments or environment.
options:
  module:
    description: Path of the PKCS#11 module.
    type: path
    required: true
  label:
    description: Label of the token.
    type: str
    required: true
  pin_file:
    description: File that holds the user's PIN and nothing else.
    type: path
    required: true
  so_pin_file:
    description: File that holds the security officer's PIN and nothing else.
    type: path
    required: true
  user:
    description: User whom the store belongs to.
    type: str
    required: true
  store:
    description: Directory that holds the token's files.
    type: path
    required: true
  certificate_file:
    description: Where the device's certificate is, if there is one, and the marker of its identity beside it.
    type: path
    required: true
  environment:
    description: Environment variables that the module needs.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Whether check mode tells what would change.
    support: full
author: Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: The token is ready
  edge_litestream.appliance.pkcs11_token:
    module: /usr/lib/softhsm/libsofthsm2.so
    label: edge
    pin_file: /etc/edge-token/pin
    so_pin_file: /etc/edge-token/so-pin
    user: edge-rotator
    store: /var/lib/edge-token
    certificate_file: /etc/edge-identity/device.crt
    environment:
      SOFTHSM2_CONF: /etc/edge-token/softhsm2.conf
"""

RETURN = r""" # """

import contextlib
import ctypes
import json
import os
import pwd
import resource
import select
import signal
import stat
from collections.abc import Callable, Iterator
from ctypes import c_ulong
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge_litestream.appliance.plugins.module_utils import descriptors, identity

PIN_LENGTH = range(4, 129)  # what SoftHSM and a TPM take
USER_PIN_INITIALIZED = 0x8  # CK_TOKEN_INFO.flags
TOKEN_INITIALIZED = 0x400
RW_SERIAL_SESSION = 0x6
SECURITY_OFFICER = 0
ANSWER_WITHIN = 300  # s; a slow TPM needs a minute to make its primary key
MOST_NAMES = 5  # of files, in a message
LONGEST_ERROR = 300  # characters, so that the answer is written and read at once, however it is escaped


class TokenInfo(ctypes.Structure):
    """The beginning of CK_TOKEN_INFO, and room for the rest."""

    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("maker", ctypes.c_char * 64),
        ("flags", c_ulong),
        ("rest", ctypes.c_char * 256),
    )


class TokenError(Exception):
    """What stands in the way, as one sentence with what to do."""


class Module:
    """A PKCS#11 module; a function that fails raises TokenError with its name and return value."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.library = ctypes.CDLL(path)

    def call(self, function: str, *arguments: object) -> None:
        """Call C_`function`."""
        code = getattr(self.library, f"C_{function}")(*arguments)
        if code:
            raise TokenError(f"{self.path}: C_{function} failed with 0x{code & 0xFFFFFFFF:X}")

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Between C_Initialize and C_Finalize; a module shows a new token after a new start."""
        self.call("Initialize", None)
        try:
            yield
        finally:
            self.call("Finalize", None)

    def tokens(self) -> list[tuple[int, str, int]]:
        """List slot, label and flags of every token."""
        count = c_ulong(0)
        self.call("GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
        slots = (c_ulong * count.value)()
        self.call("GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        found = []
        for slot in slots[: count.value]:
            info = TokenInfo()
            self.call("GetTokenInfo", c_ulong(slot), ctypes.byref(info))
            found.append((slot, info.label.decode(errors="replace").rstrip(), info.flags))
        return found

    def initialise_token(self, slot: int, label: str, so_pin: bytes) -> None:
        """Make an empty token with a security officer's PIN."""
        padded = label.encode().ljust(32)
        self.call("InitToken", c_ulong(slot), so_pin, c_ulong(len(so_pin)), padded)

    def initialise_pin(self, slot: int, pin: bytes, so_pin: bytes) -> None:
        """Give the user a PIN, as the security officer."""
        session = c_ulong(0)
        self.call("OpenSession", c_ulong(slot), c_ulong(RW_SERIAL_SESSION), None, None, ctypes.byref(session))
        self.call("Login", session, c_ulong(SECURITY_OFFICER), so_pin, c_ulong(len(so_pin)))
        self.call("InitPIN", session, pin, c_ulong(len(pin)))


def read_pin(path: Path) -> bytes:
    """Read a PIN from its file."""
    pin = path.read_text(encoding="ascii")
    if not pin.isprintable() or len(pin) not in PIN_LENGTH:
        raise TokenError(
            f"{path} holds {len(pin)} characters, or a line break: "
            "write 4 to 128 printable characters and nothing else into it, or remove it for a new PIN"
        )
    return pin.encode()


def check_store(store: str, user: str) -> None:
    """Raise TokenError where there is something in the store that its user cannot use."""
    try:
        owner = pwd.getpwnam(user).pw_uid
        top = descriptors.open_directory(store)
    except (KeyError, FileNotFoundError):
        return
    wrong = []
    try:
        for directory, where, names in descriptors.below(top, store, recurse=True):
            found = [(where, os.fstat(directory))]
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    found.append((f"{where}/{name}", info))
            for path, info in found:
                needed = stat.S_IRWXU if stat.S_ISDIR(info.st_mode) else stat.S_IRUSR | stat.S_IWUSR
                if info.st_uid != owner or info.st_mode & needed != needed:
                    wrong.append(path)
    finally:
        os.close(top)
    if wrong:
        shown = ", ".join(ascii(one)[1:-1] for one in wrong[:MOST_NAMES]) + ", …" * (len(wrong) > MOST_NAMES)
        # The whole directory: chown follows no link in it, as it would in the path of one file.
        raise TokenError(
            f"{user} cannot use {len(wrong)} files of the token's store, so the token would seem to be gone: "
            f"{shown}. Give them back: "
            f"chown --recursive --no-dereference {user} {store} && chmod --recursive u+rwX {store}"
        )


def check_identity(label: str, certificate_file: str) -> None:
    """Raise IdentityError where an identity was made in a token of this label."""
    directory = os.path.dirname(certificate_file)
    marker = identity.read(directory)
    if any(one["token"] == label for one in marker or []) or (
        marker is None and os.path.lexists(certificate_file)
    ):
        raise identity.lost(f"there is no token {label!r} that can be used", directory, certificate_file)


def as_user(user: str, work: Callable[[], bool]) -> bool:
    """Do `work` in a child that is `user` for good, and return its result.

    A store names libraries that its module loads, so whoever owns the store runs code there.
    Raises TokenError with the work's own error, or saying how the child failed to answer.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise TokenError(f"there is no user {user}") from None
    answers, answer_to = os.pipe()
    child = os.fork()
    if not child:
        try:
            answer_from_child(answer_to, entry, work)
        finally:
            os._exit(1)
    os.close(answer_to)
    try:
        answered = select.select([answers], [], [], ANSWER_WITHIN)[0]
        line = os.read(answers, select.PIPE_BUF) if answered else b""
    finally:
        os.close(answers)
        os.kill(child, signal.SIGKILL)  # what it had to do is done, or too late
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not line:
        why = f"ended with {code}" if answered else f"did not answer within {ANSWER_WITHIN} s"
        raise TokenError(f"the process that works with the token as {user} {why}")
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, str) and answer.isprintable():
        raise TokenError(answer)
    if not isinstance(answer, bool):
        raise TokenError(f"the process that works with the token as {user} gave no valid answer")
    return answer


def answer_from_child(answer_to: int, entry: pwd.struct_passwd, work: Callable[[], bool]) -> None:
    """Become the user, without root's terminal and open files; do the work; write result or error as JSON."""
    answer: bool | str
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.closerange(3, answer_to)
        os.closerange(answer_to + 1, os.sysconf("SC_OPEN_MAX"))
        os.umask(0o077)
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        answer = work()
    except Exception as error:
        answer = (str(error) or repr(error))[:LONGEST_ERROR]
    os.write(answer_to, json.dumps(answer).encode())


def initialise(module: Module, label: str, pin: bytes, so_pin: bytes, dry: bool = False) -> bool:
    """Bring the token to where its user can log in; tell whether there was anything to do."""
    with module.started():
        tokens = module.tokens()
        named = [flags for _unused, name, flags in tokens if name == label and flags & TOKEN_INITIALIZED]
        if len(named) > 1:
            raise TokenError(f"{len(named)} tokens are labelled {label!r}: remove or rename all but one")
        if named and named[0] & USER_PIN_INITIALIZED:
            return False
        if dry:
            return True
        if not named:
            free = [slot for slot, _unused, flags in tokens if not flags & TOKEN_INITIALIZED]
            if not free:
                raise TokenError(f"{module.path} has no token labelled {label!r} and no slot for a new one")
            module.initialise_token(free[0], label, so_pin)
    with module.started():
        slots = [slot for slot, name, _unused in module.tokens() if name == label]
        if len(slots) != 1:
            raise TokenError(f"{len(slots)} tokens are labelled {label!r} after its initialisation")
        module.initialise_pin(slots[0], pin, so_pin)
    return True


def main() -> None:
    """Make the token if it is not there."""
    module = AnsibleModule(
        {
            "module": {"type": "path", "required": True},
            "label": {"type": "str", "required": True},
            "pin_file": {"type": "path", "required": True, "no_log": False},
            "so_pin_file": {"type": "path", "required": True, "no_log": False},
            "user": {"type": "str", "required": True},
            "store": {"type": "path", "required": True},
            "certificate_file": {"type": "path", "required": True},
            "environment": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    # The PINs come into this process's memory: it dumps no core, and neither does what it starts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    params, dry = module.params, module.check_mode
    try:
        check_store(params["store"], params["user"])
    except (TokenError, descriptors.UnsafeError, OSError) as error:
        module.fail_json(msg=str(error))
    if dry and not all(Path(params[name]).exists() for name in ("module", "pin_file", "so_pin_file")):
        module.exit_json(changed=True)

    def bring_about(pin: bytes = b"", so_pin: bytes = b"", dry: bool = True) -> bool:
        os.environ.update({name: str(value) for name, value in params["environment"].items()})
        return initialise(Module(params["module"]), params["label"], pin, so_pin, dry)

    try:
        # Looking needs no PIN, and only a child that has to make the token is given any.
        changed = as_user(params["user"], bring_about)
        if changed:
            check_identity(params["label"], params["certificate_file"])
        pin, so_pin = read_pin(Path(params["pin_file"])), read_pin(Path(params["so_pin_file"]))
        if changed and not dry:
            changed = as_user(params["user"], lambda: bring_about(pin, so_pin, dry=False))
    except (TokenError, identity.IdentityError, descriptors.UnsafeError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
