"""Scaling to zero where a platform takes the CPU away: two short days, a sketch that fails."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import ClientSession

from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, Bench, Ledger, eventually, lasting
from tests.faults.rig.__main__ import days_of
from tests.faults.rig.day import Day
from tests.faults.rig.run import Contender, Place, Rig
from tests.faults.rig.supervisor import CloudRun
from tests.support.node import NodeScripts
from tests.support.server import server_program

pytestmark = pytest.mark.asyncio


def seed() -> int:
    """RIG_SEED, or a random one; a test that fails shows it."""
    return int(os.environ.get("RIG_SEED") or random.randrange(2**32))


async def test_every_job_of_two_days_is_done_once(
    node: NodeScripts, ledger: Ledger, tmp_path: Path
) -> None:
    """Wakes get lost, instances are frozen and ended, and each job runs once all the same."""
    del node  # the day has a producer in it
    day = Day(seconds=4, jobs=24, seed=seed(), scheduler_every=1.2, idle=0.5, lost=0.4)
    print(f"seed {day.seed}")  # noqa: T201 - to run the same day again
    with EmbeddedServer(program=server_program()) as server:
        result = await Rig(Contender.HELD, day, server, ledger, tmp_path).run(days=2)

    assert (result.ended, result.ended_twice, result.begun_again) == (48, 0, 0), result.log
    account = result.account
    assert account.lost > 0
    assert account.starts > 1
    assert account.freezes >= account.starts
    assert (account.killed, account.died) == (0, 0), result.log
    assert set(account.exit_codes) == {0}, result.log
    assert account.billed_seconds < account.alive_seconds


async def done_once(places: Sequence[Place], tmp_path: Path) -> None:
    """A short day on stand-ins for the platforms, at the same time."""
    day = Day(seconds=3, jobs=8, seed=seed(), scheduler_every=1.0, idle=0.9)
    print(f"seed {day.seed}")  # noqa: T201 - to run the same day again
    for result in await days_of(places, day, tmp_path):
        done = (result.ended, result.ended_twice, result.begun_again)
        assert done == (8, 0, 0), f"{result.contender}\n{result.log}"
        assert result.account.killed == 0, result.log


async def test_every_job_is_done_once_where_machines_are_stopped_polled_for_and_invoked(
    tmp_path: Path,
) -> None:
    """Fly.io's proxy, KEDA and AWS Lambda; task queues have tests of their own."""
    await done_once([Place.FLY, Place.KEDA, Place.LAMBDA], tmp_path)


@pytest.mark.long
async def test_every_job_is_done_once_wherever_the_worker_runs(tmp_path: Path) -> None:
    """All six, as in ``make rig-places``."""
    await done_once(list(Place), tmp_path)


@pytest.mark.parametrize("contender", [Contender.HELD, Contender.SKETCH])
async def test_an_answer_before_the_work_leaves_it_undone(
    safe_bench: Bench, server_url: str, tmp_path: Path, contender: Contender
) -> None:
    """Held, one wake does a job to its end; answered at once, it stands still until the next."""
    environ = {
        "REDIS_URL": server_url,
        "CONVOLAB_QUEUES": safe_bench.queue,
        LEDGER_URL: safe_bench.ledger.url,
        LEDGER_NAME: safe_bench.ledger.name,
        **({"K_SERVICE": "worker"} if contender is Contender.HELD else {}),
    }
    (job,) = await safe_bench.add({"seconds": 0.3})
    async with (
        CloudRun(contender.command, environ, tmp_path / "log", idle=60) as platform,
        ClientSession() as session,
    ):
        async with session.post(platform.url) as answer:
            said = await answer.json()
        if contender is Contender.SKETCH:
            await lasting(2.0)  # far longer than the job takes
            undone = not safe_bench.ledger.ends(job)
            while not safe_bench.ledger.ends(job):  # each request gives it a moment
                async with session.post(platform.url) as again:
                    await again.read()
        else:
            undone = False
            await eventually(lambda: safe_bench.ledger.ends(job))

    assert said["status"] == ("awake" if contender is Contender.SKETCH else "drained")
    assert undone == (contender is Contender.SKETCH)
    assert len(safe_bench.ledger.ends(job)) == 1
