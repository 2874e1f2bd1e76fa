"""A job's way through the middleware around its handler, and who raised what on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from convolab_worker.handlers.scope import CallNext, Middleware


class MiddlewareChain:
    """One job's way: through ``middleware``, the first one outermost, to ``innermost``."""

    __slots__ = ("_culprit", "_innermost", "_middleware", "_raised")

    def __init__(
        self, middleware: Sequence[Middleware], innermost: Callable[[Any], Awaitable[Any]]
    ) -> None:
        """Call nothing yet."""
        self._middleware = middleware
        self._innermost = innermost
        self._raised: BaseException | None = None
        self._culprit: Middleware | None = None

    async def go(self, job: Any) -> Any:
        """The result of the job, as the outermost middleware gives it."""
        return await self._from(0)(job)

    def _from(self, depth: int) -> CallNext:
        if depth == len(self._middleware):
            return self._handled
        middleware = self._middleware[depth]

        async def call(job: Any) -> Any:
            try:
                return await middleware.function(job, self._from(depth + 1))
            except BaseException as error:
                if error is not self._raised:  # else it came from further in
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
        """The place of the middleware that raised ``error``; None if the handler did."""
        is_known = error is self._raised and self._culprit is not None
        return self._culprit.place if is_known and self._culprit else None
