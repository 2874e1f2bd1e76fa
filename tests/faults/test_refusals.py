"""A server that answers, and refuses: full, read-only, locked, or with keys of other programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import Bench, eventually, lasting
from tests.support.speaking import RedisSpeaker
from tests.support.waiting import wait_until

# The most commands that a worker whose server refuses may send in a second.
CALM_COMMANDS = 10
# How soon a worker notices that its server serves again, after a short refusal.
NOTICED_WITHIN = 5.0


class Holding:
    """One handler whose jobs wait for a gate."""

    def __init__(self, bench: Bench) -> None:
        self.gate = asyncio.Event()
        self.handlers = HandlerRegistry()
        self._bench = bench
        self.handlers.audio("work")(self.work)

    async def work(self, job: Job[Any]) -> str:
        self._bench.ledger.start(job.id)
        await self.gate.wait()
        self._bench.ledger.end(job.id)
        return job.id


def _full(bench: Bench) -> None:
    bench.redis.config_set("maxmemory", 1)


def _not_full(bench: Bench) -> None:
    bench.redis.config_set("maxmemory", 0)


def _replica(bench: Bench) -> None:
    bench.redis.replicaof("127.0.0.1", "1")


def _primary(bench: Bench) -> None:
    bench.redis.replicaof("NO", "ONE")


def _alone(bench: Bench) -> None:
    bench.redis.config_set("min-replicas-to-write", 1)


def _enough(bench: Bench) -> None:
    bench.redis.config_set("min-replicas-to-write", 0)


def _forbidden(bench: Bench) -> None:
    bench.redis.execute_command("ACL", "SETUSER", "default", "-evalsha")


def _allowed(bench: Bench) -> None:
    bench.redis.execute_command("ACL", "SETUSER", "default", "+evalsha")


REFUSALS: dict[str, tuple[Callable[[Bench], None], Callable[[Bench], None], str]] = {
    "replica": (_replica, _primary, "point REDIS_URL at the primary"),
    "no replicas": (_alone, _enough, "repair the replication"),
}
# What a worker meets when it writes, and not while it waits.
OUTLIVED = {
    **REFUSALS,
    "forbidden": (_forbidden, _allowed, "grant what the message names"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", OUTLIVED)
async def test_running_jobs_outlive_a_refusal(bench: Bench, kind: str) -> None:
    """Jobs that end while the server refuses are written once it serves again."""
    refuse, serve, fix = OUTLIVED[kind]
    holding = Holding(bench)
    with capture_logs() as logs:
        async with bench.worker(holding.handlers, lock_duration=20.0) as worker:
            ids = await bench.add({}, {}, {})
            await bench.started(*ids)
            await wait_until(lambda: bench.blocked() == 1, what="the block")
            refuse(bench)
            holding.gate.set()
            await wait_until(lambda: bench.refusals() >= 3, what="refusals")
            serve(bench)

            await bench.settled(ids, within=NOTICED_WITHIN)
            (more,) = await bench.add({})
            await bench.settled([*ids, more], within=NOTICED_WITHIN)
            assert worker.stats()["free"] == 4
    said = [line for line in logs if line["event"] == "redis.refused"]
    assert len(said) == 1
    assert fix in said[0]["error"]


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.parametrize("kind", REFUSALS)
async def test_an_idle_worker_is_calm_while_its_server_refuses(bench: Bench, kind: str) -> None:
    """A worker whose block is refused says why, pauses, and works when the server serves again."""
    refuse, serve, fix = REFUSALS[kind]
    holding = Holding(bench)
    holding.gate.set()
    refuse(bench)
    with capture_logs() as logs:
        async with bench.worker(holding.handlers):
            before = bench.refusals()
            await lasting(1.0)
            sent = bench.refusals() - before
            serve(bench)
            ids = await bench.add({})

            assert sent <= CALM_COMMANDS
            await bench.settled(ids, within=NOTICED_WITHIN)
    assert [fix in line["error"] for line in logs if line["event"] == "redis.refused"] == [True]


@pytest.mark.asyncio
async def test_a_full_server_is_named_and_waited_for(bench: Bench) -> None:
    """A worker whose server is full says so, and runs what waits once there is room."""
    ids = await bench.add({}, {})
    holding = Holding(bench)
    holding.gate.set()
    _full(bench)
    with capture_logs() as logs:
        async with bench.worker(holding.handlers):
            await wait_until(lambda: bench.refusals() >= 2, what="refused takes")
            _not_full(bench)

            await bench.settled(ids, within=NOTICED_WITHIN)
    said = [line["error"] for line in logs if line["event"] == "redis.refused"]
    assert len(said) == 1
    assert "raise maxmemory" in said[0]


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_recovery_that_was_refused_is_tried_again(bench: Bench) -> None:
    """Jobs of a killed worker are recovered though the server refused just then."""
    victim = bench.process()
    await victim.says("worker.started")
    ids = await bench.add({"do": "first-hold"})
    await bench.started(*ids)
    victim.kill()
    bench.redis.config_set("min-replicas-to-write", 1)
    bench.process()
    await wait_until(lambda: not bench.redis.exists(bench.key(f"{ids[0]}:lock")))
    before = bench.refusals()
    await wait_until(lambda: bench.refusals() >= before + 2, what="refused recoveries")

    bench.redis.config_set("min-replicas-to-write", 0)

    await bench.settled(ids, within=NOTICED_WITHIN)


@pytest.mark.asyncio
async def test_a_wrong_password_is_named_and_can_be_put_right(bench: Bench) -> None:
    """A worker whose password is wrong says so, and works when the server takes it."""
    ids = await bench.add({})
    bench.redis.config_set("requirepass", "right")
    worker = bench.process(redis_url=f"redis://:made-up-secret@127.0.0.1:{bench.server.port}")
    said = await worker.says("redis.unavailable")

    bench.redis.config_set("requirepass", "made-up-secret")

    await bench.settled(ids, within=NOTICED_WITHIN)
    assert "REDIS_URL is wrong" in said["error"]
    assert "made-up-secret" not in worker.text()


class OldServer(RedisSpeaker):
    """Knows no command but CLIENT ID."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def answer(self, command: list[bytes]) -> bytes:
        self.asked.append(command[0])
        return b":7\r\n" if command == [b"CLIENT", b"ID"] else _UNKNOWN % command[0]


