"""Held requests: each waits until nothing is left to do or its time is over, and all share a drain.

A worker that works always is only watched. One that works only when held, in a process that has a
CPU only while a request is open, has drains:

    (none)       -- the first request -->                      working
    working      -- nothing is left, or due soon -->           ended
    working      -- running jobs must end, or all hung up -->  winding down  (nothing is fetched)
    winding down -- a request comes that holds longer -->      working
    winding down -- every job ended, or was told to end -->    ended

When the requests of such a drain are answered, nothing runs, waits in memory or listens to Redis.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker._logs import Log
from convolab_worker.errors import ConvolabWorkerError, NotRunning

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from convolab_worker.worker.dispatch.dispatcher import Dispatcher
    from convolab_worker.worker.next_due import NextDue
    from convolab_worker.worker.tally import Tally

_log = Log()
# What is left of a budget when jobs that still run are told to end: they have half a second, and
# their returns and the counts take a moment.
_ENDING_SECONDS = 1.0
# How long the count of what is left may take when the worker stops, which has a deadline.
_LAST_COUNT_SECONDS = 0.1


class HoldResult(Struct, frozen=True, kw_only=True):
    """The answer to a held request.

    ``status`` is ``drained`` if nothing was left to fetch, ``budget`` if the time was over first.
    ``processed`` and ``failed`` count the jobs that ended since the request's drain began;
    ``remaining`` counts waiting, prioritized and delayed jobs. ``next_due_at`` (epoch seconds) is
    when there will be something to do, where that is known: a delayed job is due, a rate limit
    ends, or the lock of a job that another worker has.
    """

    status: str
    processed: int
    failed: int
    remaining: int
    next_due_at: float | None


class HeldRequest(Struct, eq=False):
    """One caller of ``hold``; times are the monotonic clock's."""

    ends_at: float
    fetch_until: float
    drained: asyncio.Future[None]
    answer: asyncio.Future[HoldResult]


