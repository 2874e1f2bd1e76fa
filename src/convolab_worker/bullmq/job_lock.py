"""Cancels a job that runs in another process; costs nothing while nobody cancels.

Whoever cancels replaces the token in the job's lock by a request that names the token (our script
``cancelJob``). The worker meets the request where it meets the lock anyway: its next renewal
reports the lock as lost, or the script that ends the job refuses. The worker then takes the lock
back (``takeBack``) and ends the job as asked. If it dies in between, the lock runs out like any
other. A worker with a free slot hears of the request at once: its blocking read names an inbox of
its own in addition to the markers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from convolab_worker.bullmq.jobs.outcome import Failed, Returned
from convolab_worker.bullmq.protocol import calls, client_calls
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.commands.usage import Purpose

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.connection import Connection

ASKED, IDLE, FOREIGN = "asked", "idle", "foreign"
_NEWS_MS = 60_000
_REQUEST = b"cancel:"


def inbox(keys: QueueKeys, worker_id: str) -> str:
    """Returns the key where a worker hears that one of its jobs of a queue is to be cancelled."""
    return f"{keys.base}cancel:{worker_id}"


def token_in(lock: bytes) -> str:
    """Returns the token in a lock: the lock's value, or the token that a request in it names."""
    if lock.startswith(_REQUEST):
        try:
            return str(json.loads(text(lock.removeprefix(_REQUEST)))["token"])
        except (ValueError, LookupError, TypeError, RecursionError):
            pass  # not a request of this library
    return text(lock)


async def ask(connection: Connection, keys: QueueKeys, job_id: str, reason: str | None) -> str:
    """Asks the worker that has the job to fail it for ``reason`` or, without one, to return it.

    Returns ``asked``; ``idle`` if no worker has it; ``foreign`` if it is not a worker of ours.
    """
    call = client_calls.cancel_job(keys, job_id, reason or "", _NEWS_MS)
    return text(await run_script(connection, Purpose.STATUS, call))


class TakenBack(NamedTuple):
    """A lock that is the worker's again; ``asked`` is the outcome that the request wanted.

    It is None where somebody else has met the request first: the thread that renews locks, or the
    end of the job.
    """

    asked: Failed | Returned | None


async def take_back(
    connection: Connection, keys: QueueKeys, job: ActiveJob, duration: float
) -> TakenBack | None:
    """Takes the lock back for ``duration`` seconds from a request; None if the lock is lost."""
    call = calls.take_back_lock(keys, job, round(duration * 1000))
    raw = await run_script(connection, Purpose.LOCK, call)
    if raw is None:
        return None
    if isinstance(raw, int):
        return TakenBack(None)
    return TakenBack(Failed(text(raw)) if raw else Returned())
