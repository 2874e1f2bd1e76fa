"""Logs in anew on open connections before a token ends, so that no command fails.

Workers and clients do so where a file or a credential provider gives the credentials.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.connection.commands.error_replies import explain
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.route import Route

_log = Log()
# How often credentials that change are asked for: tokens last for minutes.
_ASK_SECONDS = 60.0


class LoginKeeper:
    """Keeps connections of a ``route`` logged in; the others may be blocked by a read."""

    def __init__(self, route: Route, connection: Connection, *others: Connection) -> None:
        self._route = route
        self._connection = connection
        self._others = others
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if the credentials can change; a second call does nothing."""
        if self._task is None and self._route.source.changes_credentials:
            self._task = asyncio.create_task(self._keep(), name="convolab-credentials")

    async def close(self) -> None:
        """End it; a later ``start`` begins anew."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_ASK_SECONDS)
            try:
                await self._route.refresh_credentials()
            except RedisUnavailable as error:
                _log.warning("redis.no_credentials", error=str(error))
            self._log_in()

    def _log_in(self) -> None:
        """Send the new credentials; a connection that is opened later has them anyway."""
        connection = self._connection
        outdated = [
            each for each in (connection, *self._others) if each.is_open and each.is_outdated
        ]
        for each in outdated:
            for answer in each.log_in_again():
                answer.add_done_callback(self._answered)
            if each is not connection and connection.is_open:  # a blocked one takes no command
                connection.call(Purpose.CONNECT, "CLIENT", "UNBLOCK", each.client_id or 0)
        if outdated:
            _log.info("redis.logged_in_again", redis=str(self._route.source))

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, RedisRefused):  # the connection stays logged in as it was
            where = str(self._route.source)
            _log.error("redis.login_refused", error=explain(str(error), where))
