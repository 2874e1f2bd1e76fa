"""Moves jobs from queues to another one, each whole or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.client.lookup import of_record
from convolab_worker.client.operating.jobs import LISTS
from convolab_worker.connection.commands.error_replies import is_of_another_type
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import RedisRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from convolab_worker.connection.connection import Connection

STATES = ("waiting", "prioritized", "delayed", "failed")
_LISTS = LISTS["waiting"]
_MOVED_AT_ONCE = 200
MOVED = "moved"
# What the script answers for a job that stays, and what the answer means.
REASONS = {
    "no data": "its hash is gone or has no name",
    "locked": "a worker has it",
    "parent": "it has a parent",
    "children": "it has children",
    "scheduler": "it comes from a job scheduler",
    "taken": "its id, and the one it would get, are taken there",
}
_OVERWRITTEN = "another program has written over it"
# The states whose jobs are not moved, and why.
_LEFT = {"active": "a worker has it", "waiting-children": "it has children"}


class MoveResult(NamedTuple):
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

    def add(self, result: MoveResult) -> None:
        self.jobs[result.queue, result.state, result.name, result.outcome] += 1
        self.renamed += result.outcome == MOVED and result.id != result.new_id

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
        self._promised: set[str] = set()  # ids that a dry run has given to jobs

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
        """The states, and the list in which BullMQ before 6 kept the jobs of a paused queue."""
        return [each for state in self._states for each in (LISTS.get(state, (state,)))]

    async def results(self) -> AsyncIterator[MoveResult]:
        """Go through the jobs, the oldest of each state first, and yield what becomes of each.

        Workers and producers may go on meanwhile: a job that a worker takes stays, and one that is
        added is moved too. This may be stopped at any time, and run again.
        """
        for keys in self._sources:
            for state in self._all_states():
                async for result in self._of(keys, state):
                    yield result
            for state, reason in _LEFT.items():
                async for result in self._left(keys, state, reason):
                    yield result

    async def _of(self, keys: QueueKeys, state: str) -> AsyncIterator[MoveResult]:
        stayed = 0
        while ids := await self._oldest(keys, state, stayed):
            moves = [self._move_one(keys, state, job_id) for job_id in ids]
            results = await asyncio.gather(*moves)
            for result in results:
                if result is not None:
                    stayed += not (self._execute and result.outcome == MOVED)
                    yield result

    async def _oldest(self, keys: QueueKeys, state: str, past: int) -> list[str]:
        if state in _LISTS:  # the oldest stand at the end
            found = await self._ask("LRANGE", keys[state], -past - _MOVED_AT_ONCE, -past - 1)
            return [text(raw) for raw in reversed(found)]
        found = await self._ask("ZRANGE", keys[state], past, past + _MOVED_AT_ONCE - 1)
        return [text(raw) for raw in found]

    async def _move_one(self, keys: QueueKeys, state: str, job_id: str) -> MoveResult | None:
        """Move a job; None if it is not there any more."""
        call = client_calls.move_job(keys, self._destination, state, job_id, execute=self._execute)
        shown = "waiting" if state in _LISTS else state
        try:
            answer = await run_script(self._connection, Purpose.MOVE, call)
        except RedisRefused as error:
            if not is_of_another_type(str(error)) or await self._is_record(keys, job_id):
                raise
            return MoveResult(keys.queue, shown, "", _OVERWRITTEN, job_id, job_id)
        outcome, name, new_id = (text(part) for part in answer)
        if outcome == "gone":
            return None
        if not self._execute and outcome == MOVED:
            new_id = client_calls.other_id(keys, job_id) if new_id in self._promised else new_id
            self._promised.add(new_id)
        return MoveResult(keys.queue, shown, name, REASONS.get(outcome, outcome), job_id, new_id)

    async def _is_record(self, keys: QueueKeys, job_id: str) -> bool:
        """Whether the key of a job is a record, or is not there."""
        fields = await of_record(self._ask("HMGET", keys.job(job_id), "name"), None)
        return fields is not None

    async def _left(self, keys: QueueKeys, state: str, reason: str) -> AsyncIterator[MoveResult]:
        command = "LRANGE" if state == "active" else "ZRANGE"
        ids = [text(raw) for raw in await self._ask(command, keys[state], 0, -1)]
        names = [self._ask("HGET", keys.job(job_id), "name") for job_id in ids]
        for job_id, name in zip(ids, names, strict=True):
            told = text(await of_record(name, b"") or b"")
            yield MoveResult(keys.queue, state, told, reason, job_id, job_id)
