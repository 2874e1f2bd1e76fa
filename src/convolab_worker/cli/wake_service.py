"""Wakes the worker service for jobs that a command has put into queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.output import remark

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

WAKE_SECONDS = 15.0
"""A service that starts from zero instances may take this long to answer its first request."""


async def wake_service(settings: Settings, done: str) -> None:
    """Wake the worker service if its address is set, and say on standard error if that fails.

    That sentence starts with ``done``, which says what the command did before.
    """
    if settings.wake_url is None:
        return
    from convolab_worker.client.waking.waker import Waker

    waker = Waker(settings)
    try:
        waker.wake()
        if not await waker.heard(WAKE_SECONDS):
            remark(f"{done}, but the worker service was not woken")
    finally:
        await waker.close()
