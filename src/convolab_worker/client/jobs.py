"""Jobs as operators handle them: failed ones are found, retried and removed, others are moved."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.usage import Purpose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from convolab_worker.bullmq.protocol.calls import Call
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


STATES = ("wait", "prioritized", "delayed", "failed")
_LISTS = ("wait", "paused")
_MOVED_AT_ONCE = 200
MOVED = "moved"
# What the script answers for a job that stays, and what that means.
REASONS = {
    "no data": "its hash is gone or has no name",
    "locked": "a worker has it",
    "parent": "it has a parent",
    "children": "it has children",
    "scheduler": "it comes from a job scheduler",
    "taken": "its id, and the one it would get, are taken there",
}
# The states whose jobs are not moved, and why.
_LEFT = {"active": "a worker has it", "waiting-children": "it has children"}


class Step(NamedTuple):
    """What became of one job: ``outcome`` is ``moved``, or why it stays."""

    queue: str
    state: str
    name: str
    outcome: str
    id: str
    new_id: str


@dataclass(slots=True)
class Account:
    """Counts what was done, or would be: jobs by queue, state, name and outcome, and new ids."""

    jobs: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    renamed: int = 0

    def add(self, step: Step) -> None:
        self.jobs[step.queue, step.state, step.name, step.outcome] += 1
        self.renamed += step.outcome == MOVED and step.id != step.new_id

    @property
    def moved(self) -> int:
        return sum(count for (*_, outcome), count in self.jobs.items() if outcome == MOVED)


class Mover:
    """Moves the jobs of ``sources`` to ``destination``; with ``execute=False`` it only looks."""

    def __init__(
        self,
        connection: Connection,
        *,
        prefix: str,
        sources: Sequence[str],
        destination: str,
        states: Sequence[str] = STATES,
        execute: bool,
    ) -> None:
        self._connection = connection
        self._sources = [QueueKeys(prefix, name) for name in sources]
        self._destination = QueueKeys(prefix, destination)
        self._states = states
        self._execute = execute
        self._promised: set[str] = set()  # ids that a look has given away

    async def total(self) -> int:
        counts = [
            self._ask("LLEN" if state in _LISTS else "ZCARD", keys[state])
            for keys in self._sources
            for state in self._all_states()
        ]
        return sum([await count for count in counts])

    def _ask(self, *command: str | int) -> asyncio.Future[Any]:
        return self._connection.call(Purpose.STATUS, *command)

    def _all_states(self) -> list[str]:
        """BullMQ before 6 kept the jobs of a paused queue in a list of its own."""
        return [
            each
            for state in self._states
            for each in (("wait", "paused") if state == "wait" else (state,))
        ]

    async def steps(self) -> AsyncIterator[Step]:
        """Go through the jobs, the oldest of each state first, and yield what becomes of each.

        Workers and producers may go on meanwhile: a job that a worker takes stays, and one that is
        added is moved too. This may be stopped at any time, and run again.
        """
        for keys in self._sources:
            for state in self._all_states():
                async for step in self._of(keys, state):
                    yield step
            for state, reason in _LEFT.items():
                async for step in self._left(keys, state, reason):
                    yield step

    async def _of(self, keys: QueueKeys, state: str) -> AsyncIterator[Step]:
        stayed = 0
        while ids := await self._oldest(keys, state, stayed):
            moves = [self._move_one(keys, state, job_id) for job_id in ids]
            steps = await asyncio.gather(*moves)
            for step in steps:
                if step is not None:
                    stayed += not (self._execute and step.outcome == MOVED)
                    yield step

    async def _oldest(self, keys: QueueKeys, state: str, past: int) -> list[str]:
        if state in _LISTS:  # the oldest stand at the end
            found = await self._ask("LRANGE", keys[state], -past - _MOVED_AT_ONCE, -past - 1)
            return [text(raw) for raw in reversed(found)]
        found = await self._ask("ZRANGE", keys[state], past, past + _MOVED_AT_ONCE - 1)
        return [text(raw) for raw in found]

    async def _move_one(self, keys: QueueKeys, state: str, job_id: str) -> Step | None:
        """Move a job; None if it is not there any more."""
        call = client_calls.move_job(keys, self._destination, state, job_id, execute=self._execute)
        answer = await run_script(self._connection, Purpose.MOVE, call)
        outcome, name, new_id = (text(part) for part in answer)
        if outcome == "gone":
            return None
        if not self._execute and outcome == MOVED:
            new_id = client_calls.other_id(keys, job_id) if new_id in self._promised else new_id
            self._promised.add(new_id)
        return Step(keys.queue, state, name, REASONS.get(outcome, outcome), job_id, new_id)

    async def _left(self, keys: QueueKeys, state: str, reason: str) -> AsyncIterator[Step]:
        command = "LRANGE" if state == "active" else "ZRANGE"
        ids = [text(raw) for raw in await self._ask(command, keys[state], 0, -1)]
        names = [self._ask("HGET", keys.job(job_id), "name") for job_id in ids]
        for job_id, name in zip(ids, names, strict=True):
            yield Step(keys.queue, state, text(await name or b""), reason, job_id, job_id)
