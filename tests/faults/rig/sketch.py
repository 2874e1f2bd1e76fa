"""The obvious wake endpoint: answers ``awake`` at once, and works on in the background.

What the rig shows not to work where a platform takes the CPU away after the answer.
"""

from __future__ import annotations

import asyncio
import os
import signal

from aiohttp import web

from convolab_worker import Worker
from tests.faults.rig.app import handlers


async def main() -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Worker(handlers) as worker:

        async def wake(_: web.Request) -> web.Response:
            worker.wake()
            return web.json_response({"status": "awake"})

        app = web.Application()
        app.router.add_route("*", "/wake", wake)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
        await ended.wait()
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
