"""Time: the clocks we go by, and the time format of the provider's and Litestream's JSON.

A Raspberry Pi has no clock that runs without power, so the wall clock may jump by decades. Within
one boot everything is timed by the boot clock, which never jumps; the wall clock serves people, the
provider and Litestream.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(NamedTuple):
    """One reading of both clocks, in seconds: since 1970, and since the machine booted."""

    wall: float
    boot: float

    @property
    def offset(self) -> float:
        """Wall clock minus boot clock: constant within a boot unless somebody sets the clock."""
        return self.wall - self.boot


def read_clock() -> Clock:
    """Read the clocks now."""
    return Clock(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def parse_iso(text: str, local: bool = False) -> float | None:
    """Seconds since 1970 of `2018-01-18T09:18:06Z`, if `local` of `…+01:00` too; None of anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    zone = moment.utcoffset()
    if zone is None or (zone and not local) or moment < _EPOCH:
        return None
    return (moment - _EPOCH).total_seconds()


def format_iso(epoch: float) -> str:
    """`2018-01-18T09:18:06Z` of seconds since 1970, cut down to the whole second."""
    # Not datetime.fromtimestamp: on 32-bit Arm it ends in 2038, and a certificate of AWS in 2049.
    moment = _EPOCH + timedelta(seconds=epoch // 1)
    return moment.isoformat().replace("+00:00", "Z")
