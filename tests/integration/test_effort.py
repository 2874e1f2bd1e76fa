"""What a job costs this program, in counts that don't depend on the machine: a guard for speed.

Times are noise where others work too; calls of functions are not. A change that makes a job cost
more shows here. Where that is what it takes, raise the bound to the number that the failure shows
and a tenth, and say why in the commit.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self, TextIO

import msgspec
import pytest
from redis.asyncio import Redis

import convolab_worker
from convolab_worker import HandlerRegistry, Job, JobClient, Settings, SyncJobClient, Worker
from convolab_worker.connection.commands.unanswered import Answer
from convolab_worker.telemetry.logging import configure_logging
from convolab_worker.worker.execution.handler_call import HandlerCall
from tests.support.log_setup import logging_restored
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

JOBS = 300
PACKAGE = str(Path(convolab_worker.__file__).parent)
ROOT = Path(__file__).parents[2]
# Measured on Python 3.11, which counts most: later ones inline comprehensions.
CALLS_A_JOB = {1: 86, 50: 95.5}  # by concurrency
CALLS_OF_ITS_LOG = 7  # of two lines, in the command line's own format
# At concurrency 1: one brings the answer, in which the next job begins and ends. On Python 3.11 the
# handler's task, which has nothing left to do, takes one more while the server works.
TURNS_A_JOB = 1.25 if sys.version_info >= (3, 12) else 2.25
WRITES_A_JOB = 0.3  # at concurrency 50
CALLS_AN_ADD = 42
CALLS_AN_ADD_OF_MANY = 32
CALLS_OF_A_PICK_UP = 115  # from the answer that brings a job's marker to its handler's first line
COMMANDS_A_JOB = 1.1
BILLED_A_JOB = 17.2  # those inside scripts too: 1 and 16, and a few of the start and the end
# How long the ways through the code may be.
MODULES_OF_A_JOB, CALLS_OF_A_LOST_LOCK, CALLS_OF_A_CANCEL = 13, 4, 8


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[TextIO]:
    """A file for the log, whose set-up is undone afterwards."""
    with logging_restored(), (tmp_path / "log").open("w", encoding="utf-8") as file:
        yield file


_TURN = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # noqa: SLF001


class Calls:
    """Counts the calls of this package's functions, and each resumption of a coroutine.

    ``turns`` are those of the event loop.
    """

    def __init__(self) -> None:
        self.by_function: Counter[str] = Counter()
        self.turns = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            self.by_function[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1
        elif event == "call" and code is _TURN:
            self.turns += 1

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
    handlers, together = HandlerRegistry(), asyncio.Barrier(concurrency)

    @handlers.audio("noop")
    async def noop(_job: Job[Any]) -> None:
        """Do nothing, and end with all others: the writes don't depend on Redis's pace then."""
        await together.wait()

    settings, jobs = make_settings(concurrency=concurrency), 30 * max(concurrency, 10)
    async with JobClient(settings) as client:
        await client.enqueue_many([{"name": "noop"}] * jobs)
    worker = Worker(handlers, settings)
    with Calls() as calls:
        result = await worker.drain()

    sent = worker.stats()["commands"]["by_purpose"]
    assert result.processed == jobs
    assert (
        sent["fetch"]["sent"] + sent["complete"]["sent"]
    ) / jobs <= COMMANDS_A_JOB + concurrency / jobs
    if concurrency == 1:
        assert worker.stats()["commands"]["billable"] / jobs <= BILLED_A_JOB
    assert calls.each(jobs) <= CALLS_A_JOB[concurrency], calls.told(jobs)
    if concurrency == 1:
        assert calls.turns / jobs <= TURNS_A_JOB
    else:
        assert calls.by_function["connection.Connection._flush"] / jobs <= WRITES_A_JOB


async def test_an_idle_worker_picks_a_job_up_with_few_calls(
    make_settings: Callable[..., Settings],
) -> None:
    """What can wait for the handler's first line, such as the next blocking read, does so."""
    handlers, begun = HandlerRegistry(), asyncio.Event()

    @handlers.audio("noop")
    async def noop(_job: Job[Any]) -> None:
        sys.setprofile(None)
        begun.set()

    settings, pick_ups = make_settings(concurrency=10), []
    with SyncJobClient(settings) as client:
        async with Worker(handlers, settings) as worker:
            for _ in range(7):  # a marker of the job before may be heard in between
                await worker.hold(60.0)
                await wait_until(lambda: worker.stats()["idle"]["until"] is not None)
                begun.clear()
                with Calls() as calls:
                    await asyncio.to_thread(client.enqueue, "noop")
                    await begun.wait()
                pick_ups.append(calls)

    fewest = min(pick_ups, key=lambda calls: calls.each(1))
    assert fewest.each(1) <= CALLS_OF_A_PICK_UP, fewest.told(1)


