"""Workers that are killed at random while their jobs' steps are paid for."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from typing import Any

import pytest

from tests.faults.harness import Bench, lasting
from tests.support.logged import LoggedProcess
from tests.support.waiting import wait_until

APP = "tests.faults.steps_app:handlers"
STEPS = {"text", "voice", "picture", "mix"}
WORKERS = 3


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


async def check_kills(bench: Bench, *, jobs: int, kills: int, pause: float, call: float) -> None:
    """Kill one of three workers now and then, until all jobs are done; then do the accounts."""
    chance = random.Random(jobs)

    def start() -> LoggedProcess:
        return bench.process(app=APP, log_level="info", max_stalled_count=1000)

    workers = [start() for _ in range(WORKERS)]
    await asyncio.gather(*[worker.says("worker.started") for worker in workers])
    ids = await bench.add(*[call] * jobs)
    killed = set()
    for _ in range(kills):
        await lasting(pause * 2 * chance.random())
        victim = workers.pop(chance.randrange(WORKERS))
        victim.kill()
        killed.add(victim.pid)
        workers.append(start())
    await wait_until(lambda: bench.count("completed") == jobs, timeout=120, what="all jobs' end")

    begun = calls_by_step(bench.ledger.starts())
    ended = calls_by_step(bench.ledger.ends())
    assert not any(call["recorded"] for calls in begun.values() for call in calls)
    assert begun.keys() == {(bench.key(job_id), name) for job_id in ids for name in STEPS}
    keys = {call["key"] for calls in begun.values() for call in calls}
    assert len(keys) == jobs * len(STEPS)
    for step, calls in begun.items():
        assert len({call["key"] for call in calls}) == 1
        cut_off = [call for call in calls if call["pid"] in killed]
        assert len(calls) <= 1 + len(cut_off), step
    check_results(bench, ids, ended)
    print(  # noqa: T201 - shown with -s: how hard it was
        f"{jobs} jobs, {kills} kills: {sum(map(len, begun.values()))} calls for {len(begun)} steps"
    )


def calls_by_step(entries: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The ledger's entries by job and step."""
    found = defaultdict(list)
    for entry in entries:
        found[entry["id"], entry["step"]].append(entry)
    return found


def check_results(
    bench: Bench, ids: list[str], ended: dict[tuple[str, str], list[dict[str, Any]]]
) -> None:
    """Each job has the results of calls that ended, and keeps nothing of its steps."""
    for job_id in ids:
        fields = bench.redis.hgetall(bench.key(job_id))
        assert not [field for field in fields if field.startswith("step:")]
        assert fields["atm"] == "1"
        for name, result in json.loads(fields["returnvalue"]).items():
            assert result in {f"{name} by {call['pid']}" for call in ended[bench.key(job_id), name]}


@pytest.mark.asyncio
async def test_no_recorded_step_is_called_again_after_a_kill(bench: Bench) -> None:
    """Each step begins once, and once more for each kill that fell inside it."""
    await check_kills(bench, jobs=60, kills=3, pause=0.3, call=0.03)


@pytest.mark.long
@pytest.mark.asyncio
async def test_no_recorded_step_of_500_jobs_is_called_again_after_40_kills(bench: Bench) -> None:
    """The same, for long enough that kills fall at every point of the handler."""
    await check_kills(bench, jobs=500, kills=40, pause=0.7, call=0.12)
