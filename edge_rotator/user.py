"""Run as the service's user: a token's files made by root would lock that user out."""

from __future__ import annotations

import os

from edge_rotator.errors import RotatorError


def refuse_root(user: str) -> None:
    """Raise `wrong_user` if we are root and `user` is not."""
    if os.geteuid() == 0 and user != "root":
        raise RotatorError("wrong_user", f"started as root, but service.user is {user}")


def become(user: str) -> None:
    """If we are root, become `user` for good. Raises `wrong_user` if there is no such user."""
    if os.geteuid() != 0 or user == "root":
        return
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise RotatorError("wrong_user", f"there is no user {user}") from None
    os.initgroups(user, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
