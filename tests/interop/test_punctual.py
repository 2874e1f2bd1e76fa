"""Where delays and limits make the worker wait, it goes on when it may, not at its next look."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from tests.interop.differential import Bench
from tests.support.stopwatch import Stopwatch

LATE_MS = 50


def events(raw: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Each job's first event of that name by job id, ``at`` milliseconds since the epoch."""
    (stream,) = [dump for key, dump in raw["keys"].items() if key.endswith(":events")]
    found: dict[str, dict[str, Any]] = {}
    for identity, fields in stream["value"]:
        if fields["event"] == name:
            event = {**fields, "at": int(identity.partition("-")[0])}
            found.setdefault(fields["jobId"], event)
    return found


def times(raw: dict[str, Any], name: str) -> list[int]:
    """When the jobs had their first such event, in order."""
    return sorted(event["at"] for event in events(raw, name).values())


@pytest.mark.asyncio
async def test_a_delayed_job_starts_when_it_is_due(bench: Bench) -> None:
    """Half of the delayed jobs start within 50 ms of their due time, and none before."""
    with Stopwatch() as watch:
        raw = await bench.raw_by_ours("delays, ten of them")

    started, delayed = events(raw, "active"), events(raw, "delayed")
    late = [event["at"] - int(delayed[job_id]["delay"]) for job_id, event in started.items()]
    assert len(late) == 10
    assert min(late) >= 0
    assert median(late) <= LATE_MS + 1000 * watch.paused, sorted(late)


@pytest.mark.parametrize("limit", ["global rate limit", "rate limit of the worker"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.asyncio
async def test_a_rate_limited_job_starts_when_the_limit_is_over(
    bench: Bench, limit: str, workers: int
) -> None:
    """With one start in 60 ms allowed, half of the starts come at most 110 ms after another."""
    with Stopwatch() as watch:
        raw = await bench.raw_by_ours(f"{limit}, on time", workers=workers)

    starts = times(raw, "active")
    between = [later - earlier for earlier, later in pairwise(starts)]
    assert min(between) >= 58
    assert median(between) <= 60 + LATE_MS + 1000 * watch.paused, between


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.asyncio
async def test_a_job_over_the_global_concurrency_starts_when_another_ends(
    bench: Bench, workers: int
) -> None:
    """With one job allowed at a time, the next starts within 50 ms of its predecessor's end."""
    with Stopwatch() as watch:
        raw = await bench.raw_by_ours("global concurrency", workers=workers)

    ends, starts = times(raw, "completed"), times(raw, "active")
    waits = [start - end for end, start in zip(ends, starts[1:], strict=False)]
    assert min(waits) >= 0
    assert median(waits) <= LATE_MS + 1000 * watch.paused, waits
