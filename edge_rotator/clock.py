"""Time: the clocks we go by, and the two time formats the provider uses.

A Raspberry Pi has no RTC, so the wall clock may jump by decades. Within one boot everything is
timed by the boot clock, which never jumps; the wall clock serves people, the provider and the time
between two boots. Own conversions, since the library's cost more to import than the whole tick.
"""

from __future__ import annotations

import time

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
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


# In a container a unit with a /proc of its own would read the host's boot id, and a shell the container's;
# the copy that systemd-tmpfiles makes at boot is one for both.
BOOT_ID_FILES = ("/run/edge-rotator/boot-id", "/proc/sys/kernel/random/boot_id")

_boot_id: list[str] = []  # read once: no process outlives its boot


def _read_boot_id() -> str:
    for path in BOOT_ID_FILES:
        try:
            with open(path, "rb") as file:
                text = file.read(64).decode("ascii").replace("-", "").strip()
        except (OSError, ValueError):
            continue
        if text:
            return text
    return ""


def read_clock() -> Clock:
    """Read the clocks now. Where the boot id cannot be read it is empty."""
    if not _boot_id:
        _boot_id.append(_read_boot_id())
    return Clock(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot_id[0])


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _epoch(*parts: str) -> int | None:
    """Seconds since 1970 of a UTC date, year to second in digits; None when there is no such."""
    if not all(map(_digits, parts)):
        return None
    year, month, day, hour, minute, second = map(int, parts)
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
    for zone in ("Z", "+00:00", "+0000"):
        if text.endswith(zone):
            text, dot, fraction = text.removesuffix(zone).partition(".")
            break
    else:
        return None
    if dot and not (_digits(fraction) and len(fraction) <= 9):
        return None
    if len(text) != 19 or text[4::3] != "--T::":
        return None
    return _epoch(text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:])


def parse_http(text: str) -> int | None:
    """Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`; None if it is not one."""
    words = text.split(" ")
    if len(words) != 6 or len(text) != 29 or words[2] not in _MONTHS or words[5] != "GMT":
        return None
    time_of_day = words[4].split(":")
    if len(time_of_day) != 3:
        return None
    return _epoch(words[3], str(_MONTHS.index(words[2]) + 1), words[1], *time_of_day)


def format_iso(epoch: float) -> str:
    """`2018-01-18T09:18:06Z` of seconds since 1970, cut down to the whole second."""
    # Not by gmtime: on 32-bit Arm it ends in 2038, and a certificate of AWS in 2049.
    days, rest = divmod(int(epoch // 1), 86400)
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year += era * 400 + (month < 3)
    return f"{year:04}-{month:02}-{day:02}T{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}Z"
