"""A worker behind its wake server, and somebody to call it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import ClientSession

from convolab_worker import JobClient, Worker
from convolab_worker.server.server import WakeServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from convolab_worker import HandlerRegistry, Settings


@asynccontextmanager
async def serving(
    handlers: HandlerRegistry, settings: Settings, port: int = 0
) -> AsyncIterator[tuple[Worker, JobClient, ClientSession]]:
    """Run a worker behind a server on a free port; the session has the server as its base."""
    worker = Worker(handlers, settings.replace(port=port))
    async with WakeServer(worker) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with JobClient(settings) as client, worker, ClientSession(base) as session:
            await wait_until(lambda: worker.health().ready, what="the worker's readiness")
            yield worker, client, session


async def raw(port: int, data: bytes) -> bytes:
    """Send bytes to a server on loopback, and give what it sends until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
