"""Random cron patterns, zones and moments, and when each is due, for a comparison with Node's."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from convolab_worker.bullmq.cron.field import InvalidPattern
from convolab_worker.bullmq.cron.occurrences import next_after
from convolab_worker.bullmq.cron.pattern import read_pattern
from convolab_worker.bullmq.cron.zones import zone_offset

if TYPE_CHECKING:
    from collections.abc import Iterator

ZONES = (
    "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo",
    "Pacific/Auckland", "Europe/London", "America/Sao_Paulo", "Asia/Kathmandu", "America/St_Johns",
    "Africa/Casablanca", "America/Havana", "Asia/Beirut", "Pacific/Chatham", "Antarctica/Troll",
)  # fmt: skip
"""Places with changes at midnight, of half an hour, southern, twice a year for Ramadan, none."""
_OTHER_ZONES = (
    None, "UTC", "utc", "GMT", "UTC+2", "utc-05:30", "europe/berlin", "Etc/GMT+5", "local",
)  # fmt: skip
_BAD_ZONES = ("", "Mars/Olympus", "Berlin", "UTC+123")
_ALIASES = (
    "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly", "@minutely", "@secondly",
    "@weekdays", "@weekends", "@midnight", "@reboot", "@DAILY",
)  # fmt: skip
_PLAIN = (
    "0 6 * * *", "0 9 * * 1", "*/30 * * * *", "30 2 * * *", "0 2 * * *", "0 0 * * *",
    "0 1-3 * * *", "15,45 1,2,3 * * *", "* * * * *", "0 0 29 2 *", "0 0 L * *", "0 9 * * 5L",
    "0 0 31 * *", "0 0 * * 1#1", "0 0 1 1 1#1", "1 * 1#1", "1#1,3#2", "0 0 9 * * 7",
    "0 0 9 * * 5,7", "0 0 2-5 * *", "0 0 9 * * 5-7", "0 59 23 31 12 ?", "0 0 30 2 *",
    "0 0 31 2,4 *", " ", "5", "H H * * *", "H(0-29)/10 H(9-16)/2 * * H", "H/15 * * * *",
    "*/7 */5 */3 * *", "0 12 * JAN-MAR,sep MON-FRI", "59 59 23 * * *", "0 0 0 1,15 * 3",
    "0 0 12 1W * *", "0 0 * * 0-7", "0 0 * * 1,1", "0 0 * * L",
)  # fmt: skip
_UNITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES = {
    4: ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    5: ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pattern in a zone, and the moment (epoch milliseconds) from which its next are asked."""

    pattern: str
    tz: str | None
    after: int
    until: int | None
    hashSeed: str  # noqa: N815 - cron-parser's name
    count: int = 5

    def asked(self) -> dict[str, Any]:
        """What ``cron.mjs`` takes; JSON has no undefined."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def moments(self) -> dict[str, Any]:
        """The next moments by our evaluator, as ``cron.mjs`` gives them."""
        at: list[int] = []
        try:
            pattern, offset = read_pattern(self.pattern, self.hashSeed), zone_offset(self.tz)
            after = self.after
            while len(at) < self.count:
                found = next_after(pattern, offset, after, self.until)
                if found is None:
                    break
                at.append(after := found)
        except InvalidPattern as error:
            return {"error": str(error)}
        return {"at": at}


def schedules(seed: int, count: int) -> Iterator[Schedule]:
    """So many schedules: around every change of a clock, month ends, leap days, and anywhere."""
    draw = random.Random(seed)
    changes = {zone: [*clock_changes(zone)] for zone in ZONES}
    # Every change of every zone once, before others are drawn.
    forced = [(zone, at) for zone, times in changes.items() for at in times]
    for number in range(count):
        zone: str | None
        if number < len(forced):
            zone, at = forced[number]
        else:
            zone = draw.choice(ZONES if draw.random() < 0.75 else _OTHER_ZONES)
            if draw.random() < 0.01:
                zone = draw.choice(_BAD_ZONES)
            at = _moment(draw, changes.get(zone or ""))
        after = at * 1000 + draw.choice((0, 0, 0, 1, 500, 999)) + _shift(draw) * 1000
        lasts = draw.choice((3600, 86400, 30 * 86400)) * 1000
        until = after + draw.randrange(lasts) if draw.random() < 0.1 else None
        yield Schedule(_pattern(draw), zone, after, until, f"seed-{draw.randrange(1000)}")


def clock_changes(zone: str) -> Iterator[int]:
    """The epoch seconds from 2026 to 2030 at which a zone's clock is set."""
    info = ZoneInfo(zone)
    day, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)

    def offset(at: datetime) -> timedelta | None:
        return at.astimezone(info).utcoffset()

    while day < last:
        low, high = day, day + timedelta(days=1)
        if offset(low) != offset(high):
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            yield round(high.timestamp() / 60) * 60
        day += timedelta(days=1)


