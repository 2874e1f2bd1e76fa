"""The jobs of a torture run, and who adds them: Python's JobClient and Node's Queue."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker import JobClient
from convolab_worker.errors import RedisUnavailable
from tests.faults.harness import lasting
from tests.support.node import NodeScripts

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

HERE = Path(__file__).parent
_LANES = 8
_RETRY_SECONDS = 0.1
# More events than any run makes: none of them may be trimmed before the account.
MAX_EVENTS = 100_000_000
_PRIORITIES = 5
_HANDLERS = ("narrow", "thread", "course", "fork", "program", "oversized")
_ATTEMPTS_TO_SPARE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A job to be added; ``opts`` are BullMQ's, in milliseconds."""

    job_id: str
    queue: str
    name: str
    data: dict[str, Any]
    opts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_oversized(self) -> bool:
        """Whether its result is more than the server takes, so that it has to fail."""
        return self.name == "oversized"

    @property
    def failures(self) -> int:
        """How many of its attempts fail because they are told to."""
        return int(self.data.get("failures", 0))

    def as_node(self) -> dict[str, Any]:
        """The same for Node."""
        opts = {**self.opts, "jobId": self.job_id}
        return {"queue": self.queue, "name": self.name, "data": self.data, "opts": opts}


def tasks(
    rng: random.Random, prefix: str, count: int, queues: Sequence[str], longest: float
) -> list[Task]:
    """Jobs of every kind, most of them short, a few running up to ``longest`` seconds."""
    return [_task(rng, f"{prefix}{number}", queues, longest) for number in range(1, count + 1)]


def _task(rng: random.Random, job_id: str, queues: Sequence[str], longest: float) -> Task:
    kind = rng.choices(
        (
            "work", "long", "narrow", "thread", "delayed", "prioritized", "failing", "course",
            "fork", "program", "oversized",
        ),
        weights=(64, 2, 8, 5, 5, 5, 3, 2, 2, 3, 1),
    )[0]  # fmt: skip
    data: dict[str, Any] = {"seconds": round(rng.uniform(0, 0.02), 4)}
    opts: dict[str, Any] = {}
    name = kind if kind in _HANDLERS else "work"
    if kind == "long":
        data["seconds"] = round(rng.uniform(0, longest), 3)
    elif kind == "program":
        data["seconds"] = round(rng.uniform(0, longest / 3), 3)
    elif kind == "delayed":
        opts["delay"] = rng.randint(1, 2000)
    elif kind == "prioritized":
        opts["priority"] = rng.randint(1, _PRIORITIES)
    elif kind == "failing":
        data["failures"] = rng.randint(1, 2)
        opts["attempts"] = data["failures"] + _ATTEMPTS_TO_SPARE
        if rng.random() < 0.5:
            opts["backoff"] = {"type": "fixed", "delay": rng.randint(1, 300)}
    return Task(job_id=job_id, queue=rng.choice(queues), name=name, data=data, opts=opts)


async def produce(
    client: JobClient,
    jobs: Sequence[Task],
    seconds: float,
    add: Callable[[JobClient, Task], Awaitable[None]] | None = None,
) -> None:
    """Add the jobs over so many seconds, each until the server has said that it has it."""
    add_one = add or add_until_taken
    began = time.monotonic()
    numbered = iter(enumerate(jobs))

    async def lane() -> None:
        for number, task in numbered:
            due = began + seconds * number / len(jobs)
            await lasting(max(due - time.monotonic(), 0.0))
            await add_one(client, task)

    await asyncio.gather(*[lane() for _ in range(_LANES)])


async def add_until_taken(client: JobClient, task: Task) -> None:
    """Add the job until the server has said that it has it."""
    delay = task.opts.get("delay")
    while True:
        try:
            await client.enqueue(
                task.name,
                task.data,
                queue=task.queue,
                job_id=task.job_id,
                delay=None if delay is None else delay / 1000,
                priority=task.opts.get("priority"),
                attempts=task.opts.get("attempts"),
                backoff=task.opts.get("backoff"),
            )
        except RedisUnavailable:
            await lasting(_RETRY_SECONDS)
        else:
            return


async def produce_with_node(
    where: int | dict[str, Any],
    jobs: Sequence[Task],
    queues: Sequence[str],
    seconds: float,
    patience: float,
) -> dict[str, tuple[str, int]]:
    """The same by BullMQ for Node, in a process of its own; ``where`` is a port, or Sentinels.

    Returns for each job, where there are Sentinels, the replication id of the primary that has
    acknowledged it, and the offset of its stream then.
    """
    async with await NodeScripts(HERE).start("producer.mjs") as node:
        await node.send(
            {
                "host": "127.0.0.1",
                **({"port": where} if isinstance(where, int) else {"sentinels": where}),
                "queues": list(queues),
                "jobs": [task.as_node() for task in jobs],
                "seconds": seconds,
                "maxEvents": MAX_EVENTS,
            }
        )
        answer = await node.receive(timeout=seconds + patience)
    assert answer["added"] == len(jobs), answer
    return {job_id: (told[0], told[1]) for job_id, told in answer["acknowledged"].items()}
