"""Time zones by the names that Node's workers know: luxon's, and the host's own."""

from __future__ import annotations

import functools
import re
import time
import zoneinfo
from datetime import datetime
from typing import TYPE_CHECKING

from convolab_worker.bullmq.cron.field import InvalidPattern

if TYPE_CHECKING:
    from collections.abc import Callable

    Offset = Callable[[int], int]
    """A zone: seconds since the epoch in, seconds east of UTC out."""

# luxon knows UTC+2 and UTC+05:30; Node itself knows +05:30 from its version 22 on.
_FIXED = re.compile(r"utc([+-]\d{1,2})(?::(\d{2}))?|([+-]\d\d):?([0-5]\d)", re.ASCII)


def zone_offset(name: object) -> Offset:
    """Returns the offsets of a time zone; without a name those of the host, as in Node.

    Raises InvalidPattern for a name that is not a zone's.
    """
    if name is None:
        return _offset_of_host
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise _no_zone(name)
    if isinstance(name, int):
        return _constant(name)
    lowered = name.lower()
    if lowered in {"local", "system", "default"}:
        return _offset_of_host
    if lowered in {"utc", "gmt"}:
        return _constant(0)
    fixed = _FIXED.fullmatch(lowered)
    if fixed is not None:
        return _fixed_offset(fixed[1] or fixed[3], fixed[2] or fixed[4] or "0")
    return _offset_in(_zone(name))


def _fixed_offset(hours: str, minutes: str) -> Offset:
    return _constant(60 * int(hours) + (-1 if hours[0] == "-" else 1) * int(minutes))


def _constant(minutes: int) -> Offset:
    return lambda _: 60 * minutes


def _offset_of_host(seconds: int) -> int:
    return time.localtime(seconds).tm_gmtoff


def _offset_in(zone: zoneinfo.ZoneInfo) -> Offset:
    def offset(seconds: int) -> int:
        found = datetime.fromtimestamp(seconds, zone).utcoffset()
        return 0 if found is None else round(found.total_seconds())

    return offset


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        pass
    # Node takes any case; file names are exact.
    known = {key.lower(): key for key in zoneinfo.available_timezones()}.get(name.lower())
    if known is None:
        raise _no_zone(name)
    return zoneinfo.ZoneInfo(known)


def _no_zone(name: object) -> InvalidPattern:
    expected = "expected one such as Europe/Berlin or UTC+2"
    return InvalidPattern(f"{name!r} is not a time zone: {expected}")
