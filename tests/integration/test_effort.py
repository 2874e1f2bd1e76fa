"""What a job costs this program, in counts that don't depend on the machine: a guard for speed.

Times are noise where others work too; calls of functions are not. A change that makes a job cost
more shows here. Where that is what it takes, raise the bound to the number that the failure shows
and a tenth, and say why in the commit.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self, TextIO

import pytest
import structlog

import convolab_worker
from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.telemetry.logging import configure_logging

pytestmark = pytest.mark.asyncio

JOBS = 300
PACKAGE = str(Path(convolab_worker.__file__).parent)
ROOT = Path(__file__).parents[2]
# Measured on Python 3.11, which counts most: later ones inline comprehensions.
CALLS_A_JOB = {1: 128, 50: 136}  # by concurrency
CALLS_OF_ITS_LOG = 17  # of two lines, in the command line's own format
WRITES_A_JOB = 0.4  # at concurrency 50
CALLS_AN_ADD = 42
CALLS_AN_ADD_OF_MANY = 32
COMMANDS_A_JOB = 1.1


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[TextIO]:
    """A file for the log, whose set-up is undone afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        yield file
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Calls:
    """Counts the calls of this package's functions, and each resumption of a coroutine."""

    def __init__(self) -> None:
        self.by_function: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            self.by_function[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1

    def each(self, times: int) -> float:
        """Calls for one of so many."""
        return self.by_function.total() / times

    def told(self, times: int) -> str:
        """What was called, most often first: the message of a failure."""
        common = self.by_function.most_common(40)
        return f"{self.each(times):.1f} calls: " + ", ".join(
            f"{name} {count / times:.2f}" for name, count in common
        )


@pytest.mark.parametrize("concurrency", CALLS_A_JOB)
async def test_a_job_costs_few_calls_and_one_command(
    make_settings: Callable[..., Settings], concurrency: int
) -> None:
    """A busy slot sends one command a job, and what else a job takes is bounded."""
    handlers = HandlerRegistry()

    @handlers.audio("noop")
    async def noop(_job: Job[Any]) -> None:
        """Do nothing."""

    settings = make_settings(concurrency=concurrency)
    async with JobClient(settings) as client:
        await client.enqueue_many([{"name": "noop"}] * JOBS)
    worker = Worker(handlers, settings)
    with Calls() as calls:
        result = await worker.drain()

    sent = worker.stats()["commands"]["by_purpose"]
    assert result.processed == JOBS
    assert (
        sent["fetch"]["sent"] + sent["complete"]["sent"]
    ) / JOBS <= COMMANDS_A_JOB + concurrency / JOBS
    assert calls.each(JOBS) <= CALLS_A_JOB[concurrency], calls.told(JOBS)
    if concurrency > 1:
        assert calls.by_function["connection.Connection._flush"] / JOBS <= WRITES_A_JOB


async def test_the_log_of_a_job_costs_few_calls(
    make_settings: Callable[..., Settings], log_file: TextIO
) -> None:
    handlers = HandlerRegistry()

    @handlers.audio("noop")
    async def noop(_job: Job[Any]) -> None:
        """Do nothing."""

    settings = make_settings(concurrency=1)
    counts, told = {}, ""
    for level in ("warning", "info"):
        configure_logging(level, "json", log_file)
        async with JobClient(settings) as client:
            await client.enqueue_many([{"name": "noop"}] * JOBS)
        with Calls() as calls:
            await Worker(handlers, settings).drain()
        counts[level], told = calls.each(JOBS), calls.told(JOBS)

    assert counts["info"] - counts["warning"] <= CALLS_OF_ITS_LOG, told


async def test_a_jobs_way_is_as_short_as_the_page_on_architecture_says(
    make_settings: Callable[..., Settings],
) -> None:
    """At most fifteen modules hand it on; these and those that they ask are what the page lists."""
    handlers = HandlerRegistry()

    @handlers.audio("noop")
    async def noop(_job: Job[Any]) -> None:
        """Do nothing."""

    settings = make_settings(concurrency=1)
    async with JobClient(settings) as client:
        await client.enqueue_many([{"name": "noop"}] * JOBS)
    with Calls() as calls:
        await Worker(handlers, settings).drain()

    by_module: Counter[str] = Counter()
    for name, count in calls.by_function.items():
        by_module[name.partition(".")[0]] += count
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = page.partition("### How long these ways are")[2].partition("**A lost lock")[0]
    handing, asked = [
        re.findall(r"`(\w+)`", line) for line in re.findall(r"^> .*$", told, re.MULTILINE)
    ]
    assert {name for name, count in by_module.items() if count > JOBS / 2} == {*handing, *asked}
    assert f"**A job: {len(handing)} modules**" in told
    assert f"ask {len(asked)} others" in told
    assert len(handing) <= 15


async def test_adding_costs_few_calls(make_settings: Callable[..., Settings]) -> None:
    """One job at a time, and many at once."""
    async with JobClient(make_settings()) as client:
        await client.enqueue("noop")  # the script is known from here on
        with Calls() as one:
            for _ in range(JOBS):
                await client.enqueue("noop", {"text": "x"})
        with Calls() as many:
            await client.enqueue_many([{"name": "noop", "data": {"text": "x"}}] * JOBS)

    assert one.each(JOBS) <= CALLS_AN_ADD, one.told(JOBS)
    assert many.each(JOBS) <= CALLS_AN_ADD_OF_MANY, many.told(JOBS)
