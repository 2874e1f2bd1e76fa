"""Functions that hear of each failed attempt: for Sentry and the like."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from convolab_worker._logs import Log
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import place, takes
from convolab_worker.handlers.retry import FailedAttempt

FailureHook = Callable[["Failure"], Awaitable[None] | None]
H = TypeVar("H", bound=FailureHook)

_log = Log()
_LONGEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(FailedAttempt):
    """An attempt that failed, and what follows.

    ``reason`` is what the job keeps as its ``failedReason``. ``retry_in`` is the seconds until the
    next attempt, None where there is none.
    """

    reason: str
    retry_in: float | None

    @property
    def final(self) -> bool:
        """Whether the job has failed for good."""
        return self.retry_in is None


class FailureHooks:
    """Functions that are told of every failed attempt; none can change what becomes of a job."""

    def __init__(self) -> None:
        self.functions: list[FailureHook] = []

    def register(self, hook: H) -> H:
        """Add a function of one argument. Raises ConfigurationError for another."""
        if not takes(hook, 1):
            msg = f"{place(hook)}: expected one argument, the Failure"
            raise ConfigurationError(msg)
        self.functions.append(hook)
        return hook

    def include(self, other: FailureHooks) -> None:
        """Take over the functions of ``other``."""
        self.functions += [hook for hook in other.functions if hook not in self.functions]

    async def tell(self, failure: Failure) -> None:
        """Call each function; one that raises, or takes longer than 5 s, is logged."""
        for hook in self.functions:
            try:
                async with asyncio.timeout(_LONGEST_SECONDS):
                    told = hook(failure)
                    if inspect.isawaitable(told):
                        await told
            except Exception as error:  # noqa: BLE001 - a report of a failure must not be another
                _log.error("on_failure.raised", hook=place(hook), error=repr(error))