async def test_jobs_leave_no_garbage(make_settings: Callable[..., Settings]) -> None:
    """Nothing of a job that has completed refers to itself, so that Python need not look for it."""
    handlers = HandlerRegistry()

    @handlers.audio("wait")
    async def wait(job: Job[Any]) -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        await job.progress(50)

    @handlers.audio("call")
    def call(_job: Job[Any]) -> None:
        """Do nothing, in a thread."""

    settings, jobs = make_settings(concurrency=10), [{"name": "wait"}, {"name": "call"}] * JOBS
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        await client.enqueue_many(jobs[:20])
        await worker.hold(60.0)
        gc.collect()
        gc.disable()
        try:
            await client.enqueue_many(jobs)
            await worker.hold(60.0)
            left = gc.collect()
        finally:
            gc.enable()
        assert worker.stats()["outcomes"] == {"completed": len(jobs) + 20}
    assert left < JOBS / 4


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


class Journey:
    """Follows one job, whose id, data and result have ``MARK``, until its result is sent.

    ``takes`` are the modules that are given it, as an argument or as what a call of theirs returns;
    ``gives`` those that call another module with it, or return it to one.
    """

    MARK = "m4rked"

    def __init__(self) -> None:
        self.takes: set[str | None] = set()
        self.gives: set[str | None] = set()
        self._is_sent = False

    def __enter__(self) -> Self:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, value: Any) -> None:
        here = module_of(frame)
        if self._is_sent or here is None:
            return
        if event == "call" and any(map(self._is_in, _arguments(frame))):
            self._hand_on(_caller_of(frame), here)
            self._is_sent = frame.f_code.co_qualname == "Connection.send"
        elif event == "return" and self._is_in(value):
            self._hand_on(here, _caller_of(frame))

    def _hand_on(self, giver: str | None, taker: str | None) -> None:
        if giver != taker:
            self.gives.add(giver)
            self.takes.add(taker)

    def _is_in(self, value: Any, depth: int = 4) -> bool:
        if isinstance(value, str | bytes | bytearray):
            return self.MARK in (value if isinstance(value, str) else value.decode("latin-1"))
        parts: Any = ()
        if isinstance(value, dict):
            parts = value.values()
        elif isinstance(value, list | tuple):
            parts = value
        elif isinstance(value, msgspec.Struct):
            parts = (getattr(value, name) for name in value.__struct_fields__)
        elif isinstance(value, Job | HandlerCall):
            names = getattr(value, "__slots__", None) or vars(value)
            parts = (getattr(value, name, None) for name in names)
        return depth > 0 and any(self._is_in(part, depth - 1) for part in parts)


def _arguments(frame: FrameType) -> Iterator[Any]:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return (frame.f_locals.get(name) for name in names)


def module_of(frame: FrameType) -> str | None:
    file = frame.f_code.co_filename
    return Path(file).stem if file.startswith(PACKAGE) else None


def stack_of(frame: FrameType | None) -> list[str]:
    """The package's modules on a frame's stack, the innermost last, each run of one once.

    Redis's answer calls nobody: what waited for it goes on where it stood.
    """
    modules: list[str] = []
    while frame is not None and frame.f_code is not Answer.deliver.__code__:
        module = module_of(frame)
        if module is not None and modules[-1:] != [module]:
            modules.append(module)
        frame = frame.f_back
    return modules[::-1]


def _caller_of(frame: FrameType) -> str | None:
    """The nearest module of the package that called; None for the event loop."""
    caller = frame.f_back
    while caller is not None and module_of(caller) is None:
        caller = caller.f_back
    return None if caller is None else module_of(caller)


