"""A server that restarts, freezes, or can't be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job
from convolab_worker.bullmq.protocol.scripts import counted_script, script
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost
from tests.faults.harness import Bench, eventually, lasting
from tests.support.proxy import TcpProxy
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

# Those whose answers are lost here: a server that does not know one yet has answered NOSCRIPT, and
# what is lost then is not the answer to a script that was executed.
_SCRIPTS = (
    "moveToActive", "moveToFinished", "moveToDelayed", "moveToWaitingChildren", "addStandardJob",
)  # fmt: skip


def _load_scripts(bench: Bench) -> None:
    for name in _SCRIPTS:
        for find in (script, counted_script):
            bench.redis.script_load(find(name).text)


@dataclass(frozen=True)
class Outage:
    """How a server goes (``restart`` or ``crash``), and for how many seconds."""

    how: str
    seconds: float

    async def happen(self, bench: Bench) -> None:
        end = bench.server.stop if self.how == "restart" else bench.server.kill
        await asyncio.to_thread(end)
        await lasting(self.seconds)
        await asyncio.to_thread(bench.server.start)


class Gated:
    """Handlers that note each call, and hold the jobs called ``hold`` until the gate opens."""

    def __init__(self, bench: Bench) -> None:
        self.gate = asyncio.Event()
        self.handlers = HandlerRegistry()
        self._ledger = bench.ledger
        self.handlers.audio("work")(self.work)
        self.handlers.image("hold")(self.hold)

    async def work(self, job: Job[Any]) -> str:
        self._ledger.start(job.id)
        self._ledger.end(job.id)
        return job.id

    async def hold(self, job: Job[Any]) -> str:
        self._ledger.start(job.id)
        await self.gate.wait()
        self._ledger.end(job.id)
        return job.id


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "outage",
    [
        pytest.param(Outage("restart", 0.2), id="restart"),
        pytest.param(Outage("crash", 0.2), id="crash"),
        pytest.param(Outage("restart", 10.0), id="10 s", marks=pytest.mark.long),
    ],
)
async def test_an_idle_worker_goes_on_after_a_restart(bench: Bench, outage: Outage) -> None:
    """A server that went and came back gives an idle worker its first job within 1 s."""
    gated = Gated(bench)
    async with bench.worker(gated.handlers):
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        await outage.happen(bench)

        ids = await bench.add({})
        took = await eventually(lambda: bench.ids_in("completed") == ids, within=5)

        assert took < 1.0
        await bench.settled(ids)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "outage",
    [
        pytest.param(Outage("restart", 0.2), id="restart"),
        pytest.param(Outage("crash", 0.2), id="crash"),
        pytest.param(Outage("crash", 8.0), id="longer than the locks", marks=pytest.mark.long),
    ],
)
async def test_jobs_that_run_through_a_restart_are_recorded_once(
    bench: Bench, outage: Outage
) -> None:
    """Jobs that were running while the server was away complete, and did not run again."""
    gated = Gated(bench)
    async with bench.worker(gated.handlers, lock_duration=5.0):
        ids = await bench.add({}, {}, name="hold")
        await bench.started(*ids)
        await outage.happen(bench)
        more = await bench.add({})
        gated.gate.set()

        await bench.settled([*ids, *more])


@pytest.mark.asyncio
async def test_locks_that_ran_out_in_an_outage_are_left_to_those_who_held_them(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A worker that is back sooner than its peer gives it time to lock its jobs again."""
    gated, idle = Gated(bench), Gated(bench)
    proxy = start_proxy(bench.server)
    async with bench.worker(gated.handlers, redis_url=proxy.url):
        ids = await bench.add({}, {}, name="hold")
        await bench.started(*ids)
        async with bench.worker(idle.handlers):
            proxy.cut(refuse=True)
            await Outage("crash", 1.2).happen(bench)
            await wait_until(lambda: bench.blocked() == 1, what="the return of the idle worker")
            await lasting(0.3)
            proxy.resume()
            await wait_until(
                lambda: all(bench.redis.exists(bench.key(f"{job_id}:lock")) for job_id in ids),
                what="the locks",
            )
            gated.gate.set()

            await bench.settled(ids)
            assert len(bench.ledger.starts()) == len(ids)


@pytest.mark.asyncio
async def test_jobs_that_end_while_the_server_is_away_are_recorded_when_it_is_back(
    bench: Bench,
) -> None:
    """The result of a job that ended without a server is written when there is one again."""
    gated = Gated(bench)
    async with bench.worker(gated.handlers, lock_duration=5.0) as worker:
        ids = await bench.add({}, {}, name="hold")
        await bench.started(*ids)
        await asyncio.to_thread(bench.server.stop)
        await wait_until(lambda: not worker.stats()["connected"])

        gated.gate.set()
        await wait_until(lambda: len(bench.ledger.ends()) == 2)
        await asyncio.to_thread(bench.server.start)

        await bench.settled(ids)
        assert worker.stats()["free"] == 4
        assert all(bench.field(job_id, "returnvalue") == f'"{job_id}"' for job_id in ids)


