"""What a client does for operators: finds jobs, acts on them, pauses and cleans queues."""

from __future__ import annotations

import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from convolab_worker.bullmq.producer import depths
from convolab_worker.bullmq.protocol.keys import QueueKeys, can_be_in_a_key
from convolab_worker.bullmq.protocol.records import readable
from convolab_worker.client.base import ClientBase
from convolab_worker.client.lookup import find_job
from convolab_worker.client.operating import actions, queues as of_queues
from convolab_worker.client.operating.demand import Demand, demand
from convolab_worker.client.operating.filters import Wanted, check_age, check_limit
from convolab_worker.client.operating.jobs import Search, checked_states
from convolab_worker.connection.commands.usage import Purpose

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.operating.actions import Jobs
    from convolab_worker.client.operating.queues import QueueStatus


class Operations(ClientBase):
    """The methods of ``JobClient`` for operators. ``queue=None`` means the settings' queues."""

    def jobs(
        self,
        state: str | Sequence[str] | None = None,
        *,
        queue: str | None = None,
        name: str | Sequence[str] | None = None,
        limit: int | None = None,
        older_than: float | None = None,
        newer_than: float | None = None,
        reason: str | None = None,
        oldest_first: bool = False,
    ) -> AsyncGenerator[JobStatus, None]:
        """Iterate over jobs with all that their records say, the newest first.

        Args:
            state: ``active``, ``waiting``, ``prioritized``, ``delayed``, ``waiting-children``,
                ``failed`` or ``completed``; several, one after the other; all without it. Ended
                jobs are ordered by their end, delayed ones by when they are due, others by
                their place in the queue.
            queue: that queue instead of the settings' queues, which are read in one order.
            name: only jobs of that name, or of one of these.
            limit: so many at most.
            older_than: only jobs that ended, or were added, longer ago (seconds).
            newer_than: only jobs that ended, or were added, within this time (seconds).
            reason: only jobs that failed with this text in the reason, in any case; ``/…/`` is a
                regular expression.
            oldest_first: the other way round.

        The jobs may be acted on meanwhile. Raises ConfigurationError for a state that there is
        not, or for a limit or an age that can't be, and RedisUnavailable.
        """
        wanted = Wanted.of(name=name, older_than=older_than, newer_than=newer_than, reason=reason)
        check_limit(limit)
        states, queues = checked_states(state), self._queues(queue)
        return self._found(states, queues, wanted, limit, oldest_first=oldest_first)

    async def _found(
        self,
        states: Sequence[str],
        queues: Sequence[QueueKeys],
        wanted: Wanted,
        limit: int | None,
        *,
        oldest_first: bool,
    ) -> AsyncGenerator[JobStatus, None]:
        search = Search(
            connection=await self._connection(),
            queues=queues,
            wanted=wanted,
            now=time.time(),
            oldest_first=oldest_first,
        )
        async with aclosing(search.jobs(states, limit)) as found:
            async for job in found:
                yield job

    async def logs(self, job_id: str, queue: str | None = None) -> list[str]:
        """Return the rows of the job's log, the oldest first. Raises JobNotFound."""
        session = self._current_session()
        keys, _ = await find_job(session, self._queues(queue, job_id), job_id)
        connection = await session.open()
        rows = await connection.call(Purpose.STATUS, "LRANGE", f"{keys.job(job_id)}:logs", 0, -1)
        return [readable(row) for row in rows]

    async def remove(self, jobs: Jobs, *, queue: str | None = None) -> int:
        """Remove a job with its children and everything kept of it, as Node's ``job.remove()``.

        ``jobs`` is an id, or several: a list of ids, or what ``jobs()`` gives. Returns how many
        were removed. For one id it raises JobNotFound, and WrongState if a worker has the job
        (``cancel`` ends it) or a job scheduler has it next; of several, such jobs stay.
        """
        return await self._act(jobs, queue, "remove")

    async def promote(self, jobs: Jobs, *, queue: str | None = None) -> int:
        """Let a delayed job wait for a worker from now on, as Node's ``job.promote()``.

        ``jobs`` and what is returned are as for ``remove``. For one id it raises JobNotFound, and
        WrongState if the job is not delayed.
        """
        return await self._act(jobs, queue, "promote")

    async def retry(
        self,
        jobs: Jobs,
        *,
        queue: str | None = None,
        reset_attempts: bool = False,
        forget_steps: bool = False,
        with_children: bool = False,
    ) -> int:
        """Put a job that has failed, or is completed, back into its queue: ``job.retry()`` in Node.

        With ``reset_attempts`` it has all of its attempts again; with ``forget_steps`` its steps
        run anew, where their recorded results count otherwise. With ``with_children`` its failed
        children are retried in the same way, and theirs, and it waits for them as it did at first:
        without, it runs at once, and fails again while the child that failed it is failed.
        ``jobs`` and what is returned (of the jobs alone, without children) are as for ``remove``.
        For one id it raises JobNotFound, and WrongState if it has not ended.
        """
        return await self._act(
            jobs,
            queue,
            "retry",
            reset_attempts=reset_attempts,
            forget_steps=forget_steps,
            with_children=with_children,
        )

    async def _act(self, jobs: Jobs, queue: str | None, kind: actions.Kind, **how: bool) -> int:
        session = self._current_session()
        action = actions.Action(kind, self.settings.prefix, **how)
        try:
            return await actions.act(session, partial(self._queues, queue), jobs, action)
        finally:  # also for the jobs before one that could not be retried
            if kind != "remove":
                self._wake(session, {None})

    async def pause(self, queue: str | None = None) -> None:
        """Let no worker start a job of the queue until ``resume``; jobs that run go on."""
        connection = await self._connection()
        await of_queues.pause(connection, self._queues(queue))

    async def resume(self, queue: str | None = None) -> None:
        """Let workers start jobs of the queue again."""
        session = self._current_session()
        await of_queues.resume(await session.open(), self._queues(queue))
        self._wake(session, {None})

    async def clean(
        self, queue: str, state: str, older_than: float = 0.0, *, limit: int | None = None
    ) -> list[str]:
        """Remove jobs of a state that are older, as Node's ``queue.clean()``; return their ids.

        ``state`` is ``completed``, ``failed``, ``delayed``, ``prioritized`` or ``waiting``.
        ``older_than`` is seconds: since a job ended or, before that, since it last started or was
        added. ``limit`` is how many jobs at most. Raises ConfigurationError.
        """
        checked = of_queues.checked_state(state)
        check_age("older_than", older_than)
        check_limit(limit)
        connection = await self._connection()
        before = time.time() - older_than
        return await of_queues.clean(connection, self._keys_of(queue), checked, before, limit)

    async def queues(
        self, names: Sequence[str] | None = None, *, find: bool = False
    ) -> list[QueueStatus]:
        """Return these queues, or the settings' queues, as they are now: jobs, workers, a pause.

        With ``find``, all queues under the prefix are found by their keys: Redis looks through all
        keys of the database for that.
        """
        connection, prefix = await self._connection(), self.settings.prefix
        if find:
            found = await of_queues.find_queues(connection, prefix)
            keys = [QueueKeys(prefix, name) for name in found]
        else:
            # One that was found may have a name that no queue of ours can have.
            keys = [
                QueueKeys(prefix, name) if can_be_in_a_key(name) else self._keys_of(name)
                for name in names or self.settings.queues
            ]
        return await of_queues.overview(connection, prefix, keys)

    async def counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs each of the settings' queues has in each state."""
        connection = await self._connection()
        return await depths(connection, self._queues(None))

    async def demand(self) -> Demand:
        """Return how many jobs of the settings' queues need a worker, for a scaler.

        Costs one command while there is nothing, and four more for each queue otherwise. Raises
        RedisUnavailable.
        """
        connection = await self._connection()
        return await demand(connection, self._queues(None))
