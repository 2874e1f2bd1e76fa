"""Handlers about to be run for a job, outside any worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from convolab_worker.bullmq.jobs.outcome import Failed, Outcome
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.worker.execution.handler_call import (
    LOCK_LOST,
    SHUTDOWN,
    Abort,
    AbortKind,
    HandlerCall,
    cancellation,
)
from convolab_worker.worker.execution.outcomes import conclude, prepare
from convolab_worker.worker.execution.threads import HandlerThreads

SOON = 5.0
ABORTS = {
    AbortKind.TIMEOUT: Abort(AbortKind.TIMEOUT, None, SOON),
    AbortKind.SHUTDOWN: SHUTDOWN,
    AbortKind.CANCELLED: cancellation(Failed("cancelled")),
    AbortKind.LOCK_LOST: LOCK_LOST,
}


def abort_of(kind: AbortKind, patience: float) -> Abort:
    """An abort as the worker makes it, but for its patience."""
    return msgspec.structs.replace(ABORTS[kind], patience=patience)


def active_job(**opts: Any) -> ActiveJob:
    """A job with those options."""
    return ActiveJob(queue="q", id="7", token="t", name="work", data=b'{"n":1}', opts=opts)


class Quiet:
    """The reporter of a job whose reports nobody reads."""

    newest: str | None = None
    loop: asyncio.AbstractEventLoop | None = None
    is_closed = False

    def progress(self, value: Any) -> None:
        """Take it."""

    def log(self, row: str) -> None:
        """Take it."""

    async def children_results(self) -> dict[str, Any]:
        """No children."""
        return {}

    async def children_failures(self) -> dict[str, str]:
        """No children."""
        return {}

    async def drop_children(self) -> None:
        """No children."""

    async def record_step(self, name: str, result: str) -> bytes:
        """Take it."""
        del name
        return result.encode()

    async def update_data(self, data: str) -> None:
        """Take it."""

    async def finish(self) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Nothing to write."""


class Trial:
    """A handler about to be run for a job with those options."""

    def __init__(
        self, function: Callable[..., Any], opts: dict[str, Any] | None = None, **options: Any
    ) -> None:
        handlers = HandlerRegistry()
        handlers.audio("work", **options)(function)
        (self.handler,) = handlers
        self.active_job = active_job(**(opts or {}))
        self.job = prepare(self.active_job, self.handler, Quiet())
        self.threads = HandlerThreads()
        self.call = HandlerCall(self.job, self.handler, self.threads, asyncio.get_running_loop())

    async def outcome(self) -> Outcome:
        """Run it to its outcome; the test fails where that takes suspiciously long."""
        async with asyncio.timeout(SOON):
            await self.call.run()
        self.threads.close()
        return conclude(self.call, self.active_job, self.handler, lambda: 0.5)

    async def aborted(self, started: asyncio.Event, kind: AbortKind, patience: float) -> Outcome:
        """Run it, and abort it when it has started."""
        ending = asyncio.create_task(self.outcome())
        async with asyncio.timeout(SOON):
            await started.wait()
        self.call.abort(abort_of(kind, patience))
        return await ending
