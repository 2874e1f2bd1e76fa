"""Replies: what scripts and keys answer, read without ever raising."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from convolab_worker.bullmq.protocol.records import (
    FetchResult,
    Restrictions,
    read_due,
    read_fetch,
    read_number,
    read_restrictions,
    read_score,
)

HASH = [b"name", b"work", b"data", b"{}", b"ats", b"1"]


def test_a_fetched_job_is_read() -> None:
    """[hash, id, 0, 0]."""
    found = read_fetch("audio", "w:1", [HASH, b"17", 0, 0])

    assert found.job is not None
    assert (found.job.queue, found.job.id, found.job.token) == ("audio", "17", "w:1")
    assert (found.due_at, found.limited_for, found.asked) == (None, 0.0, True)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ([0, 0, 0, 0], FetchResult()),
        ([0, 0, 1500, 0], FetchResult(limited_for=1.5)),
        ([0, 0, -2, 0], FetchResult()),
        ([0, 0, 0, 1_700_000_000_500], FetchResult(due_at=1_700_000_000.5)),
        ([0, 0, 0, b"1700000000500"], FetchResult(due_at=1_700_000_000.5)),
        ([0, 0, 0, -(2**63)], FetchResult()),  # what Redis makes of Lua's NaN and infinity
        ([0, 0, 0, 2**63 - 1], FetchResult()),
        (0, FetchResult()),
        (None, FetchResult()),
        ([], FetchResult()),
        ([0, 0], FetchResult()),
        ([b"17", b"", b"x", b"y"], FetchResult()),
    ],
)
def test_a_fetch_of_nothing_says_when_there_may_be_a_job(raw: Any, found: FetchResult) -> None:
    """The limit in milliseconds, and the time in milliseconds since the epoch."""
    assert read_fetch("audio", "w:1", raw) == found


ANY = st.one_of(st.none(), st.integers(), st.floats(), st.binary(max_size=400), st.text(max_size=9))


@given(st.lists(ANY, max_size=6))
def test_any_list_can_be_the_answer_to_a_fetch(raw: list[Any]) -> None:
    """No job is read from it, nor a time that never comes."""
    found = read_fetch("audio", "w:1", raw)

    assert found.job is None
    assert found.limited_for >= 0
    assert found.due_at is None or 0 < found.due_at < math.inf


@given(ANY)
def test_any_value_can_stand_where_a_number_belongs(raw: Any) -> None:
    """What is read can be computed with: it is no NaN."""
    number, due_at, scored_at = read_number(raw), read_due(raw), read_score(raw)

    assert number is None or not math.isnan(number)
    assert due_at is None or 0 < due_at < math.inf
    assert scored_at is None or 0 < scored_at < math.inf


def test_a_score_is_a_time_and_a_counter() -> None:
    """BullMQ multiplies milliseconds by 4096, to keep the order of those at the same time."""
    assert read_score(b"%d" % (1_700_000_000_500 * 4096)) == 1_700_000_000.5


@given(st.binary(max_size=20) | st.none(), st.binary(max_size=400) | st.none())
def test_any_value_can_be_a_queues_restriction(
    paused: bytes | None, concurrency: bytes | None
) -> None:
    """A concurrency is a number of jobs, or none."""
    found = read_restrictions([paused, concurrency])

    assert found.paused == (paused is not None)
    assert found.concurrency is None or found.concurrency >= 0


@pytest.mark.parametrize(
    ("stored", "concurrency"),
    [
        (None, None),
        (b"5", 5),
        (b"2.5", 3),
        (b"0", 0),
        (b"-3", 0),
        (b"-inf", 0),
        (b"Infinity", None),
        (b"NaN", None),
        (b"abc", None),
        (b"", None),
    ],
)
def test_a_concurrency_is_rounded_up(stored: bytes | None, concurrency: int | None) -> None:
    """The scripts stop when so many jobs are active, or more."""
    assert read_restrictions([None, stored]) == Restrictions(paused=False, concurrency=concurrency)
