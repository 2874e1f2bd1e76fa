"""Handlers of worker processes under test: what a job does, its data says.

Each call notes its start and its end in the ledger, which is on a server of its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, Ledger, lasting
from tests.support.waiting import wait_until

handlers = HandlerRegistry()
ledger = Ledger(os.environ[LEDGER_URL], os.environ[LEDGER_NAME])
_LONGEST_HOLD_SECONDS = 600.0


@handlers.audio("work")
async def work(job: Job[Any]) -> str:
    """Do what ``do`` says, once the start is noted."""
    ledger.start(job.id, attempt=job.attempt, data=job.data)
    step = job.data.get("do", "return") if isinstance(job.data, dict) else "return"
    await _STEPS[step](job)
    ledger.end(job.id)
    return job.id


@handlers.image("one-at-a-time", concurrency=1)
async def one_at_a_time(job: Job[Any]) -> str:
    """As ``work``, one job at a time, so that others are parked."""
    return await work(job)


@handlers.dialogue("thread")
def thread(job: Job[Any]) -> str:
    """A plain function whose thread never ends before the gate opens."""
    ledger.start(job.id)
    ledger.await_gate()
    ledger.end(job.id)
    return job.id


async def _return(_: Job[Any]) -> None:
    """Be done at once."""


async def _sleep(job: Job[Any]) -> None:
    await lasting(job.data["seconds"])


async def _hold(_: Job[Any]) -> None:
    await wait_until(ledger.is_open, timeout=_LONGEST_HOLD_SECONDS, what="the gate")


async def _first_hold(job: Job[Any]) -> None:
    """Hold in the first call only: whoever takes over is not held."""
    if len(ledger.starts(job.id)) == 1:
        await _hold(job)


async def _block(job: Job[Any]) -> None:
    threading.Event().wait(job.data["seconds"])  # on the loop's own thread: that is the fault


async def _die(_: Job[Any]) -> None:
    os._exit(66)


async def _stubborn(job: Job[Any]) -> None:
    """Ignore every cancellation."""
    while not ledger.is_open():
        try:
            await _hold(job)
        except asyncio.CancelledError:
            continue


async def _offload(_: Job[Any]) -> None:
    """Wait for a thread of the loop's pool that never ends."""
    await asyncio.to_thread(ledger.await_gate)


_STEPS = {
    "return": _return,
    "sleep": _sleep,
    "hold": _hold,
    "first-hold": _first_hold,
    "block": _block,
    "die": _die,
    "stubborn": _stubborn,
    "offload": _offload,
}