def _moment(draw: random.Random, changes: list[int] | None) -> int:
    kind = draw.random()
    if changes and kind < 0.5:
        return draw.choice(changes)
    if kind < 0.7:
        month = datetime(draw.randrange(2026, 2031), draw.randrange(1, 13), 1, tzinfo=UTC)
        return int(month.timestamp())
    if kind < 0.8:
        return int(datetime(2028, 2, 29, tzinfo=UTC).timestamp())
    return draw.randrange(1_767_225_600, 1_924_992_000)


def _shift(draw: random.Random) -> int:
    """From two days before a moment to two hours after it, near it more often than not."""
    near = draw.choice((0, -1, 1, -60, -1800, 1800, -3600, 3600, -7200, 7200, -86400))
    return near if draw.random() < 0.5 else draw.randrange(-172_800, 7200)


def _pattern(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.05:
        return draw.choice(_ALIASES)
    if kind < 0.3:
        return draw.choice(_PLAIN)
    fields = [_field(draw, unit) for unit in range(6)]
    text = " ".join(fields[draw.choice((0, 1, 1, 1)) :])
    if draw.random() < 0.03:  # spoilt by one character
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice("*?,-/#LWH9xA() ") + text[place + 1 :]
    return text


def _field(draw: random.Random, unit: int) -> str:
    least, most = _UNITS[unit]
    if draw.random() < (0.2, 0.2, 0.3, 0.5, 0.6, 0.5)[unit]:
        return draw.choice("*****?")
    if draw.random() < 0.3:
        values = draw.sample(range(least, most + 1), draw.choice((2, 2, 3, 4)))
        return ",".join(_named(draw, unit, value) for value in values)
    return ",".join(_atom(draw, unit) for _ in range(draw.choice((1, 1, 1, 1, 1, 2))))


def _named(draw: random.Random, unit: int, value: int) -> str:
    """The number, padded or not, or its name where it has one."""
    names = _NAMES.get(unit)
    if names and draw.random() < 0.4 and value - _UNITS[unit][0] < len(names):
        name = names[value - _UNITS[unit][0]]
        return draw.choice((name, name.upper(), name.title()))
    return f"{value:02}" if draw.random() < 0.1 else str(value)


def _atom(draw: random.Random, unit: int) -> str:
    least, most = _UNITS[unit]
    low, high = sorted(draw.choices(range(least, most + 1), k=2))
    first, last = _named(draw, unit, low), _named(draw, unit, high)
    step = draw.randint(1, max(most // 2, 2))
    kinds = [
        (6, first),
        (3, f"{first}-{last}"),
        (2, f"{first}-{last}/{step}"),
        (3, f"*/{step}"),
        (1, f"{first}/{step}"),
        (0.3, f"{last}-{first}"),
        (0.5, "H"),
        (0.5, f"H/{step}"),
        (0.5, f"H({low}-{high})"),
        (0.5, f"H({low}-{high})/{step}"),
        (1.5 * (unit == 3), "L"),
        (1.5 * (unit == 5), f"{low}L"),
        (2 * (unit == 5), f"{first}#{draw.randint(1, 5)}"),
    ]
    return draw.choices([text for _, text in kinds], [weight for weight, _ in kinds])[0]