_UNKNOWN = b"-ERR unknown command '%b'\r\n"


@pytest.mark.asyncio
async def test_a_server_that_is_too_old_is_named(bench: Bench) -> None:
    """A worker whose server does not know its commands says so, and does not ask again at once."""
    async with OldServer() as old:
        with capture_logs() as logs:
            async with bench.worker(
                Holding(bench).handlers, redis_url=f"redis://127.0.0.1:{old.port}"
            ):
                await wait_until(lambda: any(_refused(logs)), what="the log line")
        assert len(old.asked) <= CALM_COMMANDS
    assert "too old" in _refused(logs)[0]


def _refused(logs: Iterable[MutableMapping[str, Any]]) -> list[str]:
    return [line["error"] for line in logs if line["event"] == "redis.refused"]


@pytest.mark.asyncio
async def test_a_password_that_was_changed_is_named(bench: Bench) -> None:
    """A worker whose server wants a password all of a sudden says so, and where to put it."""
    worker = bench.process()
    await worker.says("worker.started")
    await wait_until(lambda: bench.blocked() == 1, what="the block")
    bench.redis.config_set("requirepass", "new")
    bench.redis.client_kill_filter(_type="normal", skipme=True)

    said = await worker.says("redis.unavailable")

    assert "put it into REDIS_URL" in said["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "part",
    [
        "wait",
        *(
            pytest.param(part, marks=pytest.mark.long)
            for part in ("marker", "active", "prioritized", "delayed", "meta", "stalled", "events")
        ),
    ],
)
async def test_a_key_of_another_type_is_named_and_can_be_put_right(bench: Bench, part: str) -> None:
    """A key that is not BullMQ's is named once; the worker is calm, and works when it is gone."""
    holding = Holding(bench)
    holding.gate.set()
    bench.redis.set(bench.key(part), "another program's")
    with capture_logs() as logs:
        async with bench.worker(holding.handlers) as worker:
            worker.wake()
            before = _commands(bench)
            await lasting(1.0)
            sent = _commands(bench) - before
            bench.redis.delete(bench.key(part))
            ids = await bench.add({})

            assert sent <= 3 * CALM_COMMANDS
            await bench.settled(ids, within=NOTICED_WITHIN)
    said = [line["error"] for line in logs if line["log_level"] == "error"]
    assert len(said) <= 1
    if part in ("wait", "marker"):
        assert "another type than BullMQ's" in said[0]


def _commands(bench: Bench) -> int:
    stats: Any = bench.redis.info("stats")
    return int(stats["total_commands_processed"])


@pytest.mark.asyncio
async def test_a_finish_that_meets_a_key_of_another_type_is_written_later(bench: Bench) -> None:
    """A result that can't be written is kept and written when it can; other slots go on."""
    holding = Holding(bench)
    async with bench.worker(holding.handlers, lock_duration=20.0):
        ids = await bench.add({}, {})
        await bench.started(*ids)
        bench.redis.set(bench.key("completed"), "another program's")
        holding.gate.set()
        await wait_until(lambda: bench.refusals() >= 2, what="the refusals")
        bench.redis.delete(bench.key("completed"))

        took = await eventually(lambda: len(bench.ids_in("completed")) == 2, within=10)

        assert took < NOTICED_WITHIN
        await bench.settled(ids)
