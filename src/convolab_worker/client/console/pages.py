"""Pages of jobs, by state, and the ids of all jobs that fit a filter: each at a bounded cost."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.bullmq.protocol.records import pairs, readable, text
from convolab_worker.client.job_status import JobStatus
from convolab_worker.client.lookup import of_record
from convolab_worker.client.operating.jobs import LISTS, STATES, checked_states, read_jobs
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.operating.jobs import Place
    from convolab_worker.connection.connection import Connection

PAGE = 50
WINDOW = 500
"""How many jobs a search reads at most, and how many failed jobs are grouped by reason."""
MOST_MATCHED = 10_000
"""How many jobs are looked at for an action on all that fit."""
ANY = "any"
"""Stands for all states, one after the other."""
_PAGE_OF_ANY = 48  # the states' own commands come on top
_READ_AT_ONCE = 100  # each may have megabytes
_ORDER = (
    "failed",
    *(state for state in STATES if state not in {"failed", "completed"}),
    "completed",
)
_CURSOR = re.compile(r"(\d)~(-?\d{1,20}(?:\.\d{1,9})?(?:e\+?\d{1,3})?)~(\d{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Jobs, the newest of each state first.

    ``after`` begins the next page; None if this was the last. ``looked_at`` is how many jobs were
    read, which with a filter are more than the page has. ``total`` is how many jobs are in that
    state, where it was asked for.
    """

    jobs: Sequence[JobStatus]
    after: str | None
    looked_at: int
    total: int | None = None


class Matches(NamedTuple):
    """The ids of jobs that fit; there are ``more`` than were looked at."""

    ids: list[str]
    looked_at: int
    more: bool


class _Cursor(NamedTuple):
    """Where a page begins: in which state, at which score, and after how many of that score."""

    state: int = 0
    score: str = ""
    skipped: int = 0

    @classmethod
    def read(cls, after: str | None, states: int) -> _Cursor:
        match = None if after is None else _CURSOR.fullmatch(after)
        if after is not None and (match is None or int(match[1]) >= states):
            msg = f"after={after[:40]!r}: expected what a page has given"
            raise ConfigurationError(msg)
        return cls() if match is None else cls(int(match[1]), match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.state}~{self.score or '+inf'}~{self.skipped}"


async def read_page(
    connection: Connection,
    keys: QueueKeys,
    state: str,
    after: str | None,
    fits: Callable[[JobStatus], bool] | None,
) -> JobPage:
    """See ``ConsoleClient.page``."""
    states = _ORDER if state == ANY else checked_states(state)
    begin: _Cursor | None = _Cursor.read(after, len(states))
    found, looked_at = list[JobStatus](), 0
    most = PAGE if len(states) == 1 else _PAGE_OF_ANY
    total = None
    if after is None and fits is None and len(states) == 1:
        total = await count(connection, keys, state)
    while begin is not None and len(found) < most and looked_at < (WINDOW if fits else most):
        size = PAGE if fits else most - looked_at
        here = states[begin.state]
        places, later = await _places(connection, keys, here, begin, size)
        jobs = await read_jobs(connection, keys, here, places)
        looked_at += len(places)
        found += [job for job, _ in jobs if fits is None or fits(job)]
        begin = later
        if later is None and (next_state := states.index(here) + 1) < len(states):
            begin = _Cursor(next_state)
    return JobPage(
        jobs=found, after=None if begin is None else str(begin), looked_at=looked_at, total=total
    )


async def count(connection: Connection, keys: QueueKeys, state: str) -> int:
    """Return how many jobs are in a state: one command, two for those that wait."""
    if state in LISTS:
        names = keys.named(*LISTS[state])
        asked = [connection.call(Purpose.STATUS, "LLEN", name) for name in names]
        return sum(await asyncio.gather(*asked))
    return int(await connection.call(Purpose.STATUS, "ZCARD", keys[state]))


async def matching(
    connection: Connection,
    keys: QueueKeys,
    state: str,
    name: str | None,
    fits: Callable[[JobStatus], bool] | None,
) -> Matches:
    """See ``ConsoleClient.matching``."""
    (state,) = checked_states(state)
    ids = await _newest(connection, keys, state)
    looked_at, more = min(len(ids), MOST_MATCHED), len(ids) > MOST_MATCHED
    found = list[str]()
    for first in range(0, looked_at, _READ_AT_ONCE):
        batch = ids[first : min(first + _READ_AT_ONCE, looked_at)]
        if fits is not None:
            jobs = await read_jobs(connection, keys, state, [(job_id, None) for job_id in batch])
            found += [job.id for job, _ in jobs if fits(job)]
        elif name is not None:
            asked: list[Any] = [
                connection.call(Purpose.STATUS, "HGET", keys.job(job_id), "name")
                for job_id in batch
            ]
            names = [readable(await of_record(answer, None)) for answer in asked]
            found += [job_id for job_id, its in zip(batch, names, strict=True) if its == name]
        else:
            found += batch
    return Matches(found, looked_at, more)


async def _newest(connection: Connection, keys: QueueKeys, state: str) -> list[str]:
    if state in LISTS:
        found = list[Any]()
        for name in keys.named(*LISTS[state]):
            found += await connection.call(Purpose.STATUS, "LRANGE", name, 0, MOST_MATCHED)
    else:
        key = keys[state]
        found = await connection.call(Purpose.STATUS, "ZREVRANGE", key, 0, MOST_MATCHED)
    return [text(raw) for raw in found]


async def _places(
    connection: Connection, keys: QueueKeys, state: str, begin: _Cursor, size: int
) -> tuple[list[Place], _Cursor | None]:
    """Return the places of a page in one state, and where the next page of that state begins."""
    if state in LISTS:
        return await _places_of_lists(connection, keys.named(*LISTS[state]), begin, size)
    flat = await connection.call(
        Purpose.STATUS, "ZREVRANGEBYSCORE", keys[state], begin.score or "+inf", "-inf",
        "WITHSCORES", "LIMIT", begin.skipped, size + 1,
    )  # fmt: skip
    found = [(text(raw), score) for raw, score in pairs(flat)]
    page = found[:size]
    if len(found) <= size:
        return [*page], None
    last = page[-1][1]
    same = sum(score == last for _, score in page)
    if begin.score and float(begin.score) == float(last):
        same += begin.skipped
    return [*page], _Cursor(begin.state, last.decode(), same)


async def _places_of_lists(
    connection: Connection, names: Sequence[str], begin: _Cursor, size: int
) -> tuple[list[Place], _Cursor | None]:
    """Places are counted from the oldest job, so that they stay while jobs are added.

    The cursor's score is which of the lists, ``skipped`` how many jobs are left in it.
    """
    first = int(float(begin.score)) if begin.score else 0
    for index in range(max(first, 0), len(names)):
        left = begin.skipped
        if not begin.score or index > first:
            left = await connection.call(Purpose.STATUS, "LLEN", names[index])
        if left:
            rest = max(left - size, 0)
            found = await connection.call(Purpose.STATUS, "LRANGE", names[index], -left, -rest - 1)
            is_last = not rest and index + 1 == len(names)
            later = None if is_last else _Cursor(begin.state, str(index), rest)
            return [(text(raw), None) for raw in found], later
    return [], None
