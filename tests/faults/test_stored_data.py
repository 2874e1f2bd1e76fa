"""Values in Redis that make no sense: the worker goes on, and what they don't concern runs soon.

Each worker here has one slot and two queues. The odd value is on the first queue, or in a job of
it; a job of the other one is added, and is not to notice. Locks are long and idle waits longer, so
that neither a renewal nor a sweep wakes a worker that stands still.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from convolab_worker import HandlerRegistry, Job, JobClient, Worker
from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench, eventually, lasting
from tests.support.proxy import Swallow, TcpProxy
from tests.support.waiting import wait_until

# A fraction of any lock or wait here, and several times what a refusal or two take.
SOON_SECONDS = 5.0
# What an idle worker sends in half a second, and what it would send if it went round in circles.
CALM_COMMANDS = 50
# More digits than Python reads of a whole number.
MANY_DIGITS = "9" * 5000

Command = tuple[Any, ...]


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


class Pair:
    """A worker on two queues, of which the bench's is the odd one, and a client of the other."""

    def __init__(self, bench: Bench, **overrides: Any) -> None:
        self.bench = bench
        self.other = f"{bench.queue}-other"
        self.ran: set[str] = set()
        self.gate = asyncio.Event()
        defaults: dict[str, Any] = {
            "queues": (bench.queue, self.other),
            "concurrency": 1,
            "lock_duration": 30.0,
        }
        self.settings = {**defaults, **overrides}

    @property
    def handlers(self) -> HandlerRegistry:
        handlers = HandlerRegistry()

        @handlers.audio("work")
        async def work(job: Job[Any]) -> None:
            self.ran.add(job.id)

        @handlers.audio("break")
        async def break_(_: Job[Any]) -> None:
            msg = "broken"
            raise ValueError(msg)

        @handlers.course("children")
        async def children(job: Job[Any]) -> Any:
            return await job.children_results()

        @handlers.image("hold")
        async def hold(_: Job[Any]) -> None:
            await self.gate.wait()

        return handlers

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Worker]:
        """The worker, from its first look on; it has to stop, and to have run until then."""
        async with (
            JobClient(self.bench.settings(**self.settings)) as self.client,
            self.bench.worker(self.handlers, **self.settings) as worker,
        ):
            yield worker

    async def runs(self, queue: str, delay: float = 0.0) -> float:
        """Add a job and wait until it runs; how many seconds after it was due that was."""
        job_id = await self.client.enqueue("work", {}, queue=queue, delay=delay)
        within = SOON_SECONDS + delay
        took = await eventually(lambda: job_id in self.ran, within=within, what=f"a job of {queue}")
        return took - delay

    async def others_run(self) -> None:
        """Jobs of the other queue run, one after the other."""
        await self.runs(self.other)
        await self.runs(self.other)


def _put(bench: Bench, *commands: Command, job_id: str = "") -> None:
    """Execute commands; in their keys ``Q:`` stands for the queue, ``ID`` for the job."""
    for name, key, *arguments in commands:
        named = key.replace("Q:", bench.key("")).replace("ID", job_id)
        bench.redis.execute_command(name, named, *arguments)


# the queue's own concurrency

CONCURRENCIES = ["Infinity", "2.5", "1e3", "nan", "abc", "", MANY_DIGITS, "-1"]


@pytest.mark.asyncio
@pytest.mark.parametrize("value", CONCURRENCIES, ids=lambda value: value[:9] or "empty")
async def test_a_paused_queue_may_have_any_concurrency(bench: Bench, value: str) -> None:
    """The loop goes on whatever is written there, and the queue's job runs when it is put right."""
    pair = Pair(bench)
    ids = await bench.add({}, name="work")
    _put(bench, ("HSET", "Q:meta", "concurrency", value, "paused", "1"))
    async with pair.working():
        await pair.others_run()

        _put(bench, ("HDEL", "Q:meta", "concurrency", "paused"), ("ZADD", "Q:marker", 0, "0"))
        await bench.all_in("completed", ids, within=SOON_SECONDS)


@pytest.mark.asyncio
async def test_a_concurrency_with_a_fraction_lets_whole_jobs_run(bench: Bench) -> None:
    """With BullMQ's concurrency at 2.5, which its scripts take for 3, all jobs have their turn."""
    pair = Pair(bench, concurrency=4, idle_min=0.5, idle_max=0.5)
    ids = await bench.add({}, {}, {}, {}, name="hold")
    _put(bench, ("HSET", "Q:meta", "concurrency", "2.5"))
    async with pair.working() as worker:
        await wait_until(lambda: worker.stats()["running"] == 3, what="three jobs that run")
        await pair.others_run()
        pair.gate.set()

        await bench.all_in("completed", ids, within=SOON_SECONDS)


