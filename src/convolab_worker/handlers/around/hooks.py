"""Hooks: functions of the application that are told of an event, and can't change its course."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from convolab_worker._logs import Log
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import has_yield, place, takes

T = TypeVar("T")
H = TypeVar("H", bound=Callable[[Any], Any])

LONGEST_SECONDS = 5.0
"""How long a function may take."""

_log = Log()


class Hooks(Generic[T]):
    """Functions that are told of a ``T``, plain or async, in the order of their registration.

    ``name`` is the name of their decorator; ``argument`` says in words what they are given.
    """

    def __init__(self, name: str, argument: str) -> None:
        self._name = name
        self._argument = argument
        self.functions: list[Callable[[T], Awaitable[None] | None]] = []

    def register(self, hook: H) -> H:
        """Add a function of one argument. Raises ConfigurationError for another."""
        if not takes(hook, 1):
            msg = f"{place(hook)}: expected one argument, {self._argument}"
            raise ConfigurationError(msg)
        if has_yield(hook):
            msg = f"{place(hook)}: expected a function without a yield: nobody would run its code"
            raise ConfigurationError(msg)
        self.functions.append(hook)
        return hook

    def include(self, other: Hooks[T]) -> None:
        """Take over the functions of ``other``."""
        self.functions += [hook for hook in other.functions if hook not in self.functions]

    async def tell(self, value: T, within: float = LONGEST_SECONDS) -> bool:
        """Call each function; return whether none raised, or took longer than 5 s.

        Those that did are logged. All together have ``within`` seconds.
        """
        ends_at, all_heard = time.monotonic() + within, True
        for hook in self.functions:
            try:
                # The names that it binds for the log must not stay for the job that comes next.
                told = contextvars.copy_context().run(hook, value)
                if inspect.isawaitable(told):
                    await _ended(told, min(LONGEST_SECONDS, ends_at - time.monotonic()))
            except Exception as error:  # noqa: BLE001 - whatever the application's code raises
                _log.error(f"{self._name}.raised", hook=place(hook), error=repr(error))
                all_heard = False
        return all_heard


async def _ended(told: Awaitable[None], seconds: float) -> None:
    """Wait for a function's end; cancel one that takes too long. Raises TimeoutError."""
    task = asyncio.ensure_future(told)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.wait({task}, timeout=max(seconds, 0.0))
    finally:
        is_late = not task.done()
        task.cancel()
    if is_late or task.cancelled():
        msg = f"not done after {seconds:.1f} s" if is_late else "it has cancelled itself"
        raise TimeoutError(msg)
    task.result()
