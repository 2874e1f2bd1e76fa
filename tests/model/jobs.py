"""The jobs of a plan, their handlers, and how each job may end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

from convolab_worker import Child, HandlerRegistry, Job
from convolab_worker.errors import RetryLater

Kind = Literal["wide", "narrow", "rated", "timed", "thread", "parent"]
TIMEOUT_SECONDS = 0.1
# A stubborn handler goes on for so long after it was cancelled, and returns.
STUBBORN_SECONDS = 0.2
# A handler that reports does so at this interval while it waits at the gate.
REPORT_SECONDS = 0.03


@dataclass(eq=False)
class Run:
    """One call of a handler."""

    job_id: str
    life: int
    in_thread: bool
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    how: str = ""


@dataclass
class Known:
    """A job that a client has added, or has tried to add."""

    id: str
    data: dict[str, Any]
    attempts: int
    is_sure: bool = False
    may_vanish: bool = False
    may_end_anyhow: bool = False
    is_disturbed: bool = False
    """A client has asked to cancel it."""
    added_at: float = 0.0

    @property
    def ends(self) -> set[str]:
        """The states that it may end in."""
        if self.may_end_anyhow or self.data["kind"] == "timed":
            return {"completed", "failed"}
        fails = self.data["failures"] >= self.attempts or self.data["child_fails"]
        return {"failed"} if fails else {"completed"}

    @property
    def uses(self) -> int:
        """How many attempts it uses up, unless it is disturbed."""
        failures: int = self.data["failures"]
        return min(failures + 1, self.attempts)


class Jobs:
    """Every job, and every call of a handler."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.runs: list[Run] = []
        self.later: defaultdict[str, int] = defaultdict(int)
        self.is_open = False
        self._gate = asyncio.Event()
        self._thread_gate = threading.Event()

    def new(self, data: dict[str, Any], attempts: int) -> Known:
        """Name a job that is about to be added."""
        known = Known(f"j{len(self.known) + 1}", data, attempts)
        self.known[known.id] = known
        return known

    def open(self, *, for_good: bool = False) -> None:
        """Let the handlers go on that wait at the gate; with ``for_good``, later ones too."""
        gate, thread_gate = self._gate, self._thread_gate
        self.is_open |= for_good
        self._gate, self._thread_gate = asyncio.Event(), threading.Event()
        gate.set()
        thread_gate.set()

    def running(self) -> list[Run]:
        """The calls of handlers that have not ended."""
        return [run for run in self.runs if run.ended is None]

    def of(self, job_id: str) -> list[Run]:
        """The calls of one job's handler, in order."""
        return [run for run in self.runs if run.job_id == job_id]

    def handlers(self, life: int) -> HandlerRegistry:
        """The handlers of one worker."""
        handlers = HandlerRegistry()

        async def serve(job: Job[Any]) -> str:
            return await self._serve(job, life)

        async def narrow(job: Job[Any]) -> str:
            return await serve(job)

        async def rated(job: Job[Any]) -> str:
            return await serve(job)

        async def timed(job: Job[Any]) -> str:
            return await serve(job)

        def thread(job: Job[Any]) -> str:
            return self._serve_in_thread(job, life)

        handlers.course("wide", "parent")(serve)
        handlers.image("narrow", concurrency=1)(narrow)
        handlers.image("rated", rate="10/s")(rated)
        handlers.audio("timed", timeout=TIMEOUT_SECONDS)(timed)
        handlers.dialogue("thread")(thread)
        return handlers

    # handlers

    async def _serve(self, job: Job[Any], life: int) -> str:
        run = self._begin(job, life)
        try:
            if job.data["reports"]:
                job.log.info("begun")
                await job.progress(1)
            await self._work(job)
            if job.data["reports"]:
                await job.progress(2)
            if job.data["children"]:
                await self._with_children(job)
            self._end(job)
            run.how = "returned"
        except BaseException as error:
            run.how = type(error).__name__
            raise
        finally:
            run.ended = time.monotonic()
        return job.id

    async def _work(self, job: Job[Any]) -> None:
        data = job.data
        try:
            if data["takes"] is not None:
                await asyncio.sleep(data["takes"])
            elif not self.is_open:
                await self._wait_at_the_gate(job)
        except asyncio.CancelledError:
            if not data["stubborn"]:
                raise
            await asyncio.sleep(STUBBORN_SECONDS)

    async def _wait_at_the_gate(self, job: Job[Any]) -> None:
        opened = asyncio.ensure_future(self._gate.wait())
        try:
            while not opened.done():
                await asyncio.wait({opened}, timeout=REPORT_SECONDS)
                if job.data["reports"]:
                    job.log.info("waiting")
                    await job.progress(time.monotonic())
        finally:
            opened.cancel()

    async def _with_children(self, job: Job[Any]) -> None:
        results = await job.children_results()
        keys = [f"part{number}" for number in range(job.data["children"])]
        missing = [key for key in keys if key not in results]
        data = {**job.data, "children": 0, "failures": 0, "later": 0}
        if missing:
            fails = int(job.data["child_fails"])
            await job.enqueue_children(
                [Child("wide", data={**data, "failures": fails}, key=key) for key in missing]
            )

    def _serve_in_thread(self, job: Job[Any], life: int) -> str:
        run = self._begin(job, life, in_thread=True)
        try:
            if job.data["reports"]:
                job.progress(1)
            if job.data["takes"] is not None:
                time.sleep(job.data["takes"])
            elif not self.is_open:
                self._wait_in_thread(job)
            if job.data["reports"]:
                job.progress(2)
            self._end(job)
            run.how = "returned"
        finally:
            run.how = run.how or "raised"
            run.ended = time.monotonic()
        return job.id

    def _wait_in_thread(self, job: Job[Any]) -> None:
        gate = self._thread_gate
        while not gate.wait(REPORT_SECONDS):
            if job.cancelled.is_set():
                msg = "told to end"
                raise InterruptedError(msg)

    def _begin(self, job: Job[Any], life: int, *, in_thread: bool = False) -> Run:
        run = Run(job.id, life, in_thread)
        self.runs.append(run)
        return run

    def _end(self, job: Job[Any]) -> None:
        if self.later[job.id] < job.data["later"]:
            self.later[job.id] += 1
            raise RetryLater(0.05)
        if job.attempt <= job.data["failures"]:
            msg = f"attempt {job.attempt} fails, as it was told to"
            raise ValueError(msg)
