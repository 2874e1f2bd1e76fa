"""The wake server as an aiohttp application: what each route answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web

from convolab_worker._setting_types import Duration
from convolab_worker.errors import ConvolabWorkerError
from convolab_worker.server.middleware import LARGEST_BODY, Gate, answer, failure
from convolab_worker.server.openapi import document
from convolab_worker.server.prometheus import CONTENT_TYPE, metrics_text
from convolab_worker.server.status_page import StatusPage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from convolab_worker.server.auth import Authorization
    from convolab_worker.server.worker_proxy import Workload
    from convolab_worker.settings import Settings

_HOLD = Duration(low=1.0, high=3600.0)
_LINES = "application/x-ndjson"
_LINE_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_STATS_SECONDS = 2.0


class Routes:
    """Answers requests about one worker.

    ``hold`` is how many seconds a wake is held that does not say; None: it is answered at once.
    """

    def __init__(self, workload: Workload, hold: float | None) -> None:
        """Answer nothing yet."""
        self._workload = workload
        self._hold = hold
        self.page = StatusPage(workload)
        self.answers: Counter[tuple[str, int]] = Counter()

    def add_to(self, app: web.Application) -> None:
        """Add every route."""
        router = app.router
        router.add_route("GET", "/wake", self.wake, name="wake")
        router.add_route("POST", "/wake", self.wake, name="wake")
        router.add_get("/metrics", self.metrics, name="metrics")
        router.add_get("/", self.index, name="index")
        router.add_get("/events", self.page.events, name="events", allow_head=False)
        router.add_post("/depths", self.page.depths, name="depths")
        router.add_get("/openapi.json", self.openapi, name="openapi")
        for name in ("health", "healthz"):
            router.add_get(f"/{name}", self.health, name=name)
        for name in ("ready", "readyz"):
            router.add_get(f"/{name}", self.ready, name=name)
        app.cleanup_ctx.append(self._looking)
        app.on_shutdown.append(self.page.close)

    async def wake(self, request: web.Request) -> web.StreamResponse:
        """Look for work; say so at once, or what came of it when it is done."""
        seconds = _hold_asked_for(request, self._hold)
        if seconds is None:
            self._workload.wake()
            return answer(202, {"status": "awake", "running": self._workload.progress()["running"]})
        if _LINES in request.headers.get("Accept", ""):
            return await self._tell_progress(request, seconds)
        try:
            return answer(200, asdict(await self._workload.hold(seconds)))
        except ConvolabWorkerError as error:
            return failure(503, str(error))

    async def _tell_progress(self, request: web.Request, seconds: float) -> web.StreamResponse:
        """Hold, with a line of JSON every second; the last one is the answer."""
        response = web.StreamResponse(headers={"Content-Type": _LINES})
        holding = asyncio.ensure_future(self._workload.hold(seconds))
        try:
            await response.prepare(request)
            while not (await asyncio.wait({holding}, timeout=_LINE_SECONDS))[0]:
                await _write_line(response, {"status": "working", **self._workload.progress()})
            try:
                last = asdict(await holding)
            except ConvolabWorkerError as error:
                last = {"error": str(error)}
            await _write_line(response, last)
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
        return response

    async def health(self, _request: web.Request) -> web.Response:
        """Whether jobs are consumed."""
        problem = self._workload.problem()
        if problem is not None:
            return answer(503, {"status": "wedged", "problem": problem})
        return answer(200, {"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Whether the worker is connected, or asleep and to be waked."""
        health = self._workload.health()
        return answer(200 if health.ready else 503, {"ready": health.ready, "state": health.state})

    async def metrics(self, _request: web.Request) -> web.Response:
        """Everything that is counted, for Prometheus."""
        try:
            async with asyncio.timeout(_STATS_SECONDS):
                stats = await self._workload.stats()
        except TimeoutError:
            return failure(503, "the worker's event loop does not answer")
        except ConvolabWorkerError as error:
            return failure(503, str(error))
        text = metrics_text(stats, self.answers)
        return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE})

    async def index(self, _request: web.Request) -> web.Response:
        """The status page."""
        return self.page.page()

    async def openapi(self, _request: web.Request) -> web.Response:
        """The description of this surface."""
        return answer(200, document())

    async def _looking(self, _app: web.Application) -> AsyncIterator[None]:
        """See once a second how the worker is."""
        looking = asyncio.create_task(self._look(), name="convolab-look")
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    async def _look(self) -> NoReturn:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._workload.look()


async def _write_line(response: web.StreamResponse, value: Any) -> None:
    await response.write(json.dumps(value).encode() + b"\n")


def _hold_asked_for(request: web.Request, default: float | None) -> float | None:
    """How long to hold, in seconds; None: not at all. Raises 400 for what is no such time."""
    given = request.query.getall("hold", [])
    if not given:
        return default
    try:
        return float(_HOLD.check(_HOLD.parse(", ".join(given))))  # several are none
    except ValueError as error:
        shown = "&".join(f"hold={text[:40]}" for text in given[:2])
        raise web.HTTPBadRequest(reason="Bad Request", text=f"{shown}: expected {error}") from None


def make_app(
    workload: Workload, settings: Settings, allowed: Authorization, *, hold: float | None
) -> web.Application:
    """Make the application for a worker. ``hold`` is how long a wake is held that does not say."""
    routes = Routes(workload, hold)
    gate = Gate(
        allowed,
        rate=settings.wake_rate,
        behind_front_end=settings.k_service is not None,
        answers=routes.answers,
        locked_page=routes.page.page,
    )
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[gate.pass_through])
    app.on_response_prepare.append(gate.sign)
    routes.add_to(app)
    return app
