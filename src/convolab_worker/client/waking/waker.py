"""Wakes the worker service from an API service: in the background, one wake for many jobs.

=========  ==========================================================================
state      what it is
=========  ==========================================================================
idle       no task, at most a timer for the next delayed job
waking     a request is on its way, or the waker waits before the next attempt
held       the service took the request and works; its answer comes when it is done
=========  ==========================================================================

A job that is added while waking needs no wake of its own. One that is added while held makes
one more wake, after the answer: the service may have looked for the last time just before.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from convolab_worker._chance import chance
from convolab_worker._logs import Log
from convolab_worker.client.waking.wake_policy import GivenUp, Heard, due_in, judge
from convolab_worker.client.waking.wake_request import WakeSender, open_session, wake_address
from convolab_worker.settings.urls import mask_url

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from convolab_worker.settings import Settings

CLOSE_SECONDS = 1.0
"""How long closing waits at most for a wake that has not been heard yet."""

_GATHER_SECONDS = 0.005  # jobs that are added together share a wake

_log = Log()


class Waker:
    """Sends wakes to the settings' ``wake_url``, from one event loop or from one after another.

    Nothing here raises for what the service does, or waits for it in the caller's time. Raises
    ConfigurationError for a wrong address or wrong settings of the tokens.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = wake_address(settings)
        self._sender = WakeSender(self._url, settings)
        self._asked = False
        self._has_complained = False
        self._futile = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard = self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; wakes that an earlier loop left undone are sent in this one."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return loop
        self._loop = loop
        self._heard, self._hurry = asyncio.Event(), asyncio.Event()
        self._task = None
        timer, self._timer = self._timer, None
        if timer is not None:
            self._timer = loop.call_at(timer.when(), self._on_timer)
        if self._asked:
            self._start()
        else:
            self._heard.set()
        return loop

    def wake(self, delay: float | None = None) -> None:
        """Wake the service now, or when a job with that ``delay`` is due; returns at once."""
        self._enter_loop()
        if delay:
            self._wake_in(due_in(delay))
            return
        self._asked = True
        self._start()

    def _start(self) -> None:
        self._heard.clear()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="convolab-wake")

    def _wake_in(self, seconds: float) -> None:
        """Wake after so many seconds; of several such times only the earliest is kept.

        The answer to that wake says when the next job is due.
        """
        loop = self._enter_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()

    async def heard(self, timeout: float) -> bool:
        """Wait until the wakes that were asked for have been heard, at most ``timeout`` seconds.

        False if they were not: it took longer, or all attempts failed.
        """
        self._enter_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._heard.wait()
        return self._heard.is_set() and not self._has_complained

    async def close(self) -> None:
        """Send a wake that was not sent, wait for that a second at most, and close.

        Wakes for delayed jobs are dropped.
        """
        self._enter_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is None:
            return
        self._hurry.set()  # from here on nothing pauses
        if self._asked:
            self._sender.hang_up()
        await self.heard(CLOSE_SECONDS)
        task.cancel()
        await asyncio.wait({task})
        self._hurry.clear()

    # the task

    async def _run(self) -> None:
        heard = self._heard  # this loop's
        try:
            while self._asked:  # again after the session was closed, which takes a moment too
                await asyncio.sleep(_GATHER_SECONDS)
                async with await open_session(self._on_sent) as session:
                    while self._asked:
                        await self._deliver(session)
        finally:
            heard.set()

    async def _on_sent(self, *_: object) -> None:
        """The request's head is on the wire: the service looks for jobs after this."""
        self._asked = False

    async def _deliver(self, session: ClientSession) -> None:
        """Send one wake: attempts until one is heard, or the last one has failed."""
        attempt = 1
        while True:
            result = await self._sender.send(session, self._on_taken)
            verdict = judge(
                result,
                attempt=attempt,
                futile=self._futile,
                now=time.time(),
                random=chance(),
            )
            if isinstance(verdict, Heard):
                return await self._settle(verdict)
            if isinstance(verdict, GivenUp):
                return self._give_up(verdict)
            attempt = verdict.attempt
            self._asked = True
            self._heard.clear()
            _log.debug("wake.again", attempt=attempt, seconds=round(verdict.after, 2))
            await self._pause(verdict.after)

    async def _settle(self, heard: Heard) -> None:
        self._futile = heard.futile
        if heard.after is not None:
            self._wake_in(heard.after)
        if heard.quiet_for:
            await self._pause(heard.quiet_for)

    async def _pause(self, seconds: float) -> None:
        """Wait so many seconds, or until the client closes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _give_up(self, verdict: GivenUp) -> None:
        self._asked = False
        more = {} if verdict.hint is None else {"hint": verdict.hint}
        say = _log.debug if self._has_complained else _log.warning
        say("wake.failed", url=mask_url(self._url), reason=verdict.reason, **more)
        self._has_complained = True

    def _on_taken(self) -> None:
        if not self._asked:
            self._heard.set()
        if self._has_complained:
            self._has_complained = False
            _log.info("wake.heard_again", url=mask_url(self._url))
