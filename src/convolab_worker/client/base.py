"""What all methods of JobClient build on: its settings, its session, its queues and its wakes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from convolab_worker._logs import Log
from convolab_worker.bullmq.protocol.keys import QueueKeys, can_be_in_a_key
from convolab_worker.client.adding.transactions import heed_sessions
from convolab_worker.client.lookup import not_found
from convolab_worker.client.session import Session
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.route import Route
from convolab_worker.connection.source import ServerSource
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings import Settings
from convolab_worker.telemetry.tracing import tracing

if TYPE_CHECKING:
    from convolab_worker.client.waking.waker import Waker
    from convolab_worker.connection.connection import Connection

_log = Log()
# A client that adds to more queues than this forgets the keys of the one it met first.
_MOST_KNOWN_QUEUES = 1000


class ClientBase:
    """Opens a session in the event loop that first calls, and wakes the worker service for jobs."""

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        if settings is None:
            settings = Settings.for_client(**overrides)
            for remark in settings.remarks:
                _log.warning("settings.passed_over", remark=remark)
        elif overrides:
            settings = settings.replace(**overrides)
        self.settings = settings
        self.counter = CommandCounter()
        self._known_queues: dict[str, QueueKeys] = {}
        self._route = Route(ServerSource.of(settings), prefix=settings.prefix)
        self._session: Session | None = None
        self._tracing = tracing(settings)
        self._waker = None if settings.wake_url is None else _waker(settings)
        self._after_commits: set[asyncio.Task[None]] = set()
        heed_sessions()

    async def close(self) -> None:
        """Close the connections, and send a wake that was not sent, for a second at most.

        Calls that are under way raise RedisUnavailable. A later call connects again.
        """
        while self._after_commits:
            await asyncio.wait(self._after_commits)
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._waker is not None:
            await self._waker.close()

    async def __aenter__(self) -> Self:
        """Redis need not be there yet: the first call connects."""
        self._current_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def wake_heard(self, timeout: float) -> bool:
        """Wait until the service has heard the wakes of the jobs added, or ``timeout`` seconds.

        It is for programs that end after adding jobs. Returns False if a wake was not heard.
        Returns True if they all were, or if there is no service to wake.
        """
        return self._waker is None or await self._waker.heard(timeout)

    def _current_session(self) -> Session:
        """Return this event loop's session; a closed loop has closed what was open in it."""
        session, loop = self._session, asyncio.get_running_loop()
        if session is not None and session.loop is loop:
            return session
        if session is not None and not session.loop.is_closed():
            msg = (
                f"the connection to Redis at {self._route.address} is another event loop's: a "
                "JobClient belongs to one loop; a SyncJobClient serves any thread and loop"
            )
            raise ConfigurationError(msg)
        timeout = self.settings.command_timeout
        self._session = Session(self._route, timeout=timeout, counter=self.counter)
        return self._session

    async def _connection(self) -> Connection:
        """Return the session's connection for commands, open. Raises RedisUnavailable."""
        return await self._current_session().open()

    def _queues(self, queue: str | None, job_id: object = "") -> list[QueueKeys]:
        """Return the keys of the queues to look at: ``queue``, or all of the settings' queues.

        A JobId knows its queue. Raises ConfigurationError for a queue or an id that can't be, and
        JobNotFound for an id that Redis can't have.
        """
        queue = getattr(job_id, "queue", None) if queue is None else queue
        names = self.settings.queues if queue is None else (queue,)
        queues = [self._keys_of(name) for name in names]
        if not isinstance(job_id, str):
            msg = f"job_id={job_id!r}: expected text"
            raise ConfigurationError(msg)
        if not can_be_in_a_key(job_id):
            raise not_found(queues, job_id)
        return queues

    def _keys_of(self, queue: str | None) -> QueueKeys:
        """Return the keys of the queue that a job goes to. Raises ConfigurationError."""
        name = self.settings.queues[0] if queue is None else queue
        keys = self._known_queues.get(name)
        if keys is None:
            self.settings.replace(queues=(name,))  # raises for a name that can't be
            if len(self._known_queues) >= _MOST_KNOWN_QUEUES:
                del self._known_queues[next(iter(self._known_queues))]
            keys = self._known_queues[name] = QueueKeys(self.settings.prefix, name)
        return keys

    def _wake(self, session: Session, delays: set[float | None]) -> None:
        """Wake the worker service for jobs of these delays, unless the client was closed."""
        if self._waker is not None and not session.is_over:
            for delay in delays:
                self._waker.wake(delay)


def _waker(settings: Settings) -> Waker:
    from convolab_worker.client.waking.waker import Waker  # needs an address to wake

    return Waker(settings)
