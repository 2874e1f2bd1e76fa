"""The job that the programs here add, declared once for them and for the worker.

convolab-worker run --app examples.clients.jobs:handlers --queue speeches
"""

from __future__ import annotations

from dataclasses import dataclass

from convolab_worker import HandlerRegistry, Job, JobType

handlers = HandlerRegistry()


@dataclass
class Line:
    """What is to be spoken."""

    text: str


@dataclass
class Speech:
    """What was spoken."""

    seconds: float


SPEAK = JobType("speak", Line, Speech, queue="speeches", attempts=3, keep_completed="1h")


@handlers.audio(SPEAK, timeout=60)
async def speak(job: Job[Line]) -> Speech:
    """Speak a line; here its length is all that comes of it."""
    await job.progress(50)
    return Speech(len(job.data.text) / 15)