@pytest.mark.asyncio
async def test_a_frozen_server_is_waited_for(bench: Bench) -> None:
    """A server that stops answering for a while finds its worker as it was, jobs written once."""
    gated = Gated(bench)
    async with bench.worker(gated.handlers, lock_duration=10.0, command_timeout=0.5):
        ids = await bench.add({}, {}, name="hold")
        await bench.started(*ids)
        bench.server.suspend()
        gated.gate.set()
        await wait_until(lambda: len(bench.ledger.ends()) == 2)
        await lasting(1.5)  # three command time-outs
        bench.server.resume()

        await bench.settled(ids)
        (more,) = await bench.add({})
        took = await eventually(lambda: more in bench.ids_in("completed"), within=5)
        assert took < 1.0


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_server_that_was_frozen_for_a_minute_is_waited_for(bench: Bench) -> None:
    """A minute without answers, at the default time-outs, loses and doubles no job."""
    gated = Gated(bench)
    async with bench.worker(gated.handlers, lock_duration=120.0, command_timeout=10.0):
        ids = await bench.add({}, {}, name="hold")
        await bench.started(*ids)
        bench.server.suspend()
        gated.gate.set()
        await lasting(60.0)
        bench.server.resume()

        with Stopwatch() as since_resumed:
            await bench.settled(ids)
            (more,) = await bench.add({})
            await bench.settled([*ids, more])
        assert since_resumed.seconds < 2.0


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_server_that_is_loading_its_data_is_waited_for(bench: Bench) -> None:
    """A worker picks its first job up within 1 s of the end of the server's loading."""
    gated = Gated(bench)
    bench.redis.execute_command("DEBUG", "POPULATE", 4_000, "ballast", 100)
    async with bench.worker(gated.handlers):
        ids = await bench.add({}, {}, name="hold")
        await bench.started(*ids)
        bench.redis.config_set("key-load-delay", 200)
        bench.redis.config_set("loading-process-events-interval-bytes", 1024)
        reloading = asyncio.create_task(asyncio.to_thread(_reload, bench))
        await wait_until(lambda: bench.redis.info("persistence")["loading"] == 1, timeout=5)
        gated.gate.set()
        await reloading

        took = await eventually(lambda: len(bench.ids_in("completed")) == 2, within=10)

        assert took < 1.0
        await bench.settled(ids)


def _reload(bench: Bench) -> None:
    bench.redis.execute_command("DEBUG", "RELOAD")
    bench.redis.config_set("key-load-delay", 0)


@pytest.mark.asyncio
async def test_a_worker_that_starts_without_a_server_says_so_and_waits(bench: Bench) -> None:
    """A worker that is started before its server names the address, and works when it is up."""
    ids = await bench.add({})
    await asyncio.to_thread(bench.server.stop)
    worker = bench.process()
    said = await worker.says("redis.unavailable")

    await asyncio.to_thread(bench.server.start)

    assert str(bench.server.port) in said["error"]
    await bench.settled(ids, within=2)
    assert len(worker.events("redis.unavailable")) == 1


