"""Queues as operators see them: found by their keys, counted, paused, resumed and cleaned."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Mapping, Sequence  # noqa: TC003 - an API may answer with a QueueStatus
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convolab_worker.bullmq.producer import COMMANDS_PER_QUEUE, depths
from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import read_number, read_seconds, text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.client.lookup import of_record
from convolab_worker.client.operating.jobs import LISTS
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConfigurationError, RedisRefused

if TYPE_CHECKING:
    from convolab_worker.connection.connection import Connection

MOST_STATUS_COMMANDS = COMMANDS_PER_QUEUE + 6
"""What ``overview`` sends for a queue at most; ``CLIENT LIST`` is one more for all."""
_SCANNED_AT_ONCE = 5000
# A queue that was resumed has no "meta" any more if only its pause was in it.
_SIGNS_OF_USE = ("meta", "id", "events", "wait", "prioritized", "delayed", "completed", "failed")
_CLEANED_AT_ONCE = 1000  # the server answers nobody else meanwhile
CLEANED = {
    "completed": ("completed",),
    "failed": ("failed",),
    "delayed": ("delayed",),
    "prioritized": ("prioritized",),
    "waiting": LISTS["waiting"],
}
"""The states whose jobs can be cleaned away, and the keys that have those jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """A queue as it is now.

    ``counts`` has the number of jobs by state. ``workers`` has the names of the workers that listen
    to the queue, one of Node's without a name as ``""``; it is None where the server does not
    tell. ``oldest_waiting`` is when the job that has waited longest was added (epoch seconds), as
    far as the ends of the queue tell. ``concurrency`` is the queue's global limit, ``rate_limit``
    its global rate: so many jobs in so many seconds. ``limited_for`` is the seconds until a rate
    limit that has been reached, whoever set it, lets jobs start again. ``addresses`` has the
    addresses that the workers are connected from, by their names.
    """

    name: str
    counts: Mapping[str, int]
    paused: bool
    concurrency: int | None
    workers: Sequence[str] | None
    oldest_waiting: float | None
    rate_limit: tuple[int, float] | None = None
    limited_for: float | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)


async def find_queues(connection: Connection, prefix: str) -> list[str]:
    """Return the names of all queues under the prefix, sorted.

    It looks through all keys of the database, 5,000 with each command.
    """
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + ":*:meta"
    names, cursor = set[str](), b"0"
    while True:
        cursor, found = await connection.call(
            Purpose.STATUS, "SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED_AT_ONCE
        )
        names.update(text(raw)[len(prefix) + 1 : -len(":meta")] for raw in found)
        if cursor == b"0":
            return sorted(name for name in names if ":" not in name)


async def not_used(connection: Connection, prefix: str, names: Sequence[str]) -> list[str]:
    """Return which of these queues nobody has used yet: nothing of theirs is in Redis."""
    asked = [
        connection.call(
            Purpose.STATUS, "EXISTS", *[QueueKeys(prefix, name)[key] for key in _SIGNS_OF_USE]
        )
        for name in names
    ]
    there = await asyncio.gather(*asked)
    return [name for name, is_there in zip(names, there, strict=True) if not is_there]


async def overview(
    connection: Connection, prefix: str, queues: Sequence[QueueKeys]
) -> list[QueueStatus]:
    """Return the state of each queue, asked for in pipelines."""
    call = connection.call
    asked = [
        (
            call(Purpose.STATUS, "HMGET", keys["meta"], "paused", "concurrency", "max", "duration"),
            call(Purpose.STATUS, "PTTL", keys["limiter"]),
            call(Purpose.STATUS, "LINDEX", keys["wait"], -1),
            call(Purpose.STATUS, "ZRANGE", keys["prioritized"], 0, 0),
        )
        for keys in queues
    ]
    counts = await depths(connection, queues)
    workers = await workers_by_queue(connection, prefix)
    found = []
    for keys, (meta, left, last, first) in zip(queues, asked, strict=True):
        paused, concurrency, most, duration = await meta
        ends = [raw for raw in (await last, *(await first)) if raw is not None]
        limit = read_number(concurrency)
        found.append(
            QueueStatus(
                name=keys.queue,
                counts=counts[keys.queue],
                paused=paused is not None,
                concurrency=None if limit is None else int(limit),
                workers=None if workers is None else sorted(workers.get(keys.queue, ())),
                oldest_waiting=await _oldest(connection, keys, ends),
                rate_limit=_rate(read_number(most), read_number(duration)),
                limited_for=_seconds(await left),
                addresses={} if workers is None else workers.get(keys.queue, {}),
            )
        )
    return found


async def _oldest(
    connection: Connection, keys: QueueKeys, job_ids: Sequence[bytes]
) -> float | None:
    asked = [
        connection.call(Purpose.STATUS, "HGET", keys.job(text(job_id)), "timestamp")
        for job_id in job_ids
    ]
    times = [read_seconds(await of_record(answer, None)) for answer in asked]
    return min((at for at in times if at is not None), default=None)


def _seconds(left_ms: int) -> float | None:
    return left_ms / 1000 if left_ms > 0 else None


def _rate(most: float | None, duration: float | None) -> tuple[int, float] | None:
    return None if not most or not duration else (int(most), duration / 1000)


async def workers_by_queue(connection: Connection, prefix: str) -> dict[str, dict[str, str]] | None:
    """Return connected workers by queue, as Node's ``queue.getWorkers()``: name and address.

    It is None where the server does not tell.
    """
    try:
        listed = await connection.call(Purpose.STATUS, "CLIENT", "LIST")
    except RedisRefused:
        return None
    found: dict[str, dict[str, str]] = {}
    for line in text(listed).splitlines():
        fields = dict(field.partition("=")[::2] for field in line.split(" "))
        name = fields.get("name", "")
        if not name.startswith(f"{prefix}:"):
            continue
        encoded, _, worker = name[len(prefix) + 1 :].partition(":w:")
        try:
            queue = base64.b64decode(encoded, validate=True).decode()
        except ValueError:
            continue
        found.setdefault(queue, {})[worker] = fields.get("addr", "").rpartition(":")[0]
    return found


async def pause(connection: Connection, queues: Sequence[QueueKeys]) -> None:
    """Let no worker start a job of these queues."""
    calls = [client_calls.pause_queue(keys) for keys in queues]
    await asyncio.gather(*[run_script(connection, Purpose.STATUS, call) for call in calls])


async def resume(connection: Connection, queues: Sequence[QueueKeys]) -> None:
    """Let workers start jobs of these queues again."""
    for keys in queues:
        again = False
        while await run_script(
            connection, Purpose.STATUS, client_calls.resume_queue(keys, again=again)
        ):
            again = True


def checked_state(state: str) -> str:
    """Return a state whose jobs can be cleaned away. Raises ConfigurationError."""
    if state not in CLEANED:
        msg = f"state={state!r}: expected one of {', '.join(CLEANED)}"
        raise ConfigurationError(msg)
    return state


async def clean(
    connection: Connection, keys: QueueKeys, state: str, before: float, limit: int | None
) -> list[str]:
    """Remove jobs of a state from before a time (epoch seconds), and return their ids."""
    removed: list[str] = []
    for place in CLEANED[state]:
        while limit is None or len(removed) < limit:
            left = (
                _CLEANED_AT_ONCE if limit is None else min(limit - len(removed), _CLEANED_AT_ONCE)
            )
            call = client_calls.clean_jobs(keys, place, round(before * 1000), left)
            ids = await run_script(connection, Purpose.STATUS, call)
            removed += [text(raw) for raw in ids]
            if len(ids) < left:
                break
    return removed
