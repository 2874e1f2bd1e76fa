"""What a SyncJobClient has open in a process: a JobClient in a thread, and plain connections.

In a process that is forked it begins anew; it is closed when the process ends.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - see _at_exit
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.protocol.client_calls import add_job
from convolab_worker.bullmq.script_runner import now_ms, script_of
from convolab_worker.client.adding import enqueue
from convolab_worker.client.adding.transactions import after_commit
from convolab_worker.client.client import JobClient
from convolab_worker.client.sync.loop_thread import LoopThread
from convolab_worker.client.waking.waker import CLOSE_SECONDS
from convolab_worker.connection.blocking import BlockingConnection, BlockingPool, open_blocking
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ReplyLost

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from contextlib import AbstractContextManager

    from convolab_worker.bullmq.jobs.job_id import JobId
    from convolab_worker.client.adding.enqueue import Addition
    from convolab_worker.settings import Settings

R = TypeVar("R")

_ORDINARY_CALLS = 3  # a program that adds a job and ends needs no second connection


class _Client(JobClient):
    """What a SyncJobClient needs of the JobClient in its thread."""

    def prepared(self, name: Any, data: Any, options: Mapping[str, Any]) -> Addition:
        return self._addition(name, data, options)

    def adding(self, new: Addition) -> AbstractContextManager[dict[str, Any]]:
        return self._tracing.adding(new.keys.queue, new.job.name)

    async def add_prepared(self, new: Addition, **tried: Any) -> JobId[Any]:
        return await self._add(self._current_session(), new, **tried)

    async def prepared_many(
        self, jobs: Any, data: Any, options: Mapping[str, Any]
    ) -> list[Addition]:
        return await self._additions(jobs, data, options)

    async def add_prepared_many(self, new: list[Addition]) -> list[JobId[Any]]:
        return await self._add_many(self._current_session(), new)

    async def open_blocking(self) -> BlockingConnection | None:
        # The session's own connection hears of another primary, and of credentials that change.
        await self._connection()
        timeout = self.settings.command_timeout
        return await open_blocking(self._route, timeout=timeout, counter=self.counter)

    async def after_adding(self, new: Addition, added: JobId[Any]) -> JobId[Any]:
        session = self._current_session()
        if added.existed:
            await enqueue.read_state(session, new, added)
        self.wake_for(new)
        return added

    def wake_for(self, new: Addition) -> None:
        self._wake(self._current_session(), {new.delay})

    @property
    def is_waking(self) -> bool:
        return self._waker is not None


def _begin_a_thread() -> None:
    """Let the loop have a thread already, which the last wake needs: to import, to look up a host.

    From Python 3.12 on none can be begun once the interpreter ends.
    """
    asyncio.get_running_loop().run_in_executor(None, int)


class Running:
    """What a process has open: a thread with a client in its loop, and plain connections."""

    def __init__(self, settings: Settings) -> None:
        self.thread = LoopThread()
        self.client = _Client(settings)
        self.pool = BlockingPool(
            lambda: self.thread.run(self.client.open_blocking()), self.client.counter
        )
        self._calls = 0
        if self.client.is_waking:
            self.thread.post(_begin_a_thread)

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.thread.run(coroutine)

    def add(self, name: Any, data: Any, options: dict[str, Any]) -> JobId[Any]:
        on_commit = options.pop("on_commit", None)
        new = self.client.prepared(name, data, options)
        if on_commit and after_commit(on_commit, lambda: self._add_now(new)):
            return new.job_id_to_be()
        return self._add_now(new)

    def _add_now(self, new: Addition) -> JobId[Any]:
        client = self.client
        with client.adding(new) as carried:
            new = new.carrying(carried) if carried else new
            at, again = now_ms(), False
            try:
                added = self._add_quickly(new, at)
            except ReplyLost:  # it may be there; the ordinary way adds it or says why not
                added, again = None, True
            if added is None:
                return self.run(client.add_prepared(new, at_ms=at, again=again))
        if added.existed:
            return self.run(client.after_adding(new, added))
        if client.is_waking:
            self.thread.post(lambda: client.wake_for(new))
        return added

    def add_many(self, jobs: Any, data: Any, options: dict[str, Any]) -> list[JobId[Any]]:
        on_commit = options.pop("on_commit", None)
        new = self.run(self.client.prepared_many(jobs, data, options))

        def add() -> list[JobId[Any]]:
            return self.run(self.client.add_prepared_many(new))

        if on_commit and after_commit(on_commit, add):
            return [each.job_id_to_be() for each in new]
        return add()

    def _add_quickly(self, new: Addition, at: int) -> JobId[Any] | None:
        self._calls += 1
        if self._calls <= _ORDINARY_CALLS or len(new.job.data) >= enqueue.LARGE:
            return None
        call = add_job(new.keys, new.job, at)
        sha = script_of(call).sha
        answer = self.pool.call(
            Purpose.ENQUEUE, "EVALSHA", sha, len(call.keys), *call.keys, *call.args,
            inner=call.inner or 0,
        )  # fmt: skip
        if answer is None:
            return None
        if call.inner is None:
            commands, answer = answer
            self.client.counter.count_inner(Purpose.ENQUEUE, commands)
        return new.job_id(producer.read_added(new.keys, new.job, call, answer, self.client.counter))

    def close(self) -> None:
        try:
            self.thread.run(self.client.close())
        finally:
            self.pool.close()
            self.thread.stop()


class Held:
    """The running part of one SyncJobClient in each process, made when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: Running | None = None
        self._lock = threading.Lock()
        _held.add(self)

    def current(self) -> Running:
        running = self._running
        if running is not None:
            return running
        with self._lock:
            if self._running is None:
                self._running = Running(self._settings)
            return self._running

    def close(self) -> None:
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def flush(self) -> None:
        running = self._running
        if running is not None and running.client.is_waking:
            running.run(running.client.wake_heard(CLOSE_SECONDS))

    def forget(self) -> None:
        """Leave the parent process what is the parent's: its thread is not in this process."""
        if self._running is not None:
            self._running.pool.abandon()
            _of_parents.append(self._running)  # whose sockets are not to be closed by a collection
        self._running, self._lock = None, threading.Lock()


_held: weakref.WeakSet[Held] = weakref.WeakSet()
_of_parents: list[Running] = []


def _at_exit() -> None:
    """Send the wakes that are due, while hosts can still be looked up."""
    for held in list(_held):
        held.flush()


# Not atexit, which closes the clients: it comes when the threads that outlast the main one have
# ended, and then no host can be looked up any more. concurrent.futures ends its threads like this.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)


def _after_fork() -> None:
    for held in list(_held):
        held.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