# due times

SCORES = ["inf", "9e22", "-5", "-inf"]  # Redis stores no NaN
# How the worker hears of it: when it starts, from a marker, or in the answer to a take.
HEARD: dict[str, tuple[Command, ...]] = {
    "at its start": (),
    "from a marker": (("ZADD", "Q:marker", "SCORE", "1"),),
    "from a take": (("ZADD", "Q:marker", 0, "0"),),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("heard", HEARD)
@pytest.mark.parametrize("score", SCORES)
async def test_a_delayed_job_may_have_any_score(bench: Bench, score: str, heard: str) -> None:
    """A worker that knows of one is calm, runs what is due, and can be stopped."""
    pair = Pair(bench)
    odd: list[Command] = [
        ("HSET", "Q:odd", "name", "work", "data", "{}", "opts", "{}", "timestamp", 1),
        ("ZADD", "Q:delayed", score, "odd"),
    ]
    if heard == "at its start":
        _put(bench, *odd)
    async with pair.working():
        if heard != "at its start":
            await wait_until(lambda: bench.blocked() == 1, what="the block")
            marker = [
                tuple(float(score) / 0x1000 if part == "SCORE" else part for part in command)
                for command in HEARD[heard]
            ]
            _put(bench, *odd, *marker)
        before = _commands(bench)
        await lasting(0.5)
        sent = _commands(bench) - before

        await pair.others_run()
        assert sent <= CALM_COMMANDS
        assert await pair.runs(bench.queue, delay=0.5) < 1.0


def _commands(bench: Bench) -> int:
    stats: Any = bench.redis.info("stats")
    return int(stats["total_commands_processed"])


MARKERS = [("inf", "1"), ("-inf", "1"), ("inf", "0"), ("0", b"\xff")]


@pytest.mark.asyncio
@pytest.mark.parametrize("marker", MARKERS, ids=str)
async def test_a_marker_may_be_anything(bench: Bench, marker: tuple[str, str | bytes]) -> None:
    """A worker that hears it runs what comes, and can be stopped."""
    pair = Pair(bench)
    async with pair.working():
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        _put(bench, ("ZADD", "Q:marker", *marker))

        await pair.others_run()
        await pair.runs(bench.queue)


# keys of another type, and limits

_LIMITED: Command = ("HSET", "Q:meta", "max", 1, "duration", 1000)
KEYS: dict[str, list[Command]] = {
    **{
        part: [("DEL", f"Q:{part}"), ("SET", f"Q:{part}", "another program's")]
        for part in ("wait", "active", "delayed", "meta", "stalled", "events", "completed")
    },
    "maxLenEvents": [("HSET", "Q:meta", "opts.maxLenEvents", "abc")],
    "limiter": [_LIMITED, ("LPUSH", "Q:limiter", "x")],
    "limiter's count": [_LIMITED, ("SET", "Q:limiter", "x")],
    "limiter's time": [_LIMITED, ("SET", "Q:limiter", 5, "PX", 9_000_000_000_000_000)],
    "rate": [("HSET", "Q:meta", "max", 1, "duration", "x")],
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KEYS)
async def test_what_is_wrong_with_a_queue_concerns_no_other(bench: Bench, kind: str) -> None:
    """Where BullMQ's scripts refuse one queue's jobs, those of another one run all the same."""
    pair = Pair(bench)
    await bench.add({}, name="work")
    _put(bench, *KEYS[kind])
    async with pair.working():
        await pair.others_run()


# jobs

HUGE = "9" * 400
FIELDS = [
    ("work", "ats", "many"), ("work", "stc", "many"), ("work", "priority", "nan"),
    ("work", "parent", "not JSON"), ("work", "parent", "1"), ("break", "parent", "[]"),
    ("break", "atm", "1e3"),
    ("break", "opts", f'{{"attempts":{HUGE},"kl":{HUGE},"stackTraceLimit":{HUGE}}}'),
]  # fmt: skip
SCHEDULED: list[Command] = [
    ("HSET", "Q:ID", "rjk", "s", "opts", json.dumps({"repeat": {"every": 1000}})),
    ("ZADD", "Q:repeat", 1, "s"),
    ("HSET", "Q:repeat:s", "name", "work", "data", "{}", "every", 1000),
]
JOBS: dict[str, tuple[str, list[Command]]] = {
    **{f"{each[1]} {each[2][:8]}": (each[0], [("HSET", "Q:ID", *each[1:])]) for each in FIELDS},
    "deduplication": ("work", [("HSET", "Q:ID", "deid", "x"), ("LPUSH", "Q:de:x", 1)]),
    **{
        part: ("children", [("SET", f"Q:ID:{part}", "another program's")])
        for part in ("processed", "failed", "dependencies", "unsuccessful")
    },
    "schedulers": ("work", [*SCHEDULED, ("SET", "Q:repeat", "another program's")]),
    "scheduler": ("work", [*SCHEDULED, ("SET", "Q:repeat:s", "another program's")]),
    "scheduler's every": ("work", [*SCHEDULED, ("HSET", "Q:repeat:s", "every", "abc")]),
    "scheduler's time": ("work", [*SCHEDULED, ("ZADD", "Q:repeat", "inf", "s")]),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", JOBS)
async def test_what_is_wrong_with_a_job_concerns_no_other(bench: Bench, kind: str) -> None:
    """Jobs behind it, and those of another queue, don't wait until it has come to an end."""
    name, commands = JOBS[kind]
    pair = Pair(bench)
    (odd,) = await bench.add({}, name=name)
    _put(bench, *commands, job_id=odd)
    (good,) = await bench.add({}, name="work")
    async with pair.working():
        await pair.others_run()
        await eventually(lambda: good in pair.ran, within=SOON_SECONDS, what="the job behind it")


@pytest.mark.asyncio
async def test_a_job_whose_end_is_refused_keeps_no_slot(bench: Bench) -> None:
    """What a worker tries to write again and again does not make it leave its queue alone."""
    pair = Pair(bench, queues=(bench.queue,))
    (odd,) = await bench.add({}, name="work")
    _put(bench, ("HSET", "Q:ID", "parent", "not JSON"), job_id=odd)
    (good,) = await bench.add({}, name="work")
    async with pair.working():
        await eventually(lambda: good in pair.ran, within=SOON_SECONDS, what="the job behind it")


REPEATS = {
    "pattern": '{"repeat":{"pattern":5}}',
    "zone": '{"repeat":{"pattern":"* * * * *","tz":"America"}}',
    "count": '{"repeat":{"every":1000,"count":1e400}}',
    "end": '{"repeat":{"every":1000,"endDate":1e400}}',
    "start": '{"repeat":{"pattern":"* * * * *","startDate":1e300}}',
    "last time": '{"repeat":{"pattern":"* * * * *"},"prevMillis":1e25}',
    "other option": f'{{"repeat":{{"every":1000}},"x":{HUGE}}}',
}


@pytest.mark.asyncio
@pytest.mark.parametrize("what", REPEATS)
async def test_a_repetition_that_cannot_go_on_ends_with_a_job_that_runs(
    bench: Bench, what: str
) -> None:
    """Repeat options that make no sense do not fail the job that has them."""
    pair = Pair(bench)
    (odd,) = await bench.add({}, name="work")
    _put(bench, *SCHEDULED, ("HSET", "Q:ID", "opts", REPEATS[what]), job_id=odd)
    async with pair.working():
        await wait_until(lambda: not bench.states().keys() & {"wait", "active"}, what="the end")

    assert bench.ids_in("completed") == [odd]


@pytest.mark.asyncio
async def test_an_odd_lock_hides_no_job_that_a_lost_take_has_taken(
    bench: Bench, server: EmbeddedServer, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """What is not a lock of BullMQ's, nor a request to cancel, is some other job's lock."""
    proxy = start_proxy(server)
    pair = Pair(bench, redis_url=proxy.url, command_timeout=10.0)
    async with pair.working():
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        lost = _Taken(bench)
        proxy.call(lambda: setattr(proxy, "swallow", lost))
        ids = await bench.add({}, name="work")
        await wait_until(lost.done.is_set, what="the lost reply")
        _put(bench, ("LPUSH", "Q:active", "odd"), ("SET", "Q:odd:lock", "cancel:{"))
        proxy.cut()

        await bench.all_in("completed", ids, within=SOON_SECONDS)


class _Taken(Swallow):
    """Swallows the reply to the script that has taken a job, of whichever queue."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(1, b"EVAL", cut=False)
        self._bench = bench

    def takes(self, request: bytes) -> bool:
        return bool(self._bench.ids_in("active")) and super().takes(request)
