"""Time: the clocks we go by, and the two time formats the provider uses.

A Raspberry Pi has no RTC, so the wall clock may jump by decades. Within one boot everything is
timed by the boot clock, which never jumps; the wall clock serves people, the provider and the time
between two boots. Own conversions, since the library's cost more to import than the whole tick.
"""

from __future__ import annotations

import re
import time

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Compiled at first use: most ticks need neither.
_ISO = r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(?:Z|\+00:?00)"
_HTTP = r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT"
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Clock:
    """One reading of all clocks, in seconds; `boot_id` names the boot that `boot` counts from."""

    __slots__ = ("boot", "boot_id", "wall")

    def __init__(self, wall: float, boot: float, boot_id: str) -> None:
        self.wall = wall
        self.boot = boot
        self.boot_id = boot_id

    @property
    def offset(self) -> float:
        """Wall clock minus boot clock: constant within a boot unless somebody sets the clock."""
        return self.wall - self.boot


def read_clock() -> Clock:
    """Read the clocks now. Where the boot id cannot be read it is empty."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot_id = file.read().strip()
    except OSError:
        boot_id = ""
    return Clock(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)


def _epoch(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Seconds since 1970 of a UTC date; None when there is no such date."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not (1970 <= year <= 9999 and 1 <= month <= 12):
        return None
    last = 28 if month == 2 and not leap else _MONTH_DAYS[month - 1]
    if not (1 <= day <= last and hour < 24 and minute < 60 and second <= 60):
        return None
    # Days before the year, counted in years that start in March.
    shifted = year - (month < 3)
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719468
    return days * 86400 + hour * 3600 + minute * 60 + second


def parse_iso(text: str) -> int | None:
    """Seconds since 1970 of `2018-01-18T09:18:06Z` (fractions cut off); None if it is not one."""
    match = re.fullmatch(_ISO, text, re.ASCII)
    return _epoch(*(int(part) for part in match.groups())) if match else None


def parse_http(text: str) -> int | None:
    """Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`; None if it is not one."""
    match = re.fullmatch(_HTTP, text, re.ASCII)
    if not match or match[2] not in _MONTHS:
        return None
    month = _MONTHS.index(match[2]) + 1
    return _epoch(int(match[3]), month, int(match[1]), int(match[4]), int(match[5]), int(match[6]))


def format_iso(epoch: float) -> str:
    """`2018-01-18T09:18:06Z` of seconds since 1970, cut down to the whole second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
