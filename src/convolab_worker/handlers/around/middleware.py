"""Functions around handlers: how they are registered, and a job's way through them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import is_async, place, takes

if TYPE_CHECKING:
    from collections.abc import Sequence


class CallNext(Protocol):
    """The rest of a job's way: the inner middleware, and the handler."""

    def __call__(self, job: Any, /) -> Awaitable[Any]:
        """Return what the handler returns, or what a middleware makes of it."""


MiddlewareFunction = Callable[[Any, CallNext], Awaitable[Any]]


class Middleware(Struct, frozen=True):
    """A function around the jobs of one kind, or of every kind (None)."""

    function: MiddlewareFunction
    kind: str | None
    place: str

    @classmethod
    def checked(cls, function: MiddlewareFunction, kind: str | None) -> Middleware:
        """Check the function. Raises ConfigurationError."""
        where = place(function)
        if not is_async(function):
            msg = f"{where}: expected `async def` with (job, call_next), and this one is not async"
            raise ConfigurationError(msg)
        if not takes(function, 2):
            msg = f"{where}: expected the arguments (job, call_next)"
            raise ConfigurationError(msg)
        return cls(function, kind, where)


class MiddlewareChain:
    """One job's way through ``middleware``, the first one outermost, to ``innermost``."""

    __slots__ = ("_culprit", "_innermost", "_middleware", "_raised")

    def __init__(
        self, middleware: Sequence[Middleware], innermost: Callable[[Any], Awaitable[Any]]
    ) -> None:
        self._middleware = middleware
        self._innermost = innermost
        self._raised: BaseException | None = None
        self._culprit: Middleware | None = None

    async def run(self, job: Any) -> Any:
        """Return the job's result, as the outermost middleware gives it."""
        return await self._from(0)(job)

    def _from(self, depth: int) -> CallNext:
        if depth == len(self._middleware):
            return self._handled
        middleware = self._middleware[depth]

        async def call(job: Any) -> Any:
            try:
                return await middleware.function(job, self._from(depth + 1))
            except BaseException as error:
                if error is not self._raised:  # else raised further in
                    self._raised, self._culprit = error, middleware
                raise

        return call

    async def _handled(self, job: Any) -> Any:
        try:
            return await self._innermost(job)
        except BaseException as error:
            self._raised, self._culprit = error, None
            raise

    def blame(self, error: BaseException) -> str | None:
        """Return the place of the middleware that raised ``error``; None if the handler did."""
        is_known = error is self._raised and self._culprit is not None
        return self._culprit.place if is_known and self._culprit else None
