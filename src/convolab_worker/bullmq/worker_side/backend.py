"""The worker's side of BullMQ for several queues: fetch, complete, listen, probe."""

from __future__ import annotations

import asyncio
import copy
import itertools
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct

from convolab_worker.bullmq.job_lock import inbox
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import (
    LOCK_MISSING,
    LOCK_OF_ANOTHER,
    LOST,
    ActiveJob,
    FetchResult,
    Marker,
    Restrictions,
    read_due,
    read_fetch,
    read_restrictions,
    read_score,
    text,
)
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.bullmq.protocol.transitions import Limiter, Transitions
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import LockLost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.upkeep.key_changes import KeyChanges

_MARKER_DUE = b"1"
# BZPOPMIN's own time-out, coarse on an idle server, plus the way there and back.
_BLOCK_MARGIN_SECONDS = 5.0
_LIMITED = 2**53 - 1  # more starts than any limit allows: Node's Number.MAX_SAFE_INTEGER
# Weights that let one EXISTS per queue say which kinds of keys there are; see `Backend.probe`.
_DELAYED_WEIGHT = 3
_ACTIVE_WEIGHT = 6
LIMIT_KEYS = ("meta", "active", "limiter")
"""What changes when a queue's limits do, or a place of its concurrency is taken or freed."""


class QueueContents(Struct, frozen=True):
    """Which kinds of jobs a queue has: ``ready`` to be fetched now, delayed, active."""

    ready: bool
    delayed: bool
    active: bool