@pytest.mark.asyncio
async def test_the_link_that_timed_out_takes_the_waiting_one_with_it(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """After a silent outage the old blocked connection is killed; the next job comes at once."""
    proxy = start_proxy(bench.server)
    gated = Gated(bench)
    async with bench.worker(gated.handlers, redis_url=proxy.url, command_timeout=0.5) as worker:
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        proxy.blackhole()
        worker.wake()  # a command that gets no answer shows that the network is gone
        await wait_until(lambda: not worker.stats()["connected"], what="the time-out")
        proxy.resume()
        await wait_until(lambda: worker.stats()["connected"], what="the reconnection")

        ids = await bench.add({})
        took = await eventually(lambda: bench.ids_in("completed") == ids, within=5)

        assert took < 1.0
        await bench.settled(ids)


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_block_whose_answer_is_overdue_is_given_up(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """Silence on the waiting connection alone is noticed when its answer is overdue."""
    proxy = start_proxy(bench.server)
    gated = Gated(bench)
    settings = {"redis_url": proxy.url, "idle_min": 0.5, "idle_max": 0.5}
    async with bench.worker(gated.handlers, **settings):
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        proxy.blackhole()
        ids = await bench.add({})
        await wait_until(lambda: bench.blocked() == 0, what="the lost marker")
        proxy.resume()

        await bench.settled(ids)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("which", "busy"),
    [
        ("command", False),
        ("waiting", False),
        ("all", False),
        ("command", True),
        ("waiting", True),
        ("locks", True),
        ("all", True),
    ],
)
async def test_a_killed_connection_is_made_again(
    bench: Bench,
    which: str,
    busy: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """CLIENT KILL of any connection loses nothing, and the next job comes within 1 s."""
    gated = Gated(bench)
    async with bench.worker(gated.handlers):
        ids = await bench.add({}, {}, name="hold") if busy else []
        await bench.started(*ids)
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        await wait_until(lambda: _connections(bench, which), what="the connection")
        for connection in _connections(bench, which):
            bench.redis.client_kill_filter(_id=connection)

        more = await bench.add({})
        took = await eventually(lambda: bench.ids_in("completed") == more, within=5)
        gated.gate.set()

        assert took < 1.0
        await bench.settled([*ids, *more])


def _connections(bench: Bench, which: str) -> list[str]:
    """The ids of the worker's connections of that kind, which it opens in this order."""
    clients: Any = bench.redis.client_list()
    own = str(bench.redis.client_id())
    ids = sorted((client["id"] for client in clients if client["id"] != own), key=int)
    kinds = {"command": slice(0, 1), "waiting": slice(1, 2), "locks": slice(2, 3)}
    return ids[kinds.get(which, slice(None))]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "cut", [pytest.param(True, id="cut"), pytest.param(False, id="silent", marks=pytest.mark.long)]
)
async def test_a_take_whose_answer_was_lost_is_adopted(
    bench: Bench,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    cut: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A job whose fetch was executed without an answer runs once and soon."""
    proxy = start_proxy(bench.server)
    _load_scripts(bench)
    gated = Gated(bench)
    settings = {"redis_url": proxy.url, "lock_duration": 30.0}
    async with bench.worker(gated.handlers, **settings):
        (warm,) = await bench.add({})  # from here on the script is known to the server
        await bench.settled([warm])
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        lost = proxy.swallow_replies(matching=b"EVALSHA", cut=cut)
        (job_id,) = await bench.add({})
        await wait_until(lost.done.is_set, what="the lost reply")

        await bench.settled([warm, job_id])
        assert bench.field(job_id, "atm") == "1"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("waiting", "cut"),
    [
        pytest.param(0, True, id="nothing next, cut"),
        pytest.param(2, True, id="next ones, cut"),
        pytest.param(2, False, id="next ones, silent", marks=pytest.mark.long),
        pytest.param(0, False, id="nothing next, silent", marks=pytest.mark.long),
    ],
)
async def test_a_finish_whose_answer_was_lost_is_found_written(
    bench: Bench,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    cut: bool,  # noqa: FBT001 - a parameter of the test
    waiting: int,
) -> None:
    """A finish that was executed without an answer is not repeated; the job it took runs once."""
    proxy = start_proxy(bench.server)
    _load_scripts(bench)
    gated = Gated(bench)
    settings = {"redis_url": proxy.url, "lock_duration": 30.0, "concurrency": 1}
    async with bench.worker(gated.handlers, **settings) as worker:
        (held,) = await bench.add({}, name="hold")
        more = await bench.add(*[{}] * waiting)
        await bench.started(held)
        lost = proxy.swallow_replies(matching=b"returnvalue", cut=cut)
        gated.gate.set()
        await wait_until(lost.done.is_set, what="the lost reply")

        await bench.settled([held, *more])
        await wait_until(lambda: worker.stats()["free"] == 1, what="the free slot")
        assert bench.field(held, "atm") == "1"
        ended = {"completed": 1 + waiting}  # and nothing is counted as lost
        await wait_until(lambda: worker.stats()["outcomes"] == ended, what="its report")


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["retried", "failed"])
async def test_a_failure_whose_answer_was_lost_uses_up_one_attempt(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy], how: str
) -> None:
    """A failed attempt whose write was executed without an answer counts once."""
    proxy = start_proxy(bench.server)
    _load_scripts(bench)
    handlers = HandlerRegistry()
    gate = asyncio.Event()
    calls: list[int] = []

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        calls.append(job.attempt)
        if len(calls) == 1:
            await gate.wait()
        msg = "broken"
        raise ValueError(msg)

    attempts = 3 if how == "retried" else 1
    async with bench.worker(handlers, redis_url=proxy.url, lock_duration=30.0):
        (job_id,) = await bench.add({}, attempts=attempts, backoff={"type": "fixed", "delay": 50})
        await wait_until(lambda: calls)
        # No other command is under way, whose reply the proxy would take for that of the failure.
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        lost = proxy.swallow_replies(matching=b"failedReason", cut=True)
        gate.set()
        await wait_until(lost.done.is_set, what="the lost reply")

        await bench.all_in("failed", [job_id])
        assert calls == list(range(1, attempts + 1))
        assert bench.states() == {"failed": [job_id]}


@pytest.mark.asyncio
async def test_children_asked_for_while_the_server_is_away_are_added_when_it_is_back(
    bench: Bench,
) -> None:
    """A handler that asks for children without a server is not failed for it."""
    handlers = HandlerRegistry()
    gate, asked = asyncio.Event(), asyncio.Event()

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        done = await job.children_results()
        if "part" not in done:
            await gate.wait()
            asked.set()
            await job.enqueue_children([Child("part", data={}, key="part")])
        return done

    @handlers.audio("part")
    async def part(_: Job[Any]) -> str:
        return "made"

    async with bench.worker(handlers, lock_duration=5.0) as worker:
        (job_id,) = await bench.add({}, name="course")
        await wait_until(lambda: worker.stats()["running"] == 1)
        await wait_until(lambda: bench.blocked() == 1)
        await asyncio.to_thread(bench.server.stop)
        await wait_until(lambda: not worker.stats()["connected"])
        gate.set()
        await wait_until(asked.is_set, what="the wish for children")
        await asyncio.to_thread(bench.server.start)

        await bench.all_in("completed", [job_id])
        assert bench.field(job_id, "returnvalue") == '{"part":"made"}'


@pytest.mark.asyncio
async def test_results_of_children_are_waited_for_while_the_server_is_away(bench: Bench) -> None:
    """A handler that asks for its children's results without a server is not failed for it."""
    handlers = HandlerRegistry()
    gate, again = asyncio.Event(), asyncio.Event()

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        if not again.is_set():
            again.set()
            await job.enqueue_children([Child("part", data={}, key="part")])
        bench.ledger.start(job.id)
        await gate.wait()
        return await job.children_results()

    @handlers.audio("part")
    async def part(_: Job[Any]) -> str:
        return "made"

    async with bench.worker(handlers, lock_duration=5.0) as worker:
        (job_id,) = await bench.add({}, name="course")
        await bench.started(job_id)
        await asyncio.to_thread(bench.server.stop)
        await wait_until(lambda: not worker.stats()["connected"])
        gate.set()
        await lasting(0.2)  # time to ask in vain
        await asyncio.to_thread(bench.server.start)

        await bench.all_in("completed", [job_id])
        assert bench.field(job_id, "returnvalue") == '{"part":"made"}'


class _Course:
    """Handlers of a course with one part on a queue of its own; notes who ran the course."""

    def __init__(self, bench: Bench) -> None:
        self.ran: list[str] = []
        self.gate, self.part_gate = asyncio.Event(), asyncio.Event()
        self.parts = f"{bench.queue}-parts"

    def handlers(self, who: str) -> HandlerRegistry:
        handlers = HandlerRegistry()

        @handlers.course("course")
        async def course(job: Job[Any]) -> Any:
            self.ran.append(who)
            done = await job.children_results()
            if "part" not in done:
                await self.gate.wait()
                await job.enqueue_children([Child("part", key="part", queue=self.parts)])
            return done

        @handlers.audio("part")
        async def part(_: Job[Any]) -> str:
            await self.part_gate.wait()
            return "made"

        return handlers


@pytest.mark.asyncio
async def test_a_course_that_went_on_elsewhere_is_not_begun_again(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A worker that did not hear that its course waits does not run it when others have."""
    _load_scripts(bench)
    proxy, course = start_proxy(bench.server), _Course(bench)
    quick: dict[str, Any] = {"lock_duration": 30.0, "idle_min": 0.1, "idle_max": 0.2}
    both = (bench.queue, course.parts)
    async with bench.worker(course.handlers("first"), redis_url=proxy.url, **quick) as worker:
        (job_id,) = await bench.add({}, name="course")
        await wait_until(lambda: course.ran, what="the first run")
        async with bench.worker(course.handlers("second"), queues=both, **quick):
            lost = proxy.swallow_replies(matching=b"waiting-children")
            course.gate.set()
            await wait_until(lost.done.is_set, what="the lost reply")
            proxy.blackhole()
            course.part_gate.set()
            await bench.all_in("completed", [job_id])
            proxy.resume()

            await wait_until(lambda: worker.stats()["outcomes"], what="the end of the first run")

            assert course.ran == ["first", "second"]


def test_unavailable_is_the_root_of_what_a_server_can_do() -> None:
    """What is caught as RedisUnavailable includes lost answers and refusals."""
    assert issubclass(RedisRefused, RedisUnavailable)
    assert issubclass(ReplyLost, RedisUnavailable)
