"""Waiting for what another process does, which nothing here announces."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_POLL_SECONDS = 0.01


async def wait_until(
    predicate: Callable[[], object | Awaitable[object]],
    *,
    timeout: float = 10.0,
    what: str = "the condition",
) -> None:
    """Return once ``predicate()``, awaited where it is a coroutine, is true.

    Only for what happens in another process: inside this one, wait for an event. Fails the test
    after ``timeout`` seconds, naming ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if time.monotonic() >= deadline:
            msg = f"{what} did not come true within {timeout:g} s"
            raise AssertionError(msg)
        await asyncio.sleep(_POLL_SECONDS)