class Refusal(Exception):
    """A script refused a transition with one of BullMQ's codes; the job is still this worker's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"BullMQ refused with code {code}")
        self.code = code


class Backend:
    """The worker's side of the BullMQ protocol, for the queues ``names``.

    Every method sends one command, or one pipeline of them, and raises RedisRefused or ReplyLost;
    none sends anything twice.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        prefix: str,
        connection: Connection,
        waiting: Connection,
        changes: KeyChanges,
        worker_id: str,
        worker_name: str | None,
        lock_duration: float,
        limiter: Limiter | None = None,
        metrics_points: int | None = None,
    ) -> None:
        self.names = tuple(names)
        self.connection = connection
        self._waiting = waiting
        self.changes = changes
        self.counter = connection.counter
        self._worker_id = worker_id
        self._prefix = prefix
        self._tokens = itertools.count(1)
        self.lock_duration = lock_duration
        self.keys = {name: QueueKeys(prefix, name) for name in names}
        self._by_marker = {keys["marker"].encode(): name for name, keys in self.keys.items()}
        self._by_inbox = {inbox(keys, worker_id): name for name, keys in self.keys.items()}
        self.transitions = {
            name: Transitions(
                keys,
                worker_name=worker_name,
                lock_ms=round(lock_duration * 1000),
                limiter=limiter,
                metrics_points=metrics_points,
            )
            for name, keys in self.keys.items()
        }

    def on(self, connection: Connection) -> Self:
        """Returns this backend on another connection for its commands; all else is shared."""
        other = copy.copy(self)
        other.connection = connection
        return other

    def keys_of(self, queue: str) -> QueueKeys:
        """Returns the keys of any queue, this worker's or not."""
        return self.keys.get(queue) or QueueKeys(self._prefix, queue)

    def new_token(self) -> str:
        """Returns a lock token that this worker has not used."""
        return f"{self._worker_id}:{next(self._tokens)}"

    async def fetch(self, queue: str, token: str) -> FetchResult:
        """Moves the queue's next job to active, locked under ``token``."""
        call = self.transitions[queue].fetch(token, now_ms())
        raw = await run_script(self.connection, Purpose.FETCH, call)
        return read_fetch(queue, token, raw)

    async def transition(self, job: ActiveJob, call: Call) -> FetchResult:
        """Moves a job on; returns the next one where the call asks for it.

        Raises LockLost if the job is not this worker's any more, and Refusal for other codes.
        """
        return moved_on(job, await run_script(self.connection, Purpose.COMPLETE, call))

    def exempt_from_stall_count(self, job: ActiveJob, stalls: int) -> asyncio.Future[Any]:
        """Lowers the job's stalled counter by ``stalls`` while the job is parked.

        BullMQ counts a job as stalled whose worker died, whether it had started or not, and fails
        it after a few. The text of the script, which is short, goes with every call: so nothing
        waits for it, and it is executed before what is sent next.
        """
        call = calls.add_to_stall_count(self.keys[job.queue], job, -stalls)
        text_of_script = script(call.script).text
        self.counter.count_inner(Purpose.PARK, call.inner or 0)
        return self.connection.call(Purpose.PARK, "EVAL", text_of_script, 1, *call.keys, *call.args)

    async def end_exemption_again(self, job: ActiveJob) -> None:
        """Ends an exemption whose end may have been lost; one that has ended is left alone."""
        await run_script(
            self.connection, Purpose.PARK, calls.end_exemption(self.keys[job.queue], job)
        )

    async def return_to_queue(self, job: ActiveJob) -> None:
        """Returns a job to the head of its queue. Raises LockLost if it is not ours any more."""
        call = self.transitions[job.queue].return_to_queue(job)
        raw = await run_script(self.connection, Purpose.COMPLETE, call)
        if raw < 0:
            raise _refused(raw)

    async def limit_queue(self, job: ActiveJob, seconds: float) -> None:
        """Returns a job to the head of its queue, which is limited for so long.

        As Node's ``queue.rateLimit`` and RateLimitError do. Raises LockLost as ``return_to_queue``.
        """
        limiter, milliseconds = self.keys[job.queue]["limiter"], max(round(seconds * 1000), 1)
        limited = self.connection.call(
            Purpose.COMPLETE, "SET", limiter, _LIMITED, "PX", milliseconds
        )
        returned = self.return_to_queue(job)
        await asyncio.gather(limited, returned)

    async def await_children(self, job: ActiveJob, going_on: Sequence[str] = ()) -> bool:
        """Moves a parent to waiting-children; returns False if none of its children is pending.

        It also returns False if one of ``going_on`` has failed, keys of children whose failure lets
        the parent go on at once. Raises LockLost and Refusal as ``transition`` does.
        """
        transitions = self.transitions[job.queue]
        call = transitions.await_children(job, now_ms=now_ms(), going_on=going_on)
        raw = await run_script(self.connection, Purpose.COMPLETE, call)
        if raw < 0:
            raise _refused(raw)
        return bool(raw == 0)

    async def listen(self, queues: Sequence[str], timeout: float) -> Marker | None:
        """Blocks until a job is announced on one of ``queues``, at most ``timeout`` seconds.

        Redis serves the keys of one BZPOPMIN from left to right: the caller rotates them.
        """
        markers = [self.keys[queue]["marker"] for queue in queues]
        answer = await self._waiting.call(
            Purpose.LISTEN,
            "BZPOPMIN",
            *markers,
            *self._by_inbox,
            f"{timeout:.3f}",
            timeout=timeout + _BLOCK_MARGIN_SECONDS,
        )
        if answer is None:
            return None
        key, member, score = answer
        cancelled_on = self._by_inbox.get(text(key))
        if cancelled_on is not None:
            return Marker(cancelled_on, None, cancelled=text(member))
        # A due time that can't be is taken for one that has passed.
        due_at = read_due(score) or 0.0 if member == _MARKER_DUE else None
        return Marker(self._by_marker[key], due_at)

    def unblock(self) -> bool:
        """End a blocking read; False where the server did not tell the connection's id."""
        client_id = self._waiting.client_id
        if client_id is not None:
            self.connection.call(Purpose.LISTEN, "CLIENT", "UNBLOCK", client_id)
        return client_id is not None

    def abort_listening(self) -> None:
        """Give up a blocking read that does not end: the server may give it the next marker."""
        self._waiting.abort("the blocking read could not be ended")

    def republish_marker(self, queue: str, due_at: float | None = None) -> asyncio.Future[Any]:
        """Announces to other workers a job that this one leaves, at once or at ``due_at``."""
        score, member = (0, "0") if due_at is None else (round(due_at * 1000), _MARKER_DUE)
        return self.connection.call(
            Purpose.LISTEN, "ZADD", self.keys[queue]["marker"], score, member
        )

    async def any_present(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Returns whether any of those (queue, kind) pairs has jobs: one command for all."""
        keys = [self.keys[queue][kind] for queue, kind in pairs]
        return bool(await self.connection.call(Purpose.PROBE, "EXISTS", *keys)) if keys else False

    async def restrictions_of(self, queue: str) -> Restrictions:
        """Returns whether the queue is paused, and the concurrency that it has of its own."""
        meta = self.keys[queue]["meta"]
        return read_restrictions(
            await self.connection.call(Purpose.PROBE, "HMGET", meta, "paused", "concurrency")
        )

    async def watch_limits(self, queue: str) -> bool:
        """Has ``changes`` tell when the queue's limits change; returns whether it does."""
        return await self.changes.watch(self.keys[queue].named(*LIMIT_KEYS))

    async def probe(self, queues: Iterable[str]) -> dict[str, QueueContents]:
        """Returns what each queue has: one command a queue, in one pipeline.

        EXISTS counts a key as often as it is named, so weights tell the kinds apart in one answer.
        """
        names = list(queues)
        answers = [
            self.connection.call(Purpose.PROBE, "EXISTS", *self._weighted(name)) for name in names
        ]
        return {
            name: QueueContents(
                ready=bool(count % _DELAYED_WEIGHT),
                delayed=bool(count % _ACTIVE_WEIGHT // _DELAYED_WEIGHT),
                active=bool(count // _ACTIVE_WEIGHT),
            )
            for name, count in zip(names, [await answer for answer in answers], strict=True)
        }

    def _weighted(self, queue: str) -> list[str]:
        keys = self.keys[queue]
        return [
            *keys.named("wait", "prioritized"),
            *[keys["delayed"]] * _DELAYED_WEIGHT,
            *[keys["active"]] * _ACTIVE_WEIGHT,
        ]

    async def next_due(self, queue: str) -> float | None:
        """Returns when the queue's next delayed job is due, in epoch seconds."""
        # A score below 0 never falls due: it must not hide those that do.
        answer = await self.connection.call(
            Purpose.PROBE,
            *("ZRANGE", self.keys[queue]["delayed"], 0, "+inf", "BYSCORE", "LIMIT", 0, 1),
            "WITHSCORES",
        )
        return read_score(answer[1]) if answer else None

    async def count_active(self, queue: str) -> int:
        """Returns how many jobs of the queue are active, whoever has them."""
        return int(await self.connection.call(Purpose.PROBE, "LLEN", self.keys[queue]["active"]))

    async def count_waiting(self, queue: str) -> int:
        """Returns how many jobs of the queue can be fetched: two commands."""
        keys = self.keys[queue]
        in_order = self.connection.call(Purpose.FETCH, "LLEN", keys["wait"])
        prioritized = self.connection.call(Purpose.FETCH, "ZCARD", keys["prioritized"])
        return int(await in_order + await prioritized)

    async def count_remaining(self) -> tuple[int, float | None]:
        """Returns how many jobs wait, are prioritized or delayed, and when the next is due."""
        counts: list[asyncio.Future[int]] = []
        for keys in self.keys.values():
            counts.append(self.connection.call(Purpose.PROBE, "LLEN", keys["wait"]))
            counts += [
                self.connection.call(Purpose.PROBE, "ZCARD", keys[kind])
                for kind in ("prioritized", "delayed")
            ]
        total = sum([await count for count in counts])
        due = [await self.next_due(name) for name in self.names] if total else []
        return total, min((at for at in due if at is not None), default=None)


def moved_on(job: ActiveJob, raw: Any) -> FetchResult:
    """Reads what a script has answered that was to move a job on; raises as ``transition`` does."""
    if isinstance(raw, int) and raw < 0:
        raise _refused(raw)
    return read_fetch(job.queue, job.token, raw)


def _refused(code: int) -> LockLost | Refusal:
    if code not in LOST:
        return Refusal(code)
    return LockLost(LOST[code], ran_out=code == LOCK_MISSING, held=code == LOCK_OF_ANOTHER)
