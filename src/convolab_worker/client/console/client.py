"""ConsoleClient: what the console asks of Redis beyond what every JobClient does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.bullmq.protocol.keys import can_be_an_id
from convolab_worker.bullmq.protocol.records import is_lifo, pairs, read_seconds, readable, text
from convolab_worker.client.client import JobClient
from convolab_worker.client.console.details import read_attempts, read_details
from convolab_worker.client.console.pages import WINDOW, matching, read_page
from convolab_worker.client.job_status import Seen
from convolab_worker.client.lookup import of_record
from convolab_worker.client.operating.actions import DONE, Action
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.telemetry.recent_runs import pattern_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convolab_worker.client.console.details import Attempts, JobDetails
    from convolab_worker.client.console.pages import JobPage, Matches
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.operating.actions import Kind


class FailureGroup(NamedTuple):
    """Failed jobs of one name whose reasons are alike but for numbers and quoted text."""

    name: str
    reason: str
    ids: list[str]
    newest: float


class ConsoleClient(JobClient):
    """A client that reads pages of jobs, one job whole, and failures by reason."""

    async def page(
        self,
        queue: str,
        state: str,
        *,
        after: str | None = None,
        fits: Callable[[JobStatus], bool] | None = None,
    ) -> JobPage:
        """Return a page of the jobs of a state, or of ``any``.

        It costs one command a job, and up to eleven more. With ``fits``, up to 500 jobs are read,
        until a page of them fits. Raises ConfigurationError.
        """
        keys = self._keys_of(queue)
        connection = await self._connection()
        return await read_page(connection, keys, state, after, fits)

    async def matching(
        self,
        queue: str,
        state: str,
        *,
        name: str | None = None,
        fits: Callable[[JobStatus], bool] | None = None,
    ) -> Matches:
        """Return the ids of the newest 10,000 jobs of a state, or of those that fit.

        A command or two, and one a job where a name is given or a filter has to read them. Raises
        ConfigurationError.
        """
        keys = self._keys_of(queue)
        connection = await self._connection()
        return await matching(connection, keys, state, name, fits)

    async def details(self, job_id: str, queue: str) -> JobDetails:
        """Return everything kept of a job, its parents and its children. Raises JobNotFound."""
        connection = await self._connection()
        return await read_details(connection, self.settings.prefix, queue, job_id)

    async def attempts(self, job_id: str, queue: str) -> Attempts:
        """Return when each attempt of a job ran, as far as its queue's events still tell.

        One command for the job, and one for each 2,500 events since it was added, four at most.
        Raises JobNotFound.
        """
        keys = self._keys_of(queue)
        return await read_attempts(await self._connection(), keys, job_id)

    async def failures(self, queue: str) -> list[FailureGroup]:
        """Return the newest 500 failed jobs by reason: one command a job, and one more."""
        keys = self._keys_of(queue)
        connection = await self._connection()
        ids = await connection.call(
            Purpose.STATUS, "ZREVRANGE", keys["failed"], 0, WINDOW - 1, "WITHSCORES"
        )
        asked = [
            connection.call(Purpose.STATUS, "HMGET", keys.job(text(raw)), "name", "failedReason")
            for raw, _ in pairs(ids)
        ]
        groups: dict[tuple[str, str], FailureGroup] = {}
        for (raw, score), answer in zip(pairs(ids), asked, strict=True):
            name, reason = map(readable, await of_record(answer, (None, None)))
            new = FailureGroup(name, reason, [], read_seconds(score) or 0.0)
            groups.setdefault((name, pattern_of(reason)), new).ids.append(text(raw))
        return sorted(groups.values(), key=lambda group: len(group.ids), reverse=True)

    async def act(
        self,
        kind: Kind,
        queue: str,
        state: str,
        ids: Sequence[str],
        *,
        reset_attempts: bool = False,
        forget_steps: bool = False,
    ) -> int:
        """Act on the jobs that are in that state; return on how many.

        Unlike ``retry``, ``promote`` and ``remove`` it does not look up the jobs' states. It costs
        one script a job, and one command more to retry it. For one job it raises JobNotFound or
        WrongState; of several, those that are gone or in another state are passed over.
        """
        session, keys = self._current_session(), self._keys_of(queue)
        action = Action(kind, self.settings.prefix, reset_attempts, forget_steps)
        connection, ids = await session.open(), [one for one in ids if can_be_an_id(one)]
        opts: list[Any] = [None] * len(ids)
        if kind == "retry":
            asked = [connection.call(Purpose.STATUS, "HGET", keys.job(one), "opts") for one in ids]
            opts = [await of_record(answer, None) for answer in asked]
        jobs = [
            Seen(keys.queue, job_id, state, "", "", 0.0, is_lifo(raw))
            for job_id, raw in zip(ids, opts, strict=True)
        ]
        try:
            if len(jobs) == 1:
                await action.run_on_one(session, jobs[0])
                return 1
            return (await action.run(connection, jobs)).count(DONE)
        finally:
            if kind != "remove":
                self._wake(session, {None})
