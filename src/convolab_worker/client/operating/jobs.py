"""Finds jobs by state and queue that fit a filter, the newest or the oldest first.

The list of a state is read a page at a time. Jobs may come, go and be acted upon meanwhile: one
that stays in its state is given once, and one that has left it before its page is read is not.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import is_lifo, pairs, read_seconds, readable, text
from convolab_worker.client.job_status import JobStatus, Seen, as_status, seen
from convolab_worker.client.lookup import of_record
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from convolab_worker.client.operating.filters import Wanted
    from convolab_worker.connection.connection import Connection
    from convolab_worker.settings import Settings

_PAGE = 100
LISTS = {"active": ("active",), "waiting": ("wait", "paused")}
"""The states whose jobs are in lists. BullMQ before 6 kept those of a paused queue in its own."""
_SETS = ("prioritized", "delayed", "waiting-children", "failed", "completed")
_SCORED_BY_END = ("failed", "completed")
STATES = (*LISTS, *_SETS)
_LOOKED_AT = ("name", "failedReason", "opts", "timestamp")
Place = tuple[str, bytes | None]  # a job's id and its score, None in a list


def checked_states(states: str | Sequence[str] | None) -> Sequence[str]:
    """Return states by their names here; all for None. Raises ConfigurationError."""
    if states is None:
        return STATES
    names = [states] if isinstance(states, str) else list(states)
    for name in names:
        if name not in (*STATES, "wait"):
            msg = f"state={name!r}: expected one of {', '.join(STATES)}"
            raise ConfigurationError(msg)
    return ["waiting" if name == "wait" else name for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Reads from queues the jobs of a state that fit. ``now`` is epoch seconds."""

    connection: Connection
    queues: Sequence[QueueKeys]
    wanted: Wanted
    now: float
    oldest_first: bool = False

    @classmethod
    def of(
        cls,
        settings: Settings,
        connection: Connection,
        wanted: Wanted,
        now: float,
        *,
        oldest_first: bool = False,
    ) -> Search:
        """Return a search in the settings' queues."""
        return cls(
            connection=connection,
            queues=[QueueKeys(settings.prefix, name) for name in settings.queues],
            wanted=wanted,
            now=now,
            oldest_first=oldest_first,
        )

    async def jobs(
        self, states: Sequence[str], limit: int | None
    ) -> AsyncGenerator[JobStatus, None]:
        """Yield the jobs of these states, one state after the other, at most ``limit``."""
        count = 0
        for state in states:
            async with aclosing(self._of_all_queues(state)) as found:
                async for job in found:
                    if count == limit:
                        return
                    count += 1
                    yield job

    async def _of_all_queues(self, state: str) -> AsyncGenerator[JobStatus, None]:
        """Yield the jobs of a state in one order."""
        streams = [self._jobs_of(keys, state) for keys in self.queues]
        sign = 1 if self.oldest_first else -1
        heads: list[tuple[float, int, JobStatus]] = []

        async def advance(place: int) -> None:
            found = await anext(streams[place], None)
            if found is not None:
                heads.append((sign * found[0], place, found[1]))

        try:
            for place in range(len(streams)):
                await advance(place)
            while heads:
                head = min(heads, key=lambda found: found[:2])
                heads.remove(head)
                yield head[2]
                await advance(head[1])
        finally:
            for stream in streams:
                await stream.aclose()

    async def _jobs_of(
        self, keys: QueueKeys, state: str
    ) -> AsyncGenerator[tuple[float, JobStatus], None]:
        """Yield a queue's jobs, each with the time that jobs of this state are ordered by."""
        async with aclosing(self._pages(keys, state)) as pages:
            async for page in pages:
                places = page
                if self.wanted.is_about_record:
                    looked = await self._looked_at(keys, state, page)
                    fit = {job.id for job in looked if self.wanted.fits(job, self.now)}
                    places = [place for place in page if place[0] in fit]
                for job, score in await read_jobs(self.connection, keys, state, places):
                    at = _time_of(state, score, seen(job).at)
                    if self.wanted.fits(seen(job)._replace(at=at), self.now):
                        yield job.due_at or at, job

    async def places(self, keys: QueueKeys, state: str) -> AsyncGenerator[Seen, None]:
        """Yield a queue's jobs without their data, which takes less to read."""
        async with aclosing(self._pages(keys, state)) as pages:
            async for page in pages:
                for job in await self._looked_at(keys, state, page):
                    if self.wanted.fits(job, self.now):
                        yield job

    async def _looked_at(self, keys: QueueKeys, state: str, places: Sequence[Place]) -> list[Seen]:
        call = self.connection.call
        asked = [
            call(Purpose.STATUS, "HMGET", keys.job(job_id), *_LOOKED_AT) for job_id, _ in places
        ]
        found = []
        for (job_id, score), answer in zip(places, asked, strict=True):
            fields = await of_record(answer, None)
            if fields is None:
                continue
            name, reason, opts, added = fields
            at = _time_of(state, score, read_seconds(added) or 0.0)
            told = readable(name), readable(reason)
            found.append(Seen(keys.queue, job_id, state, *told, at, is_lifo(opts)))
        return found

    async def _pages(self, keys: QueueKeys, state: str) -> AsyncGenerator[list[Place], None]:
        if state not in LISTS:
            async for page in self._pages_of_set(keys[state], by_end=state in _SCORED_BY_END):
                yield page
            return
        for name in LISTS[state]:
            async for page in self._pages_of_list(keys[name]):
                yield page

    async def _pages_of_list(self, key: str) -> AsyncGenerator[list[Place], None]:
        """Yield the pages of a list, whose newest job is its first."""
        ids = self._all_of_list(key) if self.oldest_first else self._newest_of_list(key)
        given = set[str]()
        async for found in ids:
            page: list[Place] = [(job_id, None) for job_id in found if job_id not in given]
            given.update(found)
            if page:
                yield page

    async def _newest_of_list(self, key: str) -> AsyncGenerator[list[str], None]:
        """Yield ids from the newest on, a page at a time.

        Places are counted from the oldest: neither what is added, nor the removal of what was
        given, moves those that are still to be given.
        """
        call = self.connection.call
        left = await call(Purpose.STATUS, "LLEN", key)
        while left > 0:
            rest = max(left - _PAGE, 0)
            found = await call(Purpose.STATUS, "LRANGE", key, -left, -rest - 1)
            yield [text(raw) for raw in found]
            left = rest

    async def _all_of_list(self, key: str) -> AsyncGenerator[list[str], None]:
        """Yield ids from the oldest on, all read at once: counted from there, places move."""
        found = await self.connection.call(Purpose.STATUS, "LRANGE", key, 0, -1)
        ids = [text(raw) for raw in reversed(found)]
        for start in range(0, len(ids), _PAGE):
            yield ids[start : start + _PAGE]

    async def _pages_of_set(self, key: str, *, by_end: bool) -> AsyncGenerator[list[Place], None]:
        """Yield the pages of a sorted set, each from the last one's last score on."""
        lowest, highest = self.wanted.between(self.now) if by_end else ("-inf", "+inf")
        if self.oldest_first and highest == "+inf":
            # Jobs that come while this reads, such as one that was retried and fails again, would
            # keep it going for ever.
            last = await self.connection.call(Purpose.STATUS, "ZREVRANGE", key, 0, 0, "WITHSCORES")
            highest = last[1] if last else highest
        command = "ZRANGEBYSCORE" if self.oldest_first else "ZREVRANGEBYSCORE"
        begin: str | bytes
        begin, end = (lowest, highest) if self.oldest_first else (highest, lowest)
        given = set[bytes]()  # the jobs with that score which were given
        while True:
            limit = _PAGE + len(given)
            flat = await self.connection.call(
                Purpose.STATUS, command, key, begin, end, "WITHSCORES", "LIMIT", 0, limit
            )
            found = pairs(flat)
            page: list[Place] = [(text(raw), score) for raw, score in found if raw not in given]
            if page:
                yield page
            if len(found) < limit:
                return
            last_score = found[-1][1]
            kept = given if last_score == begin else set[bytes]()
            given = kept | {raw for raw, score in found if score == last_score}
            begin = last_score


async def read_jobs(
    connection: Connection, keys: QueueKeys, state: str, places: Sequence[Place]
) -> list[tuple[JobStatus, bytes | None]]:
    """Return the jobs of these places, each with its score; those that are gone are left out."""
    call = connection.call
    asked = [call(Purpose.STATUS, "HGETALL", keys.job(job_id)) for job_id, _ in places]
    found = []
    for (job_id, score), answer in zip(places, asked, strict=True):
        flat = await of_record(answer, [])
        due = score if state == "delayed" else None
        job = as_status(keys.queue, job_id, state, flat, due)
        if job is not None:
            found.append((job, score))
    return found


def _time_of(state: str, score: bytes | None, added: float) -> float:
    """Return when a job ended, which its score says, or when it was added (epoch seconds)."""
    return read_seconds(score) or 0.0 if state in _SCORED_BY_END else added
