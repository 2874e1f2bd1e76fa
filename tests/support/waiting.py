"""Waiting for what another process does, which nothing here announces."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")
_POLL_SECONDS = 0.01
# What one poll counts for at most. The predicate may ask a server, and take its time.
_LONGEST_POLL_SECONDS = 0.25
_SERVERS_POLL_SECONDS, _SERVERS_SECONDS = 0.02, 60.0


async def wait_until(
    predicate: Callable[[], object | Awaitable[object]],
    *,
    timeout: float = 10.0,
    what: str = "the condition",
) -> None:
    """Return once ``predicate()``, awaited where it is a coroutine, is true.

    Only for what happens in another process: inside this one, wait for an event. Fails the test
    after ``timeout`` seconds, naming ``what`` was waited for. A pause of the machine hardly counts.
    """
    left, looked_at = timeout, time.monotonic()
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if left <= 0:
            msg = f"{what} did not come true within {timeout:g} s"
            raise AssertionError(msg)
        await asyncio.sleep(_POLL_SECONDS)
        before, looked_at = looked_at, time.monotonic()
        left -= min(looked_at - before, _LONGEST_POLL_SECONDS)


def wait_for_servers(predicate: Callable[[], object], what: str) -> None:
    """Return once servers that are being set up, or fail over, have come so far.

    One that answers with an error, or not yet, has not. Fails the test after a minute.
    """
    deadline = time.monotonic() + _SERVERS_SECONDS
    while True:
        with suppress(RedisError, KeyError):
            if predicate():
                return
        assert time.monotonic() < deadline, f"{what}: not within {_SERVERS_SECONDS:g} s"
        time.sleep(_SERVERS_POLL_SECONDS)


async def within(work: Awaitable[_T], seconds: float) -> _T:
    """Return what ``work`` returns, which it must do in that time, as ``wait_until`` counts it."""
    task = asyncio.ensure_future(work)
    try:
        await wait_until(task.done, timeout=seconds, what=f"the end of {work}")
    finally:
        task.cancel()
    return await task
