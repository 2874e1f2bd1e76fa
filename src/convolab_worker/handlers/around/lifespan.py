"""Opens a worker's lifespans before its first job, and closes them after its last.

    new     -- open() -->                         opening
    opening -- every one has given its value -->  open
    opening -- one fails, a stop -->              closing   (those that were opened)
    open    -- close(), or one ends by itself --> closing   (in the reverse order)
    closing -- the last is closed, or time is over --> closed

One task enters and leaves all of them: task groups and cancel scopes, which a lifespan may be made
of, have to be left in the task that entered them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from convolab_worker._logs import Log
from convolab_worker.errors import ConfigurationError, LifespanFailed
from convolab_worker.handlers.functions import is_async, place, takes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.settings import Settings

LifespanFunction = Callable[..., AbstractAsyncContextManager[Any] | AsyncIterator[Any]]
Scope = TypeVar("Scope")

_log = Log()
# How long closing may take at least, however much of the grace the jobs have used.
LEAST_CLOSING_SECONDS = 0.25
# How long a lifespan that hangs has to end after it was cancelled.
_CANCELLED_SECONDS = 0.1


class Lifespan(Struct, frozen=True):
    """A function that makes the context manager whose value is ``job.resources``."""

    function: LifespanFunction
    wants_settings: bool
    place: str

    @classmethod
    def checked(cls, function: LifespanFunction) -> Lifespan:
        """Check the function. Raises ConfigurationError."""
        where = place(function)
        if inspect.isasyncgenfunction(function):
            function = asynccontextmanager(function)
        elif is_async(function) or inspect.isgeneratorfunction(function):
            msg = f"{where}: expected an async function that yields once, or an asynccontextmanager"
            raise ConfigurationError(msg)
        wants_settings = not takes(function, 0)
        if wants_settings and not takes(function, 1):
            msg = f"{where}: expected no argument, or one for the worker's settings"
            raise ConfigurationError(msg)
        return cls(function, wants_settings, where)

    def open(self, settings: Settings) -> AbstractAsyncContextManager[Any]:
        """Make the context manager, not entered yet. Raises ConfigurationError."""
        manager = self.function(settings) if self.wants_settings else self.function()
        if not isinstance(manager, AbstractAsyncContextManager):
            msg = (
                f"{self.place}: expected an async context manager, got {type(manager).__name__}: "
                "make it an async function that yields once"
            )
            raise ConfigurationError(msg)
        return manager


class Lifespans(Generic[Scope]):
    """The lifespans of one worker, each of a registry's scope; ``opened`` has what they gave.

    ``on_death`` is called when an open lifespan ends by itself.
    """

    def __init__(
        self,
        lifespans: Sequence[tuple[Scope, Lifespan]],
        settings: Settings,
        *,
        on_death: Callable[[], object] = lambda: None,
    ) -> None:
        self._lifespans = lifespans
        self._settings = settings
        self._on_death = on_death
        self._leaving = asyncio.Event()
        self._given_up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancellations = 0
        self._failure: Exception | None = None
        self._is_open = False
        self.opened: dict[Scope, Any] = {}

    async def open(self) -> dict[Scope, Any]:
        """Enter them in order, once. Raises LifespanFailed where one fails, the others closed."""
        if self._task is None and self._lifespans:
            entered = asyncio.Event()
            self._task = asyncio.create_task(self._live(entered), name="convolab-lifespan")
            self._task.add_done_callback(self._ended)
            await self._any_of(entered)
            if self._task.done() and not self._leaving.is_set():
                self._leaving.set()
                self._task.result()
        return self.opened

    async def _any_of(self, event: asyncio.Event) -> None:
        """Wait for the event, for the task's end, or until opening is given up."""
        waits = [asyncio.ensure_future(one.wait()) for one in (event, self._given_up)]
        try:
            await asyncio.wait({self._task or waits[0], *waits}, return_when="FIRST_COMPLETED")
        finally:
            for wait in waits:
                wait.cancel()

    async def _live(self, entered: asyncio.Event) -> None:
        managers: list[tuple[Lifespan, AbstractAsyncContextManager[Any]]] = []
        try:
            for scope, lifespan in self._lifespans:
                manager, self.opened[scope] = await self._enter(lifespan)
                managers.append((lifespan, manager))
            self._is_open = True
            entered.set()
            await self._leaving.wait()
        finally:
            for lifespan, manager in reversed(managers):
                await self._exit(lifespan, manager)

    async def _enter(self, lifespan: Lifespan) -> tuple[AbstractAsyncContextManager[Any], Any]:
        try:
            manager = lifespan.open(self._settings)
            return manager, await manager.__aenter__()
        except ConfigurationError:
            raise
        except Exception as error:
            _log.exception("lifespan.failed", lifespan=lifespan.place)
            msg = f"the lifespan {lifespan.place} failed to start: {_said(error)}"
            raise LifespanFailed(msg) from error

    async def _exit(self, lifespan: Lifespan, manager: AbstractAsyncContextManager[Any]) -> None:
        """Leave one lifespan; the others are left too, whatever this one does."""
        try:
            await manager.__aexit__(None, None, None)
        except asyncio.CancelledError:
            _log.warning("lifespan.not_closed", lifespan=lifespan.place, reason="out of time")
        except Exception as error:  # noqa: BLE001 - what closing raises keeps nothing else open
            _log.exception("lifespan.not_closed", lifespan=lifespan.place, reason=_said(error))
            self._failure = self._failure or error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # the error is raised elsewhere, or was logged
        if self._is_open and not self._leaving.is_set():
            _log.critical("lifespan.died", reason=self._death())
            self._on_death()

    def _death(self) -> str:
        return "it was cancelled" if self._failure is None else _said(self._failure)

    def raise_death(self) -> None:
        """Raise LifespanFailed if an open lifespan has ended by itself."""
        if self._is_open and not self._leaving.is_set() and self._task and self._task.done():
            msg = f"a lifespan ended while the worker ran: {self._death()}"
            raise LifespanFailed(msg) from self._failure

    def give_up_opening(self) -> None:
        """The worker stops: no longer wait for lifespans that have not opened yet."""
        if self._task is not None and not self._is_open:
            self._leaving.set()
            self._overdue_in(0.0)

    def hurry(self) -> None:
        """If they are closing, they get no more than a moment from now on."""
        if self._task is not None and self._leaving.is_set():
            self._overdue_in(LEAST_CLOSING_SECONDS)

    async def close(self, seconds: float) -> None:
        """Leave them in reverse order; cancel, then give up, what takes longer than ``seconds``."""
        if self._task is None or self._task.done():
            return
        if not self._leaving.is_set():
            self._leaving.set()
            self._overdue_in(max(seconds, LEAST_CLOSING_SECONDS))
        await self._any_of(self._given_up)
        if self._timer is not None:
            self._timer.cancel()

    def _overdue_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        """Cancel what hangs, once for each lifespan; then give them up."""
        if self._task is None or self._task.done():
            return
        if self._cancellations > len(self._lifespans):
            _log.warning("lifespan.not_closed", reason="it ignores its cancellation")
            self._given_up.set()
            return
        self._cancellations += 1
        self._task.cancel()
        self._overdue_in(_CANCELLED_SECONDS)


def _said(error: BaseException) -> str:
    """The error in one line: the innermost one of a group of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
