"""Schedules as producers say them, as they are written, and as they are read from Redis."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.schedules import (
    NewSchedule,
    Schedule,
    add_schedule,
    read_schedule,
    remove_schedule,
    repeat_options,
)
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.errors import ConfigurationError

KEYS = QueueKeys("bull", "work")
NOW = 1_800_000_000_000
EVERY = NewSchedule(id="tick", name="work", data="{}", opts={}, repeat={"every": 5000})


def test_keywords_become_nodes_repeat_options() -> None:
    """Seconds and dates in milliseconds; what is left are the options of the jobs."""
    start = datetime(2027, 3, 1, 9, tzinfo=timezone(timedelta(hours=1)))

    repeat, left = repeat_options(
        {"cron": "0 6 * * *", "tz": "Europe/Berlin", "limit": 3, "start": start, "until": 2e9,
         "every": None, "immediately": False, "attempts": 2, "queue": "q"}
    )  # fmt: skip

    assert repeat == {
        "pattern": "0 6 * * *",
        "tz": "Europe/Berlin",
        "limit": 3,
        "startDate": 1_803_888_000_000,
        "endDate": 2_000_000_000_000,
    }
    assert left == {"attempts": 2, "queue": "q"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"every=None\): expected either every=SECONDS or cron=PATTERN"),
        ({"every": 5, "cron": "* * * * *"}, "expected either every=SECONDS or cron=PATTERN"),
        ({"every": 0}, "seconds, a thousandth or more"),
        ({"every": 0.0004}, "seconds, a thousandth or more"),
        ({"every": True}, "seconds, a thousandth or more"),
        ({"every": "5s"}, "seconds, a thousandth or more"),
        ({"cron": ""}, r"cron=''\): expected text"),
        ({"every": 5, "tz": "UTC"}, "tz='UTC'.* a time zone for a pattern"),
        ({"every": 5, "limit": 0}, "limit=0.* 1 or more"),
        ({"every": 5, "limit": True}, "limit=True"),
        ({"every": 5, "until": datetime(2099, 1, 1)}, "until=.* a datetime with a time zone"),  # noqa: DTZ001
        ({"every": 5, "start": "tomorrow"}, "start='tomorrow'"),
        ({"every": 5, "immediately": True}, "immediately=True"),
        ({"cron": "* * * * *", "immediately": True, "start": 2e9}, "immediately=True"),
        ({"every": 5, "delay": 1}, "delay=1.* it left out"),
        ({"every": 5, "deduplication": "x"}, "deduplication='x'.* it left out"),
        ({"every": 5, "job_id": "x"}, "job_id='x'.* it left out"),
    ],
    ids=str,
)
def test_what_can_not_be_is_named(options: dict[str, Any], message: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigurationError, match=message):
        repeat_options(options)


def test_calls_have_the_keys_that_their_scripts_want() -> None:
    """As the heads of the scripts say."""
    for call in (add_schedule(KEYS, EVERY, NOW, NOW, {}), remove_schedule(KEYS, "tick")):
        assert len(call.keys) == script(call.script).keys
        assert all(key.startswith("bull:work:") for key in call.keys)


def test_a_traces_context_is_the_next_jobs_and_not_the_schedules() -> None:
    """The jobs after that one begin traces of their own."""
    call = add_schedule(KEYS, EVERY, NOW, NOW, {"tm": "{}"})

    assert msgpack.unpackb(call.args[5])["tm"] == "{}"
    assert "tm" not in msgpack.unpackb(call.args[4])


def read(fields: dict[str, str], score: str = "1800000000000") -> Schedule | None:
    """A schedule with those fields."""
    flat = [part.encode("utf-8", "surrogateescape") for pair in fields.items() for part in pair]
    return read_schedule("work", b"tick", score.encode(), flat)


def test_a_schedule_is_read_with_its_options_by_their_long_names() -> None:
    """Times in seconds."""
    found = read(
        {"name": "work", "every": "1500", "ic": "7", "limit": "9", "startDate": "1700000000000",
         "data": '{"a":1}', "opts": '{"fpof":true,"kl":5}'}
    )  # fmt: skip

    assert found == Schedule(
        id="tick", queue="work", name="work", next_at=1.8e9, every=1.5, count=7, limit=9,
        start=1.7e9, data={"a": 1}, options={"failParentOnFailure": True, "keepLogs": 5},
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "\udcff", "every": "soon", "ic": "", "limit": "1e400", "endDate": "nan"},
        {"data": "{", "opts": "["},
        {"data": "null", "opts": "7"},
    ],
    ids=str,
)
def test_what_can_not_be_read_raises_nothing(fields: dict[str, str]) -> None:
    """One broken schedule must not hide the others."""
    found = read(fields, score="inf")

    assert found is not None
    assert (found.every, found.limit, found.until, found.options) == (None, None, None, {})


def test_a_schedule_without_a_record_is_none() -> None:
    """Its record was removed a moment ago."""
    assert read({}) is None
