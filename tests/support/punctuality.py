"""Delayed jobs, and how far from their due times they start."""

from __future__ import annotations

import time
from typing import Any

from convolab_worker import HandlerRegistry, Job, JobClient
from tests.support.stopwatch import Stopwatch


class Punctuality(Stopwatch):
    """Adds jobs, and notes when its handlers start them, while its block runs.

    ``early`` is by the clock; ``late`` leaves out the pauses of the machine since the addition.
    """

    def __init__(self) -> None:
        super().__init__()
        self.early: list[float] = []
        self.late: list[float] = []
        self.handlers = HandlerRegistry()
        self.handlers.audio("due")(self._run)
        self._due: dict[str, tuple[float, float]] = {}

    async def add(self, client: JobClient, delay: float) -> str:
        """Add a job that is due in so many seconds."""
        due = time.time() + delay, self.seconds + delay
        job_id = await client.enqueue("due", delay=delay)
        self._due[job_id] = due
        return job_id

    async def _run(self, job: Job[Any]) -> None:
        by_clock, by_watch = self._due[job.id]
        self.early.append(by_clock - time.time())
        self.late.append(self.seconds - by_watch)
