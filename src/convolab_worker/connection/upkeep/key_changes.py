"""Tells of changes that anybody makes to keys; it costs no command while nothing changes.

Redis' client-side caching is used for it: a connection of its own asks to be told of every change
of keys that begin with some prefix (``CLIENT TRACKING`` in broadcasting mode), and listens. Where
the server, or the user's ACL, lacks that command, nothing is told, and the caller has to look for
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from convolab_worker.connection.connection import Connection

_log = Log()
_CHANNEL = "__redis__:invalidate"


def _nobody(_: str | None) -> None:
    """Hears of changes until a caller sets a function of its own."""


class KeyChanges:
    """Calls ``heard`` with the names of watched keys that were changed, on ``connection``.

    ``heard`` gets None when changes may have been missed, since the connection was lost: then the
    keys are not watched any more. It may also get a key that is not watched, whose name begins with
    that of a watched one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.heard: Callable[[str | None], None] = _nobody
        self._watched: set[str] = set()
        self._is_supported = True
        connection.on_message = self._on_message
        connection.on_lost = self._on_lost

    def is_watching(self, keys: Collection[str]) -> bool:
        return self._connection.is_open and self._watched.issuperset(keys)

    async def watch(self, keys: Collection[str]) -> bool:
        """Watch these keys as well; return whether they are watched from now on.

        It costs three commands, and those of a connection. A change before the return may not be
        told.
        """
        if self.is_watching(keys):
            return True
        if not self._is_supported:
            return False
        wanted = self._watched.union(keys)
        await self.close()  # what a connection watches can't be changed once it listens
        prefixes = [part for key in sorted(wanted) for part in ("PREFIX", key)]
        connection = self._connection
        try:
            await connection.open()
            redirected = ("ON", "REDIRECT", connection.client_id or 0, "BCAST", *prefixes)
            await connection.call(Purpose.LISTEN, "CLIENT", "TRACKING", *redirected)
            await connection.call(Purpose.LISTEN, "SUBSCRIBE", _CHANNEL)
        except RedisRefused as error:
            _log.debug("key_changes.unsupported", error=str(error))
            self._is_supported = False
        except RedisUnavailable as error:
            _log.debug("key_changes.lost", error=str(error))
        else:
            self._watched = wanted
            return True
        await self.close()
        return False

    async def close(self) -> None:
        """Watch nothing; a later ``watch`` connects again."""
        self._watched = set()
        await self._connection.close()

    def _on_message(self, message: Any) -> None:
        match message:
            case [b"message", _, [*keys]]:
                for key in keys:
                    self.heard(key.decode("utf-8", "surrogateescape"))
            case [b"message", _, None]:  # everything was flushed
                self.heard(None)
            case _:
                pass

    def _on_lost(self, error: Exception) -> None:
        if self._watched:
            _log.debug("key_changes.lost", error=str(error))
            self._watched = set()
            self.heard(None)
