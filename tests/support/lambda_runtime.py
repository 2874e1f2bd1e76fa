"""AWS Lambda's API for runtimes on loopback.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class RuntimeApi:
    """Gives invocations to a runtime, and takes their answers."""

    def __init__(self) -> None:
        self._invocations: asyncio.Queue[tuple[str, Any, float]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._count = 0

    async def invoke(self, event: Any, *, seconds: float = 10.0) -> Any:
        """The function's answer to an event, or its error; the environment is thawed for it."""
        self._count += 1
        request = f"request-{self._count}"
        answer = self._answers[request] = asyncio.get_running_loop().create_future()
        await self._invocations.put((request, event, seconds))
        return await asyncio.wait_for(answer, 30.0)

    async def _next(self, _request: web.Request) -> web.Response:
        request, event, seconds = await self._invocations.get()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request,
            "Lambda-Runtime-Deadline-Ms": str(round((time.time() + seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:worker",
        }
        return web.Response(body=json.dumps(event).encode(), headers=headers)

    async def _answer(self, request: web.Request) -> web.Response:
        self._answers[request.match_info["id"]].set_result(await request.json())
        return web.Response(status=202)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on loopback; its address, as the runtime is given it."""
        app = web.Application()
        start = "/2018-06-01/runtime/invocation"
        app.router.add_get(f"{start}/next", self._next)
        app.router.add_post(f"{start}/{{id}}/response", self._answer)
        app.router.add_post(f"{start}/{{id}}/error", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
