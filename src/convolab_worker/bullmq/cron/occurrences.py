"""When a pattern is due next, changes of daylight saving included, as cron-parser finds it. Pure.

The walk goes from the moment it begins at, field by field from the month down, to the first that
fits. Its steps are those of cron-parser, since what happens on the days when a clock is set follows
from them:

- An hour that a clock skips is made up for in the hour that it lands on: ``30 2 * * *`` is due at
  03:30 then.
- An hour that comes twice is due once where the pattern names hours, and twice where it does not;
  what the walk finds depends on where it begins, so each occurrence is looked for from the one
  before, as workers do.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from convolab_worker.bullmq.cron.field import InvalidPattern

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convolab_worker.bullmq.cron.pattern import CronPattern

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a clock's reading has no zone of its own
_MOST_STEPS = 9_999  # steps after which cron-parser gives up
_MOST_WALKS, _DAY_MS, _BEHIND_MS = 3, 86_400_000, 7_200_000
_EVERY_HOUR, _WEEK = 24, 7


def next_after(
    pattern: CronPattern, offset: Callable[[int], int], after_ms: int, until_ms: int | None = None
) -> int | None:
    """Returns when ``pattern`` is due next, later than ``after_ms``, in epoch milliseconds.

    None if that is later than ``until_ms``. ``offset`` is the zone: seconds since the epoch in,
    seconds east of UTC out. Raises InvalidPattern if it is never due.
    """
    begin_ms = after_ms
    for _ in range(_MOST_WALKS):
        walk = _Walk(pattern, offset, begin_ms // 1000)
        if begin_ms % 1000:
            walk.add(seconds=1)
        for _ in range(_MOST_STEPS):
            at_ms = walk.at * 1000
            if until_ms is not None and at_ms > until_ms:
                return None
            if not walk.fits():
                continue
            if at_ms != after_ms:
                return at_ms
            walk.add(seconds=1)
        if walk.at * 1000 > begin_ms + _DAY_MS:
            break
        # Where a clock is set back by half an hour the walk goes round in circles. In Node a
        # schedule can end there; here the walk begins anew after that moment.
        begin_ms = walk.at * 1000 + _BEHIND_MS
    msg = "it is never due"
    raise InvalidPattern(msg)


class _Walk:
    """A moment that moves on until it fits: ``at`` in epoch seconds, ``clock`` as local time.

    ``skipped`` are the first hour that the clock skipped on the way and the one that it landed on;
    ``repeated`` is the hour that it began for the second time.
    """

    def __init__(self, pattern: CronPattern, offset: Callable[[int], int], at: int) -> None:
        self._pattern = pattern
        self._offset_at = offset
        self._skipped: tuple[int, int] | None = None
        self._repeated: int | None = None
        self._move(at)

    def _move(self, at: int) -> None:
        self.at, self._offset = at, self._offset_at(at)
        self.clock = _EPOCH + timedelta(seconds=at + self._offset)

    def _set(self, clock: datetime) -> None:
        self._move(_epoch_seconds(clock, self._offset, self._offset_at))

    def fits(self) -> bool:
        """Whether the moment fits; otherwise moves it on by one step."""
        pattern, clock = self._pattern, self.clock
        if clock.month not in pattern.months:
            self._set(_month_later(clock))
            self._set(self.clock.replace(day=1, hour=0, minute=0, second=0))
        elif not _has_day(pattern, clock):
            self._next_day()
        elif self._fits_hour():
            if clock.minute not in pattern.minutes:
                self._next_minute()
            elif clock.second not in pattern.seconds:
                self._next_second()
            else:
                return True
        return False

    def add(self, *, hours: int = 0, minutes: int = 0, seconds: int = 0) -> None:
        """Let time pass, to the beginning of the hour or minute, and note what the clock did."""
        before, offset = self.clock.hour, self._offset
        self._move(self.at + 3600 * hours + 60 * minutes + seconds)
        if hours or minutes:
            self._set(self.clock.replace(minute=0 if hours else self.clock.minute, second=0))
        hour = self.clock.hour
        if len(self._pattern.hours) == _EVERY_HOUR:
            return
        passed = (hour - before) % 24
        if self._offset > offset and passed > 1:
            self._skipped = (before + 1) % 24, hour
        elif passed == 0 and self.clock.minute == self.clock.second == 0:
            self._repeated = hour

    def _next_day(self) -> None:
        self._set(self.clock + timedelta(days=1))
        self._set(self.clock.replace(hour=0, minute=0, second=0))

    def _fits_hour(self) -> bool:
        hours, hour = self._pattern.hours, self.clock.hour
        if self._skipped is not None and self._skipped[1] == hour:
            first, landed_on = self._skipped
            if any((first + n) % 24 in hours for n in range((landed_on - first) % 24)):
                return True
        if self._repeated == hour:
            self._repeated = None
            self.add(hours=1)
            return False
        if hour in hours:
            return True
        self._skipped = None
        later = _next_of(hours, hour)
        if later is None:
            self._next_day()
        else:
            self._to_hour(later)
            self._to_first(minute=True)
        return False

    def _to_hour(self, hour: int) -> None:
        """Go to a later hour of the same day: in one step, unless the clock is set on that day."""
        if not self._is_clock_set_today():
            self._set(self.clock.replace(hour=hour))
            return
        for _ in range(hour - self.clock.hour):
            self.add(hours=1)
            if self.clock.hour >= hour:
                return

    def _is_clock_set_today(self) -> bool:
        midnight = self.clock.replace(hour=0, minute=0, second=0)
        begin = _epoch_seconds(midnight, self._offset, self._offset_at)
        offset = self._offset_at(begin)
        day_later = _EPOCH + timedelta(seconds=begin + offset, days=1)
        end = _epoch_seconds(day_later, offset, self._offset_at)
        offset = self._offset_at(end)
        midnight = (_EPOCH + timedelta(seconds=end + offset)).replace(hour=0, minute=0, second=0)
        end = _epoch_seconds(midnight, offset, self._offset_at)
        return self._offset_at(begin) != self._offset_at(end - 1)

    def _next_minute(self) -> None:
        later = _next_of(self._pattern.minutes, self.clock.minute)
        if later is None:
            self.add(hours=1)
            self._to_first(minute=True)
        else:
            self._set(self.clock.replace(minute=later))
            self._to_first()

    def _next_second(self) -> None:
        later = _next_of(self._pattern.seconds, self.clock.second)
        if later is None:
            self.add(minutes=1)
            self._to_first()
        else:
            self._set(self.clock.replace(second=later))

    def _to_first(self, *, minute: bool = False) -> None:
        if minute:
            self._set(self.clock.replace(minute=self._pattern.minutes[0]))
        self._set(self.clock.replace(second=self._pattern.seconds[0]))


def _epoch_seconds(clock: datetime, offset: int, offset_at: Callable[[int], int]) -> int:
    """Returns when a clock that was at ``offset`` shows ``clock``.

    Of two such moments it is the one at that offset; for a time that the clock skips, it is the
    moment as much later.
    """
    local = (clock - _EPOCH) // timedelta(seconds=1)
    there = offset_at(local - offset)
    if there == offset:
        return local - offset
    again = offset_at(local - there)
    return local - there if again == there else local - min(there, again)


def _month_later(clock: datetime) -> datetime:
    years, month = divmod(clock.month, 12)
    first = clock.replace(year=clock.year + years, month=month + 1, day=1)
    return first.replace(day=min(clock.day, _days_in_month(first)))


def _days_in_month(clock: datetime) -> int:
    return monthrange(clock.year, clock.month)[1]


def _has_day(pattern: CronPattern, clock: datetime) -> bool:
    """Whether the day fits; if days of the month and of the week are named, one is enough."""
    days_left = _days_in_month(clock) - clock.day
    fits_day = clock.day in pattern.days or (pattern.last_day and days_left == 0)
    if pattern.any_weekday:
        return fits_day
    weekday = clock.isoweekday() % 7
    in_week = not pattern.nth_week or (clock.day + 6) // 7 == pattern.nth_week
    fits_weekday = (weekday in pattern.weekdays and in_week) or (
        weekday in pattern.last_weekdays and days_left < _WEEK
    )
    return fits_weekday or (not pattern.any_day and fits_day)


def _next_of(values: Sequence[int], value: int) -> int | None:
    return next((later for later in values if later > value), None)
