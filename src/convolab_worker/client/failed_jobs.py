"""Finds a queue's failed jobs by name, age and reason, and retries or removes them."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.usage import Purpose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.connection import Connection

BATCH = 500
_FIELDS = ("name", "failedReason", "atm", "opts")
DONE, GONE = "done", "it is not among the failed any more"
LOCKED, SCHEDULED = "a worker has it, or one of its children", "a job scheduler has it next"


class Failure(NamedTuple):
    """A failed job; ``failed_at`` is epoch seconds."""

    queue: str
    id: str
    name: str
    failed_at: float
    attempts: int
    reason: str
    lifo: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A filter of failed jobs: one fits if it fits all parts that are set. Ages are in seconds."""

    ids: Collection[str] = ()
    names: Collection[str] = ()
    older_than: float | None = None
    newer_than: float | None = None
    reason: re.Pattern[str] | None = None

    @property
    def is_everything(self) -> bool:
        return self == Wanted()

    def between(self, now: float) -> tuple[str, str]:
        """Return the bounds of fitting times of failure, as scores: milliseconds, or infinity."""
        earliest = "-inf" if self.newer_than is None else f"{(now - self.newer_than) * 1000:.0f}"
        latest = "+inf" if self.older_than is None else f"{(now - self.older_than) * 1000:.0f}"
        return earliest, latest

    def fits(self, failure: Failure) -> bool:
        """Whether a job fits the other parts than age."""
        return (
            (not self.ids or failure.id in self.ids)
            and (not self.names or failure.name in self.names)
            and (self.reason is None or self.reason.search(failure.reason) is not None)
        )


def reason_pattern(given: str) -> re.Pattern[str]:
    """Return a pattern of reasons: text, in any case, or a regular expression between slashes.

    Raises ValueError with what was expected.
    """
    if len(given) > 1 and given.startswith("/") and given.endswith("/"):
        try:
            return re.compile(given[1:-1])
        except re.error as error:
            msg = f"a regular expression between the slashes ({error})"
            raise ValueError(msg) from None
    return re.compile(re.escape(given), re.IGNORECASE)


async def failures(
    connection: Connection, keys: QueueKeys, wanted: Wanted, now: float, *, newest_first: bool
) -> AsyncIterator[Failure]:
    """Yield the queue's failed jobs that fit, read in batches."""
    earliest, latest = wanted.between(now)
    command, bounds = "ZRANGEBYSCORE", (earliest, latest)
    if newest_first:
        command, bounds = "ZREVRANGEBYSCORE", (latest, earliest)
    offset = 0
    while True:
        limits = ("WITHSCORES", "LIMIT", offset, BATCH)
        flat = await connection.call(Purpose.STATUS, command, keys["failed"], *bounds, *limits)
        for failure in await _read(connection, keys, flat[::2], flat[1::2]):
            if wanted.fits(failure):
                yield failure
        offset += BATCH
        if len(flat) < 2 * BATCH:
            return


async def _read(
    connection: Connection, keys: QueueKeys, ids: Sequence[bytes], scores: Sequence[bytes]
) -> list[Failure]:
    asked = [
        connection.call(Purpose.STATUS, "HMGET", keys.job(text(job_id)), *_FIELDS) for job_id in ids
    ]
    found = []
    for job_id, score, answer in zip(ids, scores, asked, strict=True):
        name, reason, attempts, opts = await answer
        found.append(
            Failure(
                queue=keys.queue,
                id=text(job_id),
                name=text(name or b""),
                failed_at=float(score) / 1000,
                attempts=int(attempts or 0),
                reason=(reason or b"").decode("utf-8", "replace"),
                lifo=_is_lifo(opts),
            )
        )
    return found


def _is_lifo(opts: bytes | None) -> bool:
    try:
        decoded = json.loads(opts or b"{}")
    except ValueError:
        return False
    return isinstance(decoded, dict) and bool(decoded.get("lifo"))


def retry_call(keys: QueueKeys, failure: Failure, *, reset_attempts: bool) -> Call:
    """Put a failed job back into its queue, as Node's ``job.retry()`` does."""
    return client_calls.retry_failed(
        keys, failure.id, lifo=failure.lifo, reset_attempts=reset_attempts
    )


def remove_call(keys: QueueKeys, failure: Failure) -> Call:
    """Remove a job with its children, as Node's ``job.remove()`` does, if it is still failed."""
    return client_calls.remove_failed(keys, failure.id)


_ANSWERS = {1: DONE, 0: LOCKED, -1: GONE, -3: GONE, -8: SCHEDULED}


async def carry_out(connection: Connection, calls: Sequence[Call]) -> list[str]:
    """Run the calls, in one pipeline; for each ``done``, or why it was not."""
    if not calls:
        return []
    return await asyncio.gather(*[_run(connection, call) for call in calls])


async def _run(connection: Connection, call: Call) -> str:
    answer = await run_script(connection, Purpose.STATUS, call)
    return _ANSWERS.get(answer, f"BullMQ's code {answer}")
