"""Random job schedulers, iteration by iteration, by Node's JobScheduler and by ours at one clock.

Both write to the same server with bullmq's own scripts, which take the time as an argument: so
every key is compared as it is, with no time left out.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from convolab_worker.bullmq import schedulers
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import read_active_job
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from tests.interop.schedules import schedules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.node import NodeProcess, NodeScripts

pytestmark = pytest.mark.asyncio
SEED = 20_261_126
ITERATIONS = 5
NOW = 1_803_859_200_000  # 1 March 2027: clocks change four weeks later
EVERY = (1, 40, 1000, 1500, 60_000, 3_600_000, 86_400_000, 7 * 86_400_000, 1_234_567)
IDS = ("nightly", "käse 🧀", "a b", "a:b:c", "n:i:::* * * * *", "n:i::UTC:5000", "0", "__proto__")


@dataclass(slots=True)
class Case:
    """A schedule that a producer writes at ``now``, and what a program then changes of its job."""

    number: int
    id: str
    now: int
    repeat: dict[str, Any]
    template: dict[str, Any]
    changed: dict[str, Any]
    lags: list[float]
    told: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.number}: {self.id!r} at {self.now} {self.repeat} {self.changed} {self.lags}"


def cases(seed: int, count: int) -> Iterator[Case]:
    """Schedules of both kinds, with dates, limits and offsets, well formed or not."""
    draw = random.Random(seed)
    patterns = schedules(seed, count)
    for number, pattern in enumerate(patterns):
        now = pattern.after if draw.random() < 0.7 else NOW
        repeat: dict[str, Any] = {}
        if draw.random() < 0.6:
            repeat["every"] = draw.choice(EVERY)
            _add(draw, repeat, "offset", (0, 1, 500, 30_000, 10**10, -700, 0.5), 0.4)
        else:
            repeat |= {"pattern": pattern.pattern, "hashSeed": pattern.hashSeed}
            if pattern.tz is not None:
                repeat["tz"] = pattern.tz
        _add(draw, repeat, "limit", (1, 2, 3, 100, 0, -1, 2.5, "2"), 0.25)
        _add(draw, repeat, "count", (0, 1, 3), 0.05)
        _add(draw, repeat, "immediately", (True, True, False), 0.2)
        long = repeat.get("every", 3_600_000)
        _add(draw, repeat, "startDate", _dates(draw, now, long, (-3, 0, 1, 2.5, 30)), 0.25)
        _add(draw, repeat, "endDate", _dates(draw, now, long, (1, 2.5, 4, 30, -1)), 0.25)
        if draw.random() < 0.02:
            repeat |= {"every": 1000, "pattern": "* * * * *"}
        opts: dict[str, Any] = {}
        _add(draw, opts, "attempts", (3, "2"), 0.2)
        _add(draw, opts, "priority", (1, 7), 0.2)
        _add(draw, opts, "removeOnComplete", (True, 5, {"age": 3600}), 0.2)
        _add(draw, opts, "failParentOnFailure", (True,), 0.05)
        template: dict[str, Any] = {
            "name": "work",
            "data": draw.choice([{"a": 1}, "text", [], None]),
            "opts": opts,
        }
        changed: dict[str, Any] = {}
        if draw.random() < 0.15:
            what = draw.choice(("limit", "endDate", "startDate", "offset", "count"))
            changed[what] = draw.choice(
                (now + 5 * long, None, 0, "") if "Date" in what else (None, 2, True, 0, "")
            )
        lags = [draw.choice((0, 0, 1, 350, 2.5 * long)) for _ in range(ITERATIONS)]
        yield Case(number, draw.choice(IDS), now, repeat, template, changed, lags)


def _add(draw: random.Random, given: dict[str, Any], name: str, values: Any, share: float) -> None:
    if draw.random() < share:
        given[name] = draw.choice(values)


def _dates(draw: random.Random, now: int, long: float, steps: tuple[float, ...]) -> list[Any]:
    """Moments around the schedule's first, as Node's producers and others write them."""
    at = round(now + long * draw.choice(steps))
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return [at, at, moment.isoformat(timespec="milliseconds"), f"{moment:%Y-%m-%dT%H:%M:%SZ}"]


@dataclass(frozen=True, slots=True)
class Sides:
    """Node's schedules under one prefix and ours under another, and how each is asked."""

    node: NodeProcess
    redis: Any
    connection: Connection
    node_prefix: str
    our_prefix: str

    async def ask(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Have Node do something for each of many cases."""
        await self.node.send(requests)
        answers: list[dict[str, Any]] = await self.node.receive(timeout=120)
        return answers

    async def upsert(self, given: list[Case], prefix: str) -> list[dict[str, Any]]:
        """Have Node write the schedules under a prefix."""
        return await self.ask(
            [
                {
                    "op": "upsert", "now": case.now, "prefix": prefix, "queue": f"q{case.number}",
                    "id": case.id, "repeat": case.repeat, "template": case.template,
                }
                for case in given
            ]
        )  # fmt: skip

    async def fetch(self, prefix: str, case: Case) -> tuple[str, float] | None:
        """Take the next job of a queue as a worker does; its id, and when it was due."""
        base = f"{prefix}:q{case.number}"
        for found, score in await self.redis.zrange(f"{base}:delayed", 0, 0, withscores=True):
            await self.redis.zrem(f"{base}:delayed", found)
            await self.redis.lpush(f"{base}:active", found)
            return found, score // 0x1000
        found = await self.redis.lmove(f"{base}:wait", f"{base}:active", "RIGHT", "LEFT")
        if found is None and (popped := await self.redis.zpopmin(f"{base}:prioritized")):
            found = popped[0][0]
            await self.redis.lpush(f"{base}:active", found)
        return None if found is None else (found, 0.0)

    async def change(self, prefix: str, case: Case, job_id: str) -> None:
        """Change the schedule's options in its job, as another program might."""
        key = f"{prefix}:q{case.number}:{job_id}"
        opts = json.loads(await self.redis.hget(key, "opts"))
        opts["repeat"] = {**opts["repeat"], **case.changed}
        await self.redis.hset(key, "opts", json.dumps(opts))

    async def go_on(self, case: Case, job_id: str) -> str | None:
        """Add the iteration after that of a job, as our worker does; why not, if not."""
        keys = QueueKeys(self.our_prefix, f"q{case.number}")
        flat = await self.connection.call(Purpose.FETCH, "HGETALL", keys.job(job_id))
        job = read_active_job(keys.queue, job_id.encode(), "token", flat)
        try:
            call = schedulers.next_iteration(keys, job, case.now)
        except schedulers.ScheduleOver:
            return None
        except schedulers.UNREADABLE as error:
            return str(error)
        await run_script(self.connection, Purpose.FETCH, call)
        return None

    async def left(self, prefix: str, count: int) -> list[dict[str, Any]]:
        """Every key of every queue, by the queue's number."""
        keys = [key async for key in self.redis.scan_iter(f"{prefix}:*", count=10_000)]
        async with self.redis.pipeline(transaction=False) as asked:
            for key in keys:
                asked.type(key)
            for key, kind in zip(keys, await asked.execute(), strict=True):
                _READERS[kind](asked, key)
            values = await asked.execute()
        found: list[dict[str, Any]] = [{} for _ in range(count)]
        for key, value in zip(keys, values, strict=True):
            queue, _, short = key.removeprefix(f"{prefix}:q").partition(":")
            told = [fields for _, fields in value] if short == "events" else value
            found[int(queue)][short] = _read(told, prefix)
        return found


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "string": lambda redis, key: redis.get(key),
    "hash": lambda redis, key: redis.hgetall(key),
    "list": lambda redis, key: redis.lrange(key, 0, -1),
    "zset": lambda redis, key: redis.zrange(key, 0, -1, withscores=True),
    "stream": lambda redis, key: redis.xrange(key),
}


