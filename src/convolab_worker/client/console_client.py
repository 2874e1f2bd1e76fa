"""ConsoleClient: what the console asks of Redis beyond what every JobClient does."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import STEP_FIELD, read_number, text
from convolab_worker.client.client import JobClient
from convolab_worker.client.job_status import JobStatus, as_status, not_found, state_now
from convolab_worker.client.jobs import LISTS, checked_states
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.recent_runs import pattern_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.connection.connection import Connection

PAGE = 50
WINDOW = 500
"""How many jobs a search looks at, and how many failed jobs are grouped by reason."""
_ANCESTORS = 5
_CHILDREN = 50
_LOGS = 200
_CURSOR = re.compile(r"(-?\d{1,20}(?:\.\d{1,9})?(?:e\+?\d{1,3})?)~(\d{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Jobs of one state, the newest first.

    ``after`` begins the next page; None if this was the last. ``looked_at`` is how many jobs were
    read, which are more than those that were found if a text was looked for.
    """

    jobs: Sequence[JobStatus]
    after: str | None
    looked_at: int


class Relative(NamedTuple):
    """A job's parent or child. A state of ``gone`` says that nothing is left of it."""

    queue: str
    id: str
    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetails:
    """A job, with its logs, its parents and its children.

    ``steps`` has the JSON text of each recorded step, ``logs`` the newest rows. ``parents`` begins
    with the job's own parent. ``children`` has the first ones of ``children_count``.
    """

    job: JobStatus
    steps: Mapping[str, str]
    logs: Sequence[str]
    parents: Sequence[Relative]
    children: Sequence[Relative]
    children_count: int


class FailureGroup(NamedTuple):
    """Failed jobs of one name whose reasons differ in numbers and quoted text at most."""

    name: str
    reason: str
    ids: list[str]
    newest: float


class ConsoleClient(JobClient):
    """A client that reads pages of jobs, one job whole, and failures by reason."""

    async def page(
        self, queue: str, state: str, *, after: str | None = None, containing: str | None = None
    ) -> JobPage:
        """Return a page of a state's jobs, for one command a job and two or three more.

        With ``containing``, the next 500 jobs are read, until a page of them has that text in id,
        name, data or reason. Raises ConfigurationError.
        """
        keys, state = self._keys_of(queue), checked_states(state)[0]
        connection = await self._current_session().open()
        found, looked_at = list[JobStatus](), 0
        while True:
            places, after = await _places(connection, keys, state, after)
            jobs = await _read(connection, keys, state, places)
            looked_at += len(places)
            found += [job for job in jobs if containing is None or _contains(job, containing)]
            is_enough = containing is None or len(found) >= PAGE or looked_at >= WINDOW
            if after is None or is_enough:
                return JobPage(jobs=found, after=after, looked_at=looked_at)

    async def details(self, job_id: str, queue: str) -> JobDetails:
        """Return everything kept of a job, its parents and its children. Raises JobNotFound."""
        keys = self._keys_of(queue)
        connection = await self._current_session().open()
        key, call = keys.job(job_id), connection.call
        state = await state_now(connection, keys, job_id)
        asked = [
            call(Purpose.STATUS, "HGETALL", key),
            call(Purpose.STATUS, "LRANGE", f"{key}:logs", -_LOGS, -1),
            call(Purpose.STATUS, "SMEMBERS", f"{key}:dependencies"),
            call(Purpose.STATUS, "HKEYS", f"{key}:processed"),
            call(Purpose.STATUS, "HKEYS", f"{key}:failed"),
            call(Purpose.STATUS, "ZRANGE", f"{key}:unsuccessful", 0, -1),
        ]
        flat, logs, *families = await asyncio.gather(*asked)
        score = None
        if state == "delayed":
            score = await call(Purpose.STATUS, "ZSCORE", keys["delayed"], job_id)
        job = as_status(keys.queue, job_id, state, flat, score)
        if job is None:
            raise not_found([keys], job_id)
        fields = {text(name): raw for name, raw in zip(flat[::2], flat[1::2], strict=True)}
        pending, completed, failed, unsuccessful = families
        children = [
            *((raw, "failed") for raw in dict.fromkeys([*failed, *unsuccessful])),
            *((raw, None) for raw in sorted(pending)),
            *((raw, "completed") for raw in sorted(completed)),
        ]
        return JobDetails(
            job=job,
            steps={
                name.removeprefix(STEP_FIELD): raw.decode("utf-8", "replace")
                for name, raw in fields.items()
                if name.startswith(STEP_FIELD)
            },
            logs=[row.decode("utf-8", "replace") for row in logs],
            parents=await self._parents(connection, job.parent),
            children=[
                relative
                for raw, known in children[:_CHILDREN]
                if (relative := await self._relative(connection, text(raw), known)) is not None
            ],
            children_count=len(children),
        )

    async def failures(self, queue: str) -> list[FailureGroup]:
        """Return the newest 500 failed jobs by reason: one command a job, and one more."""
        keys = self._keys_of(queue)
        connection = await self._current_session().open()
        ids = await connection.call(
            Purpose.STATUS, "ZREVRANGE", keys["failed"], 0, WINDOW - 1, "WITHSCORES"
        )
        asked = [
            connection.call(Purpose.STATUS, "HMGET", keys.job(text(raw)), "name", "failedReason")
            for raw in ids[::2]
        ]
        groups: dict[tuple[str, str], FailureGroup] = {}
        for raw, score, fields in zip(
            ids[::2], ids[1::2], await asyncio.gather(*asked), strict=True
        ):
            name, reason = [(part or b"").decode("utf-8", "replace") for part in fields]
            at = (read_number(score) or 0.0) / 1000
            new = FailureGroup(name, reason, [], at)
            groups.setdefault((name, pattern_of(reason)), new).ids.append(text(raw))
        return sorted(groups.values(), key=lambda group: len(group.ids), reverse=True)

    async def _parents(self, connection: Connection, key: str | None) -> list[Relative]:
        found = list[Relative]()
        while key is not None and len(found) < _ANCESTORS:
            parent = await self._relative(connection, key, None)
            if parent is None:
                break
            found.append(parent)
            raw = await connection.call(Purpose.STATUS, "HGET", key, "parentKey")
            key = None if not raw else text(raw)
        return found

    async def _relative(
        self, connection: Connection, key: str, state: str | None
    ) -> Relative | None:
        """Return the job of that key; None for a key that is not of this prefix."""
        prefix = f"{self.settings.prefix}:"
        queue, colon, job_id = key.removeprefix(prefix).partition(":")
        if not key.startswith(prefix) or not colon:
            return None
        raw = await connection.call(Purpose.STATUS, "HGET", key, "name")
        if raw is None:
            return Relative(queue, job_id, "", state or "gone")
        if state is None:
            state = await state_now(connection, QueueKeys(self.settings.prefix, queue), job_id)
        return Relative(queue, job_id, raw.decode("utf-8", "replace"), state)