class HeldRequests:
    """The held requests of one worker; ``tally`` has what their drains have done.

    ``next_due`` is told when work is due next, before the requests of a drain are answered.
    ``suspends`` is for a worker that works only when held: ``grace`` (seconds) of each budget, half
    of it at most, is kept for what runs then.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        tally: Tally,
        next_due: NextDue,
        *,
        suspends: bool,
        grace: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._tally = tally
        self._next_due = next_due
        self._suspends = suspends
        self._reserve = grace + _ENDING_SECONDS if suspends else 0.0
        self._requests: set[HeldRequest] = set()
        self._changed = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        return len(self._requests)

    async def hold(self, budget: float) -> HoldResult:
        """Work until nothing is left, at most ``budget`` seconds, together with other requests.

        A caller that is cancelled leaves the work of the others alone. Raises NotRunning if the
        worker ends, RedisUnavailable if what is left can't be counted.
        """
        if self._dispatcher.stopping:
            msg = "the worker is stopping"
            raise NotRunning(msg)
        request = self._join(budget)
        try:
            return await self._answer_to(request)
        finally:
            self._requests.discard(request)
            request.drained.cancel()
            self._changed.set()

    def _join(self, budget: float) -> HeldRequest:
        now = time.monotonic()
        ends_at = now + budget
        fetch_until = ends_at - min(self._reserve, budget / 2)
        drained = self._dispatcher.drained(look_by=(now + fetch_until) / 2)
        if not self._requests and not self._suspends:
            self._tally.begin()
        answer = asyncio.get_running_loop().create_future()
        request = HeldRequest(ends_at, fetch_until, drained, answer)
        request.drained.add_done_callback(lambda _: self._changed.set())
        self._requests.add(request)
        self._changed.set()
        if self._suspends and (self._drain is None or self._drain.done()):
            self._drain = asyncio.create_task(self._drain_all(), name="convolab-hold")
            self._drain.add_done_callback(self._drain_ended)
        return request

    # answers

    async def _answer_to(self, request: HeldRequest) -> HoldResult:
        """Return the drain's answer or, if others hold longer, at its own end what was done."""
        ends: set[asyncio.Future[Any]] = {request.answer}
        if not self._suspends:
            ends.add(request.drained)
        while not request.answer.done():
            seconds = request.ends_at - time.monotonic()
            if not self._suspends and (request.drained.done() or seconds <= 0):
                return await self._result(
                    "drained" if request.drained.done() else "budget", seconds
                )
            if seconds <= 0 and any(each.ends_at > request.ends_at for each in self._requests):
                return await self._result("budget", seconds)
            least = 0.0 if not self._suspends else _ENDING_SECONDS / 4
            await asyncio.wait(
                ends, timeout=max(seconds, least), return_when=asyncio.FIRST_COMPLETED
            )
        return request.answer.result()

    async def _answer(
        self, requests: Collection[HeldRequest], status: str, *, tells: bool = True
    ) -> None:
        """Give all of them one answer, and take them off the held ones."""
        ends_at = max(request.ends_at for request in requests)
        try:
            result = await self._result(status, ends_at - time.monotonic())
        except ConvolabWorkerError as error:
            self._refuse(requests, error)
            return
        if tells:  # first: the platform may take the CPU away with the answer
            await self._next_due.tell(result.next_due_at, ends_at - time.monotonic())
        for request in requests:
            self._requests.discard(request)
            if not request.answer.done():
                request.answer.set_result(result)

    def _refuse(self, requests: Iterable[HeldRequest], error: ConvolabWorkerError) -> None:
        for request in [*requests]:
            self._requests.discard(request)
            if not request.answer.done():
                request.answer.set_exception(error)
                request.answer.exception()  # a caller that has hung up does not retrieve it

    async def _result(self, status: str, seconds: float) -> HoldResult:
        """Return what was done in this drain, and what is left; raises as ``Tally.result`` does."""
        done = await self._tally.result(drained=status == "drained", seconds=seconds)
        return HoldResult(
            status=status,
            processed=done.processed,
            failed=done.failed,
            remaining=done.remaining,
            next_due_at=done.next_due_at,
        )

    # the drain of a worker that works only when held

    def _drain_ended(self, drain: asyncio.Task[None]) -> None:
        if self._drain is drain:
            self._drain = None
        if not drain.cancelled() and (error := drain.exception()) is not None:
            _log.error("hold.failed", exc_info=error)
            self._refuse(self._requests, NotRunning(f"the drain ended: {error!r}"))

    async def _drain_all(self) -> None:
        while self._requests and not self._dispatcher.stopping:
            self._tally.begin()
            await self._drain_once()
            now = time.monotonic()
            covered = self._covered()
            late = {request for request in self._requests if request.fetch_until <= now}
            if covered:
                await self._answer(covered, "drained")
            elif late:
                await self._answer(late, "budget")

    async def _drain_once(self) -> None:
        """Work until all is done or the time is over, and suspend the worker."""
        while not self._dispatcher.stopping:
            await self._until_over()
            await self._dispatcher.halt()
            if self._covered():
                return
            await self._wind_down()
            if self._fetch_until <= time.monotonic():
                await self._dispatcher.fetcher.abort_all()
                return

    def _covered(self) -> set[HeldRequest]:
        """The requests for which a look after they came has found nothing left."""
        return {
            request
            for request in self._requests
            if request.drained.done() and not request.drained.cancelled()
        }

    @property
    def _fetch_until(self) -> float:
        return max((request.fetch_until for request in self._requests), default=0.0)

    async def _until_over(self) -> None:
        """Let the dispatcher work until a request is covered, or the last one's time is over."""
        fetch_until = 0.0
        while not (self._covered() or self._dispatcher.stopping):
            if fetch_until != self._fetch_until:
                fetch_until = self._fetch_until
                self._dispatcher.resume(fetch_until=fetch_until)
            seconds = fetch_until - time.monotonic()
            if seconds <= 0:  # also if no request is left
                return
            await self._change_within(seconds)

    async def _wind_down(self) -> None:
        """Let jobs go on while there is time, until a request comes that holds longer."""
        while self._requests and self._fetch_until <= time.monotonic():
            last = max(self._requests, key=lambda request: request.ends_at)
            until = max(last.ends_at - _ENDING_SECONDS, (last.fetch_until + last.ends_at) / 2)
            seconds = until - time.monotonic()
            step = min(seconds, _ENDING_SECONDS / 4)
            if seconds <= 0 or await self._dispatcher.fetcher.all_ended(step):
                return

    async def _change_within(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    # the worker's end

    def stopping(self) -> None:
        """The worker has begun to stop: wait for no drain's end any more."""
        self._changed.set()

    async def finish(self) -> None:
        """The worker has stopped: answer the requests that are still held, soon."""
        if self._requests:
            try:
                async with asyncio.timeout(_LAST_COUNT_SECONDS):
                    await self._answer({*self._requests}, "budget", tells=False)
            except TimeoutError:
                _log.debug("hold.not_counted")
        self._refuse(self._requests, NotRunning("the worker has stopped"))
