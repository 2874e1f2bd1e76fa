"""Contender: docket at its defaults."""

from __future__ import annotations

import asyncio

from docket import Docket, Worker

from examples.benchmarks.recovering.part import HOURS, main, started, url


async def hold() -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


async def _work() -> None:
    async with Docket(name="recovery", url=url()) as docket, Worker(docket) as worker:
        docket.register(hold)
        await worker.run_forever()


async def _add() -> None:
    async with Docket(name="recovery", url=url()) as docket:
        docket.register(hold)
        await docket.add(hold)()


if __name__ == "__main__":
    main(work=lambda: asyncio.run(_work()), add=lambda: asyncio.run(_add()))
