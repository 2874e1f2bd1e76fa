"""Collects what a queue keeps of jobs that have ended, and how large its event stream is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.job_options import Defaults, end_options
from convolab_worker.bullmq.protocol.keywords import job_options
from convolab_worker.bullmq.protocol.records import read_active_job, read_number, text
from convolab_worker.cli.commands.doctor.app_checks import Ended, EventStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.settings import Settings

    Ask = Callable[..., Awaitable[Any]]  # a command's reply; None if the server refuses it

_SAMPLE = 20
_MOST_EVENTS = 10_000  # BullMQ's scripts use this if the queue says nothing


class Retention:
    """What counts for a job's retention if its own options say nothing."""

    def __init__(self, settings: Settings, handlers: HandlerRegistry | None) -> None:
        kept = {"keep_completed": settings.keep_completed, "keep_failed": settings.keep_failed}
        self._workers = job_options("Settings", kept)
        self._handlers = handlers

    def policy(self, queue: str, name: str, opts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a job's options, completed as a worker would."""
        handler = None if self._handlers is None else self._handlers.find(queue, name)
        own = {} if handler is None else handler.defaults
        return Defaults({**self._workers, **own}).complete(opts)


async def ended(ask: Ask, keys: QueueKeys, retention: Retention) -> list[Ended]:
    """Return what the queue keeps: about 80 commands for each state that has jobs."""
    found = []
    for state in ("completed", "failed"):
        jobs = await ask("ZCARD", keys[state]) or 0
        if jobs:
            is_bounded = await _is_bounded(ask, keys, state, retention)
            size = await _mean_size(ask, keys, state)
            total = None if size is None else round(size * jobs)
            found.append(Ended(state=state, jobs=jobs, bytes=total, is_bounded=is_bounded))
    return found


async def _is_bounded(ask: Ask, keys: QueueKeys, state: str, retention: Retention) -> bool:
    """Whether each of the newest jobs has had others removed, or will have."""
    for raw in await ask("ZRANGE", keys[state], -_SAMPLE, -1) or []:
        flat = await ask("HGETALL", keys.job(text(raw)))
        job = read_active_job(keys.queue, raw, "", flat or [])
        policy = retention.policy(keys.queue, job.name, job.opts)
        kept = end_options(policy, state)["keepJobs"]
        if kept.get("age") is None and kept.get("count", -1) < 0 and job.problem is None:
            return False
    return True


async def _mean_size(ask: Ask, keys: QueueKeys, state: str) -> float | None:
    """The bytes of a job with its log, of a sample; None where the server does not say."""
    sizes = []
    for raw in await ask("ZRANDMEMBER", keys[state], _SAMPLE) or []:
        key = keys.job(text(raw))
        size = await ask("MEMORY", "USAGE", key, "SAMPLES", 0)
        if size is not None:
            sizes.append(size + (await ask("MEMORY", "USAGE", f"{key}:logs", "SAMPLES", 0) or 0))
    return sum(sizes) / len(sizes) if sizes else None


async def event_stream(ask: Ask, keys: QueueKeys) -> EventStream:
    """Return how large the queue's event stream is, and how many entries it may have."""
    most = read_number(await ask("HGET", keys["meta"], "opts.maxLenEvents"))
    return EventStream(
        entries=await ask("XLEN", keys["events"]) or 0,
        bytes=await ask("MEMORY", "USAGE", keys["events"], "SAMPLES", 0),
        most=_MOST_EVENTS if most is None else round(most),
    )
