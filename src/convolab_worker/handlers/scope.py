"""What stands around handlers: each registry's lifespan and middleware, as it was registered."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.places import is_async, place

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

LifespanFunction = Callable[..., AbstractAsyncContextManager[Any] | AsyncIterator[Any]]


class CallNext(Protocol):
    """The rest of a job's way: the middleware further in, and the handler."""

    def __call__(self, job: Any, /) -> Awaitable[Any]:
        """What the handler returns, or what a middleware makes of it; raises what they raise."""


MiddlewareFunction = Callable[[Any, CallNext], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Middleware:
    """A function around the jobs of one kind, or of every kind (None)."""

    function: MiddlewareFunction
    kind: str | None
    place: str

    @classmethod
    def checked(cls, function: MiddlewareFunction, kind: str | None) -> Middleware:
        """Raises ConfigurationError for a function that can't be one."""
        where = place(function)
        if not is_async(function):
            msg = f"{where}: expected `async def` with (job, call_next), and this one is not async"
            raise ConfigurationError(msg)
        if not _takes(function, 2):
            msg = f"{where}: expected the arguments (job, call_next)"
            raise ConfigurationError(msg)
        return cls(function, kind, where)


@dataclass(frozen=True, slots=True)
class Lifespan:
    """Makes the context manager whose value is ``job.resources``."""

    function: LifespanFunction
    wants_settings: bool
    place: str

    @classmethod
    def checked(cls, function: LifespanFunction) -> Lifespan:
        """Raises ConfigurationError for a function that can't be one."""
        where = place(function)
        if inspect.isasyncgenfunction(function):
            function = asynccontextmanager(function)
        elif is_async(function) or inspect.isgeneratorfunction(function):
            msg = f"{where}: expected an async function that yields once, or an asynccontextmanager"
            raise ConfigurationError(msg)
        wants_settings = not _takes(function, 0)
        if wants_settings and not _takes(function, 1):
            msg = f"{where}: expected no argument, or one for the worker's settings"
            raise ConfigurationError(msg)
        return cls(function, wants_settings, where)

    def open(self, settings: Settings) -> AbstractAsyncContextManager[Any]:
        """The context manager, not entered yet. Raises ConfigurationError if it gives another."""
        manager = self.function(settings) if self.wants_settings else self.function()
        if not isinstance(manager, AbstractAsyncContextManager):
            msg = (
                f"{self.place}: expected an async context manager, got {type(manager).__name__}: "
                "make it an async function that yields once"
            )
            raise ConfigurationError(msg)
        return manager


@dataclass(slots=True, eq=False)
class Scope:
    """One registry's own lifespan and middleware; they may be registered after its handlers."""

    lifespan: Lifespan | None = None
    middleware: list[Middleware] = field(default_factory=list)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether the function can be called with that many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a built-in that does not tell its signature
        return True
    return True
