"""Looks at the jobs that wait: their names, and whether handlers would take the data of a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from convolab_worker.bullmq.protocol.records import text
from convolab_worker.client.lookup import of_record
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.connection import Connection
    from convolab_worker.handlers.registration.registry import HandlerRegistry

_MOST_NAMES = 1000


class Refusal(NamedTuple):
    """A job that waits, and why its handler would fail it."""

    name: str
    job_id: str
    reason: str


async def waiting_jobs(connection: Connection, keys: QueueKeys) -> dict[str, list[str]]:
    """Return the ids of jobs that wait by name: of the thousand that are next, by kind."""
    ids: list[bytes] = await connection.call(
        Purpose.STATUS, "LRANGE", keys["wait"], -_MOST_NAMES, -1
    )
    for kind in ("prioritized", "delayed"):
        ids += await connection.call(Purpose.STATUS, "ZRANGE", keys[kind], 0, _MOST_NAMES)
    asked = [
        (job_id, connection.call(Purpose.STATUS, "HGET", keys.job(text(job_id)), "name"))
        for job_id in ids
    ]
    found: dict[str, list[str]] = {}
    for job_id, answer in asked:
        name = await of_record(answer, None)
        if name is not None:
            found.setdefault(text(name), []).append(text(job_id))
    return found


async def refusals(
    connection: Connection,
    keys: QueueKeys,
    handlers: HandlerRegistry,
    waiting: Mapping[str, Sequence[str]],
) -> list[Refusal]:
    """Return which of a few jobs of each name their handlers would fail for their data."""
    found = []
    for name, ids in waiting.items():
        handler = handlers.find(keys.queue, name)
        if handler is None:
            continue
        # The first, the last and one in between: different producers may have added them.
        for job_id in dict.fromkeys((ids[0], ids[len(ids) // 2], ids[-1])):
            asked = connection.call(Purpose.STATUS, "HGET", keys.job(job_id), "data")
            data = await of_record(asked, None)
            try:
                handler.decode(data or b"{}")
            except InvalidPayload as error:
                found.append(Refusal(name, job_id, str(error)))
    return found
