"""Cancelling a job that runs in another process, at no cost while nobody does.

Whoever cancels swaps the token in the job's lock for a request that names the token (the script
``cancelJob``). The worker meets it where it meets its lock anyway: its next renewal reports the
lock as lost, or the write of the job's end is refused. It takes the lock back (``takeBack``), and
ends the job as asked. A worker that dies in between leaves a lock that runs out like any other.
A worker with a free slot hears of it at once: its blocked read names an inbox of its own, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from convolab_worker.bullmq.outcome import Failed, Returned
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.protocol.scripts import own_script
from convolab_worker.connection.usage import Purpose

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.connection import Connection

ASKED, IDLE, FOREIGN = "asked", "idle", "foreign"
_NEWS_MS = 60_000
_REQUEST = b"cancel:"


def inbox(keys: QueueKeys, worker_id: str) -> str:
    """The key where a worker hears that one of its jobs of that queue is to be cancelled."""
    return f"{keys['']}cancel:{worker_id}"


def token_in(lock: bytes) -> str:
    """The token of the worker that has a job, by its lock's value: a token, or a request to it."""
    if not lock.startswith(_REQUEST):
        return text(lock)
    return str(json.loads(text(lock.removeprefix(_REQUEST)))["token"])


async def ask(connection: Connection, keys: QueueKeys, job_id: str, reason: str | None) -> str:
    """Ask the worker that has the job to fail it for ``reason`` or, without one, to return it.

    Answers ``asked``; ``idle`` if no worker has it; ``foreign`` if it is not a worker of ours.
    """
    names = (keys.lock(job_id), keys["active"])
    args = (job_id, keys[""], reason or "", _NEWS_MS)
    return text(await own_script("cancelJob", 2).run(connection, Purpose.STATUS, names, args))


class TakenBack(NamedTuple):
    """A lock that is the job's again; ``asked`` is the outcome that the request wanted.

    None where somebody else has met the request first: the lock's thread, or the job's settlement.
    """

    asked: Failed | Returned | None


async def take_back(
    connection: Connection, keys: QueueKeys, job: ActiveJob, duration: float
) -> TakenBack | None:
    """Take the lock back for ``duration`` seconds from a request; None if the lock is lost."""
    args = (job.token, round(duration * 1000))
    raw = await own_script("takeBack", 1).run(connection, Purpose.LOCK, (keys.lock(job.id),), args)
    if raw is None:
        return None
    if isinstance(raw, int):
        return TakenBack(None)
    return TakenBack(Failed(text(raw)) if raw else Returned())
