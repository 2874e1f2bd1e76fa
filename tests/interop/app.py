"""What a job does, decided by its data: the same table as ``behaviour.mjs``, for our worker.

Data is {"do": STEP} or {"do": [STEP, ...]}, a step {"op": NAME, ...}; any other data comes back as
the result. ``handlers`` is for ``python -m convolab_worker run --app tests.interop.app:handlers``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

from redis.asyncio import Redis

from convolab_worker import Child, FailedAttempt, HandlerRegistry, Job
from convolab_worker.errors import RateLimited, RetryLater, UnrecoverableError

_GATE_SECONDS = 8


class Behaviour:
    """Handlers of all four kinds that do what their job's data says.

    ``prefix`` and ``server_url`` are where the producer opens gates.
    """

    def __init__(self, *, server_url: str, prefix: str) -> None:
        self._server_url = server_url
        self._prefix = prefix
        self._runs: Counter[tuple[str, str]] = Counter()

    def registry(self) -> HandlerRegistry:
        """Register one handler for every job name that the scenarios use."""
        handlers = HandlerRegistry()
        handlers.audio("generate-audio", "work")(self.run)
        handlers.dialogue("generate-dialogue")(self.run)
        handlers.image("generate-image")(self.run)
        handlers.course("generate-course")(self.run)
        handlers.backoff("linear")(lambda failed: 0.02 * failed.attempt)
        handlers.backoff("by message")(_by_message)
        return handlers

    async def run(self, job: Job[Any]) -> Any:
        """Take the steps of the job's data; the last one's result is the job's."""
        data = job.data
        if not isinstance(data, dict) or not data.get("do"):
            return data
        steps = data["do"] if isinstance(data["do"], list) else [data["do"]]
        self._runs[job.queue, job.id] += 1
        result: Any = None
        for step in steps:
            result = await getattr(self, f"do_{step['op']}")(step, job)
        return result

    async def do_return(self, step: dict[str, Any], _job: Job[Any]) -> Any:
        return step["value"]

    async def do_undefined(self, _step: dict[str, Any], _job: Job[Any]) -> None:
        return None

    async def do_fail(self, step: dict[str, Any], job: Job[Any]) -> str:
        if "until" not in step or job.attempt <= step["until"]:
            raise RuntimeError(step["message"])
        return f"attempt {job.attempt}"

    async def do_unrecoverable(self, step: dict[str, Any], _job: Job[Any]) -> None:
        raise UnrecoverableError(step["message"])

    async def do_progress(self, step: dict[str, Any], job: Job[Any]) -> Any:
        await job.progress(step["value"])
        return step["value"]

    async def do_log(self, step: dict[str, Any], job: Job[Any]) -> Any:
        job.log.info(step["line"])
        return step["line"]

    async def do_gate(self, step: dict[str, Any], _job: Job[Any]) -> Any:
        async with Redis.from_url(self._server_url, socket_timeout=None) as redis:
            await redis.blpop([f"{self._prefix}:gate:{step['name']}"], timeout=_GATE_SECONDS)
        return step["name"]

    async def do_later(self, step: dict[str, Any], job: Job[Any]) -> str:
        if self._runs[job.queue, job.id] > 1:
            return "run again"
        raise RetryLater(step["delay"] / 1000)

    async def do_limit(self, step: dict[str, Any], job: Job[Any]) -> str:
        if self._runs[job.queue, job.id] > 1:
            return "run again"
        raise RateLimited(step["delay"] / 1000)

    async def do_update(self, step: dict[str, Any], job: Job[Any]) -> None:
        await job.update_data(step["value"])

    async def do_children(self, step: dict[str, Any], job: Job[Any]) -> None:
        if self._runs[job.queue, job.id] == 1:
            await job.enqueue_children([Child(**child) for child in step["children"]])

    async def do_drop(self, _step: dict[str, Any], job: Job[Any]) -> None:
        await job.drop_children()

    async def do_collect(self, _step: dict[str, Any], job: Job[Any]) -> list[str]:
        results, failures = await job.children_results(), await job.children_failures()
        return sorted(
            json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            for key, value in results.items()
            if key not in failures  # Node's getChildrenValues leaves them out
        )


def _by_message(failed: FailedAttempt) -> float | None:
    return None if str(failed.error) == "enough" else failed.data["pause"] / 1000


handlers = Behaviour(
    server_url=os.environ.get("REDIS_URL", "redis://localhost:6379"),
    prefix=os.environ.get("CONVOLAB_PREFIX", "bull"),
).registry()
