"""The worker's side of BullMQ for several queues: fetch, finish, wait, probe."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.bullmq.job_lock import inbox
from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.calls import Call, Limiter, Transitions
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob, read_active_job, text
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import LockLost, RedisUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Iterable, Sequence

    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.usage import CommandCounter

_MARKER_DUE = b"1"
# BZPOPMIN's own time-out, coarse on an idle server, plus the way there and back.
_BLOCK_MARGIN_SECONDS = 5.0
# Weights that let one EXISTS per queue say which kinds of keys there are; see `Backend.look`.
_DELAYED_WEIGHT = 3
_ACTIVE_WEIGHT = 6

# What the scripts answer instead of a job (bullmq.error_code).
JOB_MISSING, LOCK_MISSING, NOT_ACTIVE, PENDING_CHILDREN, LOCK_OF_ANOTHER = -1, -2, -3, -4, -6
FAILED_CHILDREN = -9
_LOST = {
    JOB_MISSING: "the job was removed",
    LOCK_MISSING: "the lock had run out",
    NOT_ACTIVE: "the job is no longer active",
    LOCK_OF_ANOTHER: "another worker holds the lock",
}


class FetchResult(NamedTuple):
    """The answer to a take: a job, or when there may be one.

    ``due_at`` is when the next delayed job is due (seconds since the epoch), ``limited_for`` how
    long a rate limit lasts (seconds). ``asked`` is False where no job was asked for.
    """

    job: ActiveJob | None = None
    due_at: float | None = None
    limited_for: float = 0.0
    asked: bool = True


NOT_ASKED = FetchResult(asked=False)
_NOTHING = FetchResult()


@dataclass(frozen=True, slots=True)
class Marker:
    """What ended a wait: a job may be in ``queue``, at once or at ``due_at`` (epoch seconds).

    Or it was not a marker: somebody wants one of our jobs ``cancelled``, by its id.
    """

    queue: str
    due_at: float | None
    cancelled: str | None = None


@dataclass(frozen=True, slots=True)
class QueueContents:
    """Which kinds of jobs a queue has: to be taken now, delayed, active."""

    ready: bool
    delayed: bool
    active: bool


@dataclass(frozen=True, slots=True)
class Restrictions:
    """Why a queue gives no job: it is ``paused``, or its own ``concurrency`` is used up."""

    paused: bool
    concurrency: int | None


class Refusal(Exception):
    """A script refused a transition with one of BullMQ's codes; the job is still ours."""

    def __init__(self, code: int) -> None:
        """Keep the code."""
        super().__init__(f"BullMQ refused with code {code}")
        self.code = code


