"""Cron patterns: what they mean, and why some are refused. See interop for all that Node says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from convolab_worker.bullmq.cron.field import InvalidPattern
from convolab_worker.bullmq.cron.hashed import HashedNumbers
from convolab_worker.bullmq.cron.occurrences import next_after
from convolab_worker.bullmq.cron.pattern import read_pattern
from convolab_worker.bullmq.cron.zones import zone_offset


def due(pattern: str, after: str, count: int = 4, tz: str | None = "UTC") -> list[str]:
    """The moments after a time in UTC, in UTC; each from the one before, as workers ask."""
    at = int(datetime.fromisoformat(after).replace(tzinfo=UTC).timestamp() * 1000)
    found = []
    for _ in range(count):
        moment = next_after(read_pattern(pattern, "seed"), zone_offset(tz), at)
        assert moment is not None
        at = moment
        found.append(f"{datetime.fromtimestamp(at / 1000, UTC):%m-%d %H:%M:%S}")
    return found


@pytest.mark.parametrize(
    ("pattern", "tz", "after", "moments"),
    [
        pytest.param(
            "0 6 * * *", "America/New_York", "2027-03-13 12:00",
            ["03-14 10:00:00", "03-15 10:00:00"], id="six-in-the-morning-as-clocks-go-forward",
        ),
        pytest.param(
            "0 6 * * *", "America/New_York", "2027-11-06 12:00",
            ["11-07 11:00:00", "11-08 11:00:00"], id="and-as-they-go-back",
        ),
        pytest.param(
            "0 9 * * 1", "Europe/Berlin", "2027-03-28 12:00",
            ["03-29 07:00:00", "04-05 07:00:00"], id="monday-after-the-change",
        ),
        pytest.param(
            "*/30 * * * *", "Europe/Berlin", "2027-10-31 00:00",
            ["10-31 00:30:00", "10-31 01:00:00", "10-31 01:30:00", "10-31 02:00:00"],
            id="every-half-hour-of-an-hour-that-comes-twice",
        ),
        pytest.param(
            "30 2 * * *", "Europe/Berlin", "2027-03-27 12:00",
            ["03-28 01:30:00", "03-29 00:30:00"], id="a-time-that-the-clock-skips",
        ),
        pytest.param(
            "0 9 * * 5L", "UTC", "2026-11-26 00:00",
            ["11-27 09:00:00", "12-25 09:00:00"], id="last-friday",
        ),
        pytest.param("@minutely", "UTC", "2026-11-26 10:00:30", ["11-26 10:01:00"], id="minutely"),
        pytest.param(
            "@weekdays", "UTC+2", "2026-11-26 23:00",
            ["11-29 22:00:00", "11-30 22:00:00"], id="weekdays-in-a-zone-of-luxons",
        ),
        pytest.param("0 0 9 * * 7", "UTC", "2026-11-26 00:00", ["11-29 09:00:00"], id="seven"),
        pytest.param(
            "0 0 9 * * 6-7", "UTC", "2026-11-26 00:00",
            ["11-28 09:00:00", "11-29 09:00:00"], id="sunday-at-the-end-of-a-range",
        ),
        pytest.param(
            "0 0 1 * 1", "UTC", "2026-11-26 00:00",
            ["11-30 00:00:00", "12-01 00:00:00"], id="either-kind-of-day",
        ),
        pytest.param("0 0 29 2 *", "utc", "2026-11-26 00:00", ["02-29 00:00:00"], id="leap-day"),
        pytest.param(
            "15 14 1 * *", "europe/berlin", "2026-11-26 00:00", ["12-01 13:15:00"], id="any-case"
        ),
        pytest.param("5", "UTC", "2026-11-26 10:00", ["11-27 00:00:00"], id="one-field"),
    ],
)  # fmt: skip
def test_a_pattern_is_due_when_nodes_workers_find_it_due(
    pattern: str, tz: str, after: str, moments: list[str]
) -> None:
    assert due(pattern, after, len(moments), tz) == moments


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("@midnight", "mid is the name of no month and of no day"),
        ("0 0 * * L", "L alone"),
        ("0 0 * * 1,1", "named twice"),
        ("0 0 * * 1#1,3#2", "not with a list"),
        ("0 0 * * 1#6", "1 to 5 behind the #"),
        ("60 * * * *", "60 is not a minute: expected 0 to 59"),
        ("5-1 * * * *", "5-1 is not a range of the minute"),
        ("*/0 * * * *", "a step of 1 or more"),
        ("1//2 * * * *", "one step at most"),
        ("1,,2 * * * *", "between two commas"),
        ("0 0 30 2 *", "month 2 has no day 30"),
        ("0 0 1W * *", "can't be read as a day of the month"),
        ("0 0 31L * 1L2", "1L2 is not a day of the week"),
        ("H(5-1) * * * *", "is not a range of the minute"),
        ("H/0 * * * *", "a step of 1 or more"),
        ("1 2 3 4 5 6 7", "7 fields: expected 1 to 6"),
        ("1," * 600, "1200 characters"),
        ("0 0 * foo *", "foo is the name of no month"),
        ("", "0 fields"),
    ],
)
def test_a_pattern_that_can_not_be_is_refused_with_the_reason(pattern: str, why: str) -> None:
    with pytest.raises(InvalidPattern) as refused:
        read_pattern(pattern, "seed")

    assert why in str(refused.value)


def test_a_pattern_that_is_never_due_is_refused() -> None:
    """Node's worker ends such a schedule without a word."""
    with pytest.raises(InvalidPattern, match="never due"):
        due("0 0 31 2,4 *", "2026-11-26 00:00")


def test_a_clock_that_is_set_by_half_an_hour_ends_no_schedule() -> None:
    """cron-parser's search turns in circles then, and Node's schedule ends without a word."""
    moments = due("32/21 */22 9 * * *", "2030-04-06 00:53", 3, "Australia/Lord_Howe")

    assert moments == ["04-06 22:30:32", "04-06 22:30:53", "04-06 22:52:32"]


@pytest.mark.parametrize("name", ["", "Berlin", "Mars/Olympus", "UTC+123", "../etc", 1.5, True, []])
def test_a_zone_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(InvalidPattern, match="is not a time zone"):
        zone_offset(name)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("UTC+2", 7200), ("utc-05:30", -19800), ("+05:45", 20700), ("GMT", 0), (90, 5400)],
)
def test_fixed_offsets_are_luxons(name: object, seconds: int) -> None:
    assert zone_offset(name)(1_764_000_000) == seconds


def test_nothing_is_due_behind_the_end() -> None:
    pattern, offset = read_pattern("0 9 * * *", "seed"), zone_offset("UTC")
    nine = 1_764_061_200_000

    assert next_after(pattern, offset, nine - 1, nine) == nine
    assert next_after(pattern, offset, nine, nine + 1000) is None


def test_h_is_chosen_by_the_seed_and_stays() -> None:
    """Two schedules of one pattern are due at different times, each at its own every day."""
    first, again, other = (
        read_pattern("H H * * *", seed) for seed in ("lesson", "lesson", "report")
    )

    assert first == again != other
    numbers = HashedNumbers("Käse 🧀")
    assert all(0 <= numbers.next_number() < 1 for _ in range(100))
