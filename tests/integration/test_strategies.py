"""Backoff strategies by name, on a real server: a job waits as they say, or fails and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convolab_worker import FailedAttempt, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import JobFailed

pytestmark = pytest.mark.asyncio
SOON = 30.0
HANDLERS = HandlerRegistry()


@HANDLERS.audio("speak")
async def speak(job: Job[Any]) -> int:
    """Succeed in the third attempt."""
    if job.attempt < 3:
        msg = "busy"
        raise RuntimeError(msg)
    return job.attempt


@HANDLERS.backoff("linear")
def linear(failed: FailedAttempt) -> float:
    """Wait longer each time."""
    return 0.02 * failed.attempt


@HANDLERS.backoff("broken")
def broken(failed: FailedAttempt) -> float:
    """Fail itself."""
    return float(failed.data["pause"])


async def test_a_job_waits_as_its_strategy_says(make_settings: Callable[..., Settings]) -> None:
    """Until it succeeds."""
    settings = make_settings()
    async with JobClient(settings) as client, Worker(HANDLERS, settings):
        job_id = await client.enqueue("speak", attempts=3, backoff={"type": "linear"})
        assert await client.result(job_id, timeout=SOON) == 3
        assert (await client.status(job_id)).attempts_made == 3


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("nobody's", 'unknown strategy "nobody\'s"; known are fixed, exponential, linear, broken'),
        ("broken", "strategy 'broken' raised KeyError: 'pause'"),
    ],
)
async def test_a_job_is_not_stranded_by_its_strategy(
    make_settings: Callable[..., Settings], strategy: str, why: str
) -> None:
    """It fails for good in its first attempt, with both reasons, and nothing stays in active."""
    settings = make_settings()
    async with JobClient(settings) as client, Worker(HANDLERS, settings):
        job_id = await client.enqueue("speak", {}, attempts=3, backoff={"type": strategy})
        with pytest.raises(JobFailed) as failed:
            await client.result(job_id, timeout=SOON)

        counts = (await client.counts())[settings.queues[0]]
        status = await client.status(job_id)

    assert f"busy (not tried again: backoff: {why})" in str(failed.value)
    assert (counts["active"], counts["failed"]) == (0, 1)
    assert status.attempts_made == 1