class Backend:
    """The worker's side of the BullMQ protocol, for the queues ``names``.

    Every method sends one command, or one pipeline of them, and raises RedisRefused or ReplyLost;
    nothing is ever sent twice from here.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        prefix: str,
        connection: Connection,
        waiting: Connection,
        counter: CommandCounter,
        worker_id: str,
        worker_name: str | None,
        lock_duration: float,
        limiter: Limiter | None = None,
        metrics_points: int | None = None,
    ) -> None:
        """Name the keys of every queue once; nothing is sent."""
        self.names = tuple(names)
        self.connection = connection
        self._waiting = waiting
        self.counter = counter
        self._worker_id = worker_id
        self._prefix = prefix
        self._tokens = itertools.count(1)
        lock_ms = round(lock_duration * 1000)
        self.keys = {name: QueueKeys(prefix, name) for name in names}
        self._by_marker = {keys["marker"].encode(): name for name, keys in self.keys.items()}
        self._by_inbox = {inbox(keys, worker_id): name for name, keys in self.keys.items()}
        self.transitions = {
            name: Transitions(
                keys,
                worker_name=worker_name,
                lock_ms=lock_ms,
                limiter=limiter,
                metrics_points=metrics_points,
            )
            for name, keys in self.keys.items()
        }
        self._is_limited = limiter is not None
        self._has_metrics = metrics_points is not None
        self._metrics_minutes: dict[str, int] = {}

    def keys_of(self, queue: str) -> QueueKeys:
        """The keys of any queue, ours or not."""
        return self.keys.get(queue) or QueueKeys(self._prefix, queue)

    def new_token(self) -> str:
        """A lock token that this worker has not used."""
        return f"{self._worker_id}:{next(self._tokens)}"

    def _run(self, purpose: Purpose, call: Call) -> Coroutine[Any, Any, Any]:
        return script(call.script).run(self.connection, purpose, call.keys, call.args)

    async def fetch(self, queue: str, token: str) -> FetchResult:
        """Take the queue's next job, locked under ``token``."""
        raw = await self._run(Purpose.FETCH, self.transitions[queue].fetch(token, now_ms()))
        take = _read_fetch(queue, token, raw)
        inner = script_costs.fetch(
            found=take.job is not None, job=take.job, is_limited=take.limited_for > 0
        )
        self.counter.count_inner(Purpose.FETCH, inner + self._extra(take))
        return take

    async def transition(self, job: ActiveJob, call: Call) -> FetchResult:
        """Move a job of ours on; the answer is the next one where the call asked for it.

        Raises LockLost if the job is not ours any more, and Refusal with the code otherwise.
        """
        raw = await self._run(Purpose.COMPLETE, call)
        take = _read_fetch(job.queue, job.token, raw)
        inner = script_costs.transition(call, raw, job=job, taken=take.job)
        self.counter.count_inner(Purpose.COMPLETE, inner + self._extra_of_end(call, take, raw))
        if isinstance(raw, int) and raw < 0:
            if raw in _LOST:
                raise _lost(raw)
            raise Refusal(raw)
        return take

    def _extra(self, take: FetchResult) -> int:
        """Commands that a take ran more, for the worker's own rate limit."""
        return script_costs.limiter(found=take.job is not None) if self._is_limited else 0

    def _extra_of_end(self, call: Call, take: FetchResult, raw: Any) -> int:
        """Commands that the end of an attempt ran more: metrics, and a take's own."""
        extra = self._extra(take) if isinstance(raw, list) else 0
        if not self._has_metrics or call.script != "moveToFinished":
            return extra
        metrics_key, minute = call.keys[12], call.args[1] // 60_000
        is_new = self._metrics_minutes.get(metrics_key) != minute
        self._metrics_minutes[metrics_key] = minute
        return extra + script_costs.metrics(is_new_minute=is_new)

    def exempt_from_stall_count(self, job: ActiveJob, stalls: int) -> None:
        """Let a job that only waits here in memory survive ``stalls`` deaths of its worker.

        BullMQ counts a job as stalled whose worker died, started or not, and fails it after a few.
        A count that is lower while the job is parked evens that out, whoever does the counting.
        """
        self.connection.call(
            Purpose.PARK, "HINCRBY", self.keys[job.queue].job(job.id), "stc", -stalls
        )

    async def return_to_queue(self, job: ActiveJob) -> None:
        """Return a job to the head of its queue. Raises LockLost if it is not ours any more."""
        raw = await self._run(Purpose.COMPLETE, self.transitions[job.queue].return_to_queue(job))
        self.counter.count_inner(Purpose.COMPLETE, script_costs.RETURN_TO_QUEUE)
        if raw < 0:
            raise _lost(raw)

    async def await_children(self, job: ActiveJob) -> bool:
        """Park a parent until its children are done; False if none of them is pending."""
        call = self.transitions[job.queue].await_children(job, now_ms=now_ms())
        raw = await self._run(Purpose.COMPLETE, call)
        self.counter.count_inner(Purpose.COMPLETE, script_costs.AWAIT_CHILDREN)
        if raw in _LOST:
            raise _lost(raw)
        if raw < 0:
            raise Refusal(raw)
        return bool(raw == 0)

    async def listen(self, queues: Sequence[str], timeout: float) -> Marker | None:
        """Block until a job is announced on one of ``queues``, at most ``timeout`` seconds.

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
        told_on = self._by_inbox.get(text(key))
        if told_on is not None:
            return Marker(told_on, None, cancelled=text(member))
        due_at = float(score) / 1000 if member == _MARKER_DUE else None
        return Marker(self._by_marker[key], due_at)

    def unblock(self) -> bool:
        """End a blocking read; False where the server did not tell the connection's id."""
        client_id = self._waiting.client_id
        if client_id is not None:
            self.connection.call(Purpose.LISTEN, "CLIENT", "UNBLOCK", client_id)
        return client_id is not None

    def abort_listening(self) -> None:
        """Give up a blocking read that does not end: the server may give it the next marker."""
        self._waiting.lose("the blocking read could not be ended")

    def republish_marker(self, queue: str, due_at: float | None = None) -> asyncio.Future[Any]:
        """Announce a job that this worker knows of and won't take, at once or at ``due_at``."""
        score, member = (0, "0") if due_at is None else (round(due_at * 1000), _MARKER_DUE)
        return self.connection.call(
            Purpose.LISTEN, "ZADD", self.keys[queue]["marker"], score, member
        )

    async def anything(self, queues: Iterable[str], *, kinds: Sequence[str]) -> bool:
        """Whether any of the queues has a key of those kinds: one command for all of them."""
        return await self.any_present([(queue, kind) for queue in queues for kind in kinds])

    async def any_present(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Whether any of those (queue, kind) pairs is there: one command for all of them."""
        keys = [self.keys[queue][kind] for queue, kind in pairs]
        return bool(await self.connection.call(Purpose.PROBE, "EXISTS", *keys)) if keys else False

    async def restrictions_of(self, queue: str) -> Restrictions:
        """Whether the queue is paused, and the concurrency that it has of its own, if any."""
        meta = self.keys[queue]["meta"]
        answer = await self.connection.call(Purpose.PROBE, "HMGET", meta, "paused", "concurrency")
        paused, concurrency = answer
        return Restrictions(paused is not None, None if concurrency is None else int(concurrency))

    async def probe(self, queues: Iterable[str]) -> dict[str, QueueContents]:
        """What each queue has: one command a queue, in one pipeline.

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
        """When the queue's next delayed job is due, in epoch seconds."""
        answer = await self.connection.call(
            Purpose.PROBE, "ZRANGE", self.keys[queue]["delayed"], 0, 0, "WITHSCORES"
        )
        return float(answer[1]) / 0x1000 / 1000 if answer else None

    async def count_waiting(self, queue: str) -> int:
        """How many jobs of the queue can be taken: two commands."""
        keys = self.keys[queue]
        in_order = self.connection.call(Purpose.FETCH, "LLEN", keys["wait"])
        prioritized = self.connection.call(Purpose.FETCH, "ZCARD", keys["prioritized"])
        return int(await in_order + await prioritized)

    async def count_remaining(self) -> tuple[int, float | None]:
        """How many jobs wait, prioritized and delayed ones too, and when the first is due."""
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


def _lost(code: int) -> LockLost:
    reason = _LOST.get(code, f"BullMQ's code {code}")
    return LockLost(reason, ran_out=code == LOCK_MISSING, held=code == LOCK_OF_ANOTHER)


def now_ms() -> int:
    """The time as BullMQ writes it."""
    return int(time.time() * 1000)


def _read_fetch(queue: str, token: str, raw: Any) -> FetchResult:
    if not isinstance(raw, list):
        return _NOTHING
    if isinstance(raw[0], list):
        return FetchResult(read_active_job(queue, raw[1], token, raw[0]))
    _, _, limited_ms, due_ms = [*raw, 0, 0][:4]
    if isinstance(raw[0], bytes):
        msg = f"queue {queue!r}: moveToActive answered {raw!r}"
        raise RedisUnavailable(msg)
    return FetchResult(
        due_at=float(due_ms) / 1000 if due_ms else None,
        limited_for=max(float(limited_ms), 0.0) / 1000,
    )