def _contains(job: JobStatus, wanted: str) -> bool:
    parts = (job.id, job.name, job.failed_reason or "", json.dumps(job.data, ensure_ascii=False))
    return any(wanted.lower() in part.lower() for part in parts)


def _cursor(after: str | None) -> tuple[str, int] | None:
    if after is None:
        return None
    match = _CURSOR.fullmatch(after)
    if match is None:
        msg = f"after={after[:40]!r}: expected what a page has given"
        raise ConfigurationError(msg)
    return match[1], int(match[2])


Place = tuple[str, bytes | None]


async def _places(
    connection: Connection, keys: QueueKeys, state: str, after: str | None
) -> tuple[list[Place], str | None]:
    """Return the ids of a page, each with its score, and where the next page begins."""
    begin = _cursor(after)
    if state in LISTS:
        return await _places_of_lists(connection, keys.named(*LISTS[state]), begin)
    highest, skipped = begin or ("+inf", 0)
    flat = await connection.call(
        Purpose.STATUS, "ZREVRANGEBYSCORE", keys[state], highest, "-inf", "WITHSCORES",
        "LIMIT", skipped, PAGE + 1,
    )  # fmt: skip
    found = [(text(raw), score) for raw, score in zip(flat[::2], flat[1::2], strict=True)]
    page, last = found[:PAGE], found[PAGE - 1][1] if len(found) > PAGE else None
    if last is None:
        return [*page], None
    same = sum(score == last for _, score in page)
    if begin is not None and float(begin[0]) == float(last):
        same += skipped
    return [*page], f"{last.decode()}~{same}"


async def _places_of_lists(
    connection: Connection, names: Sequence[str], begin: tuple[str, int] | None
) -> tuple[list[Place], str | None]:
    """Places are counted from the oldest, which stay while jobs are added."""
    place, left = (0, 0) if begin is None else (int(float(begin[0])), begin[1])
    for index in range(max(place, 0), len(names)):
        if begin is None or index > place:
            left = await connection.call(Purpose.STATUS, "LLEN", names[index])
        if left:
            rest = max(left - PAGE, 0)
            found = await connection.call(Purpose.STATUS, "LRANGE", names[index], -left, -rest - 1)
            after = f"{index}~{rest}" if rest or index + 1 < len(names) else None
            return [(text(raw), None) for raw in found], after
    return [], None


async def _read(
    connection: Connection, keys: QueueKeys, state: str, places: Sequence[Place]
) -> list[JobStatus]:
    asked: list[Any] = [
        connection.call(Purpose.STATUS, "HGETALL", keys.job(job_id)) for job_id, _ in places
    ]
    jobs = [
        as_status(keys.queue, job_id, state, flat, score if state == "delayed" else None)
        for (job_id, score), flat in zip(places, await asyncio.gather(*asked), strict=True)
    ]
    return [job for job in jobs if job is not None]