def _read(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        told = {key: _read(each, prefix) for key, each in value.items()}
        return {key: json.loads(each) if key == "opts" else each for key, each in told.items()}
    return value.replace(prefix, "P") if isinstance(value, str) else value


async def run(node: NodeScripts, server_url: str, given: list[Case]) -> Counter[str]:
    """Run the cases; what differs is in ``told`` of each. Returns how often what has happened."""
    base, counted = f"iterations-{uuid.uuid4().hex[:8]}", Counter[str]()
    connection = Connection(Address.parse(server_url), timeout=10.0, counter=CommandCounter())
    await connection.open()
    script = await node.start("iterations.mjs", server_url)
    async with script, Redis.from_url(server_url, decode_responses=True) as redis:
        sides = Sides(script, redis, connection, f"{base}-node", f"{base}-ours")
        answers = await sides.upsert(given, sides.node_prefix)
        await sides.upsert(given, sides.our_prefix)
        going = [case for case, answer in zip(given, answers, strict=True) if answer.get("ok")]
        counted["written"] = len(going)
        for turn in range(ITERATIONS):
            going = await _turn(sides, going, turn, len(given), counted)
        await redis.unlink(*[key async for key in redis.scan_iter(f"{base}*", count=10_000)])
    await connection.close()
    return counted


async def _turn(
    sides: Sides, given: list[Case], turn: int, count: int, counted: Counter[str]
) -> list[Case]:
    """One iteration of each; those that go on."""
    fetched = []
    for case in given:
        (found, due) = (await sides.fetch(sides.node_prefix, case)) or (None, 0)
        our_next = await sides.fetch(sides.our_prefix, case)
        assert (our_next or (None,))[0] == found
        if found is not None:
            case.now = round(max(case.now, due) + case.lags[turn])
            if turn == 0 and case.changed:
                await sides.change(sides.node_prefix, case, found)
                await sides.change(sides.our_prefix, case, found)
            fetched.append((case, found))
    answers = await sides.ask(
        [
            {
                "op": "next", "now": case.now, "prefix": sides.node_prefix,
                "queue": f"q{case.number}", "id": job_id,
            }
            for case, job_id in fetched
        ]
    )  # fmt: skip
    problems = [await sides.go_on(case, job_id) for case, job_id in fetched]
    node, our = [
        await sides.left(prefix, count) for prefix in (sides.node_prefix, sides.our_prefix)
    ]
    going = []
    for (case, _), answer, problem in zip(fetched, answers, problems, strict=True):
        theirs, ours = node[case.number], our[case.number]
        if answer.get("error") is not None:  # such a schedule ends with Node; ours may go on
            counted["error"] += 1
            continue
        if answer["ok"] is None and problem is not None:  # a pattern that is never due, told here
            counted["silent"] += 1
            continue
        if problem is not None:
            case.told.append(f"turn {turn}: Node {answer}, ours {problem}")
        case.told += [
            f"turn {turn} {key}\n    Node {theirs.get(key)}\n    ours {ours.get(key)}"
            for key in sorted({*theirs, *ours})
            if theirs.get(key) != ours.get(key)
        ]
        counted["next" if answer.get("ok") else "end"] += 1
        if not case.told and answer.get("ok"):
            going.append(case)
    return going


@pytest.mark.parametrize(
    "count", [pytest.param(70, id="short"), pytest.param(1500, id="long", marks=pytest.mark.long)]
)
async def test_random_schedules_go_on_as_with_nodes_job_scheduler(
    node: NodeScripts, server_url: str, count: int
) -> None:
    """Each key after each of five iterations, each of which begins late by chance."""
    given = [*cases(SEED, count)]

    counted = await run(node, server_url, given)

    assert not any(case.told for case in given), "\n".join(
        itertools.chain.from_iterable([str(case), *case.told] for case in given if case.told)
    )
    assert counted["next"] > count
    assert counted["end"] > count / 20
