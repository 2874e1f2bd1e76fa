"""Wakes the worker service for jobs that a command has put into queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.output import remark

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

WAKE_SECONDS = 15.0
"""A service that starts from nothing may take this long to answer its first request."""


async def awake(settings: Settings, what: str) -> None:
    """Wake the service, if there is one to wake; ``what`` is done, and was not heard of, if so."""
    if settings.wake_url is None:
        return
    from convolab_worker.client.waker import Waker

    waker = Waker(settings)
    try:
        waker.wake()
        if not await waker.heard(WAKE_SECONDS):
            remark(f"{what}, but the worker service was not waked for it")
    finally:
        await waker.close()