async def test_a_jobs_way_is_as_short_as_the_page_on_architecture_says(
    make_settings: Callable[..., Settings],
) -> None:
    """At most 13 modules hand it on; these and those that they ask are what the page lists."""
    handlers = HandlerRegistry()

    @handlers.audio("echo")
    async def echo(job: Job[dict[str, str]]) -> dict[str, str]:
        return job.data

    settings = make_settings(concurrency=1)
    plain = {"name": "echo", "data": {"text": "x"}}
    marked = {"name": "echo", "data": {"text": Journey.MARK}, "job_id": Journey.MARK}
    async with JobClient(settings) as client:
        await client.enqueue_many([plain] * JOBS)
        with Calls() as calls:
            await Worker(handlers, settings).drain()
        await client.enqueue_many([plain, marked, plain])
        with Journey() as journey:
            await Worker(handlers, settings).drain()

    by_module: Counter[str] = Counter()
    for name, count in calls.by_function.items():
        by_module[name.partition(".")[0]] += count
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = page.partition("### How long these ways are")[2].partition("**A lost lock")[0]
    handing, asked = [
        re.findall(r"`(\w+)`", line) for line in re.findall(r"^> .*$", told, re.MULTILINE)
    ]
    handed_on = journey.takes & journey.gives - {None}
    if sys.version_info >= (3, 12):  # the task that it makes begins the handler before it returns
        handed_on.remove("handler_tasks")
    assert handed_on == {*handing}
    assert len(handing) <= MODULES_OF_A_JOB
    assert f"**A job: {len(handing)} modules**" in told
    needed = {*handing, *asked}
    if sys.version_info >= (3, 12):
        needed.remove("begun_coroutine")
    assert {name for name, count in by_module.items() if count > JOBS / 2} == needed
    assert f"ask {len(asked)} others" in told


class Stacks:
    """By which modules some functions were called first, in whatever thread."""

    def __init__(self, *names: str) -> None:
        self.of: dict[str, list[str]] = {}
        self._names = names

    def __enter__(self) -> Self:
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname
        if event == "call" and name in self._names and name not in self.of:
            self.of[name] = stack_of(frame)


class Endless:
    """A handler that ends only when it is cancelled, and tells when it begins and ends."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.handlers.audio("work")(self._work)
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def _work(self, _job: Job[Any]) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_a_lost_lock_takes_few_calls_to_its_handlers_cancellation(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """Counted from the lock keeper's thread, which finds that another token stands in the lock."""
    endless, settings = Endless(), make_settings(lock_duration=1.0)
    with Stacks("_in_loop", "HandlerCall.abort") as stacks:
        async with JobClient(settings) as client, Worker(endless.handlers, settings):
            job_id = await client.enqueue("work")
            await asyncio.wait_for(endless.begun.wait(), 10)
            await redis.set(f"bull:{queue_name}:{job_id}:lock", "another worker's")
            await asyncio.wait_for(endless.ended.wait(), 10)

    in_thread, in_loop = stacks.of["_in_loop"], stacks.of["HandlerCall.abort"]
    assert (in_thread[0], in_loop[-1]) == ("locks", "handler_call")
    assert len(in_thread + in_loop) - 1 <= CALLS_OF_A_LOST_LOCK, (in_thread, in_loop)


async def test_a_cancel_request_takes_few_calls_to_its_handlers_cancellation(
    make_settings: Callable[..., Settings],
) -> None:
    """Counted from the blocking read that hears it: in the loop, the keeper's thread, the loop."""
    endless, settings = Endless(), make_settings()
    heard, checked, taken = "MarkerListener.heard", "LockKeeper.check_soon", "take_back"
    with Stacks(heard, checked, taken, "_in_loop", "HandlerCall.abort") as stacks:
        async with JobClient(settings) as client, Worker(endless.handlers, settings):
            job_id = await client.enqueue("work")
            await asyncio.wait_for(endless.begun.wait(), 10)
            await client.cancel(job_id, reason="not wanted", timeout=10)

    ways = [stacks.of[heard][-2:], stacks.of[checked][-2:], stacks.of[taken]]
    ways.append(stacks.of["_in_loop"] + stacks.of["HandlerCall.abort"])
    assert ways[0] == ["dispatcher", "listener"]
    assert [way[0] for way in ways] == ["dispatcher", "dispatcher", "locks", "locks"]
    assert ways[-1][-1] == "handler_call"
    assert sum(len(way) - 1 for way in ways) <= CALLS_OF_A_CANCEL, ways


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
