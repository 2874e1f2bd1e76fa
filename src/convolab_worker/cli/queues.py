"""Finds the queues, or the job, that a command means.

Without a named queue all queues on the server are meant. But a command that changes more than jobs
named by their ids needs a named queue, unless there is only one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from convolab_worker.bullmq.protocol.keys import QueueKeys, can_be_an_id
from convolab_worker.cli.arguments import flags
from convolab_worker.cli.output import listed, remark
from convolab_worker.client.operating.queues import find_queues, not_used, workers_by_queue
from convolab_worker.client.session import connected
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import (
    ConfigurationError,
    ConvolabWorkerError,
    JobNotFound,
    RedisRefused,
)
from convolab_worker.settings.kinds import suggestion

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from convolab_worker.client.client import JobClient
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.settings import Settings

_MOST_NAMED = 8


async def looked_in(settings: Settings, given: argparse.Namespace) -> Settings:
    """Return the settings with the queues to look in.

    Raises ConvolabWorkerError for one that is named, not used, and served by no worker.
    """
    if flags.names_queues(given):
        await _expect_used(settings, given)
        return settings
    found = await _found(settings)
    if not found:
        remark(_nothing(settings))
        return settings
    return settings.replace(queues=tuple(found))


async def acted_on(settings: Settings, given: argparse.Namespace) -> Settings:
    """Return the settings with the queues to act on.

    Raises ConfigurationError if none is named and there are several, and ConvolabWorkerError for
    one that is named, not used, and served by no worker.
    """
    if flags.names_queues(given):
        await _expect_used(settings, given)
        return settings
    found = await _found(settings)
    if not found:
        raise ConvolabWorkerError(_nothing(settings))
    if len(found) > 1:
        msg = f"which queue is meant? expected --queue with one or more of {_listed(found)}"
        raise ConfigurationError(msg)
    return settings.replace(queues=tuple(found))


async def job_of(client: JobClient, job_id: str) -> JobStatus:
    """Return the job from that of the client's queues which has it.

    Raises JobNotFound, and ConfigurationError if several have it: Node counts its jobs' ids in each
    queue.
    """
    queues = client.settings.queues
    found: list[JobStatus] = []
    asked = [client.status(job_id, queue) for queue in queues]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if not isinstance(answer, BaseException):
            found.append(answer)
        elif not isinstance(answer, JobNotFound):
            raise answer
    if not found:
        elsewhere = await _elsewhere(client.settings, job_id)
        if elsewhere:
            msg = f"no job {job_id!r} on {_listed(queues)}; it is on {_listed(elsewhere)}"
        else:
            msg = f"no job {job_id!r} on {_listed(queues)}: never added, or removed when it ended"
        raise JobNotFound(msg)
    if len(found) > 1:
        there = _listed([job.queue for job in found])
        msg = f"job {job_id!r} is on {there}: expected --queue with one of them"
        raise ConfigurationError(msg)
    return found[0]


async def _found(settings: Settings) -> list[str]:
    """Return the queues on the server, without those whose names no queue may have."""
    async with connected(settings) as connection:
        names = await find_queues(connection, settings.prefix)
    others = [repr(name) for name in names if not _may_be_named(settings, name)]
    if others:
        remark(f"passed over, since no queue may have that name: {_listed(others)}")
    return [name for name in names if repr(name) not in others]


def _may_be_named(settings: Settings, name: str) -> bool:
    try:
        settings.replace(queues=(name,))
    except ConfigurationError:
        return False
    return True


async def _elsewhere(settings: Settings, job_id: str) -> list[str]:
    """Return the other queues that have a job of this id, as far as the user may look for them."""
    if not can_be_an_id(job_id):
        return []
    async with connected(settings) as connection:
        try:
            found = await find_queues(connection, settings.prefix)
        except RedisRefused:
            return []
        others = [QueueKeys(settings.prefix, name) for name in found if name not in settings.queues]
        asked = [connection.call(Purpose.STATUS, "EXISTS", keys.job(job_id)) for keys in others]
        there = await asyncio.gather(*asked)
    return [keys.queue for keys, is_there in zip(others, there, strict=True) if is_there]


async def _expect_used(settings: Settings, given: argparse.Namespace) -> None:
    sentences = await unused(settings, given)
    if sentences:
        raise ConvolabWorkerError("; ".join(sentences))


async def unused(settings: Settings, given: argparse.Namespace) -> list[str]:
    """Return a sentence for each queue that a flag names, and that nobody uses or serves."""
    return [f"there is no queue {name}{near}" for name, near in await _unused(settings, given)]


async def new_queues(settings: Settings, given: argparse.Namespace) -> list[str]:
    """Return a sentence for each such queue, to be told once there is a job on it."""
    return [f"queue {name} is new{near}" for name, near in await _unused(settings, given)]


async def _unused(settings: Settings, given: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the queues that a flag names and nobody uses or serves, each with what is near.

    Nothing is near where the user may not look for queues. A variable may name such a queue: it was
    written for the worker.
    """
    if given.queues is None:
        return []
    async with connected(settings) as connection:
        names = await not_used(connection, settings.prefix, settings.queues)
        if names:
            served = await workers_by_queue(connection, settings.prefix) or {}
            names = [name for name in names if name not in served]
        try:
            there = await find_queues(connection, settings.prefix) if names else []
        except RedisRefused:
            there = []
    are = "is only" if len(there) == 1 else "are"
    others = f"; there {are} {_listed(there)}" if there else ""
    return [(name, suggestion(name, there) or others) for name in names]


def _nothing(settings: Settings) -> str:
    return f"no queue was found under the prefix {settings.prefix}: nothing was ever added"


def _listed(names: Sequence[str]) -> str:
    return listed(names, _MOST_NAMED)
