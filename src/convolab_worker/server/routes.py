"""The wake server as an aiohttp application: what each route answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web
from msgspec import structs

from convolab_worker.errors import ConvolabWorkerError
from convolab_worker.handlers.around.redaction import Redactions
from convolab_worker.server.answers import answer, failure
from convolab_worker.server.console.page import page
from convolab_worker.server.console.redaction import Redaction
from convolab_worker.server.console.routes import Console
from convolab_worker.server.console.stream import LiveEvents
from convolab_worker.server.gate.gate import Gate
from convolab_worker.server.gate.http_connection import MAX_BODY_BYTES, end_with_input
from convolab_worker.server.prometheus import CONTENT_TYPE, metrics_text
from convolab_worker.settings.kinds import Duration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from convolab_worker.handlers.around.redaction import Redact
    from convolab_worker.server.gate.auth import Authorization
    from convolab_worker.server.gate.traffic import Traffic
    from convolab_worker.server.worker_proxy import WorkerProxy
    from convolab_worker.settings import Settings
    from convolab_worker.worker.worker import Worker

_HOLD = Duration(low=1.0, high=3600.0)
_NDJSON = "application/x-ndjson"
_PROGRESS_SECONDS = 1.0
_CHECK_SECONDS = 1.0
_STATS_TIMEOUT_SECONDS = 2.0


def make_app(
    worker: WorkerProxy, settings: Settings, gate: Gate, *, looks: bool = True
) -> web.Application:
    """Return the application of a worker behind ``gate``; ``looks``: its console may ask Redis."""
    app, redaction = _app_behind(gate), Redaction.of(settings, worker.handlers.redactions)
    Routes(worker, settings, gate.traffic, redaction).add_to(app)
    acts = _may_act(settings, gate)
    Console(settings, worker.handlers, redaction, acts=acts, looks=looks).add_to(app)
    return app


def make_console(
    settings: Settings, gate: Gate, *, redact: Redact | None = None
) -> web.Application:
    """Return the console without a worker, behind ``gate``."""
    redactions = Redactions()
    if redact is not None:
        redactions.register(redact)
    app = _app_behind(gate)

    async def index(_request: web.Request) -> web.Response:
        return page()

    app.router.add_get("/", index, name="index")
    redaction = Redaction.of(settings, redactions)
    Console(settings, None, redaction, acts=_may_act(settings, gate)).add_to(app)
    return app


def make_gate(settings: Settings, authorization: Authorization, *, checks_names: bool) -> Gate:
    """Return the gate for requests to one server; it counts their traffic."""
    return Gate(
        authorization,
        rate=settings.wake_rate,
        behind_front_end=settings.k_service is not None,
        checks_names=checks_names,
        locked_page=page,
    )


def _app_behind(gate: Gate) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[gate.handle])
    app.on_response_prepare.append(gate.answering)
    return app


def _may_act(settings: Settings, gate: Gate) -> bool:
    """Whether the console may do more than read: if a token says who asks, or by the setting."""
    return not gate.is_open or settings.console_actions == "on"


class Routes:
    """Answers requests about one worker.

    The settings say how long a wake is held that names no duration, and whether a held one is
    answered with 503 while work remains, unless the request says otherwise.
    """

    def __init__(
        self, worker: WorkerProxy, settings: Settings, traffic: Traffic, redaction: Redaction
    ) -> None:
        self._worker = worker
        self._asks_again = settings.wake_retry == "on"
        self._default_hold = settings.wake_hold if settings.wake_mode == "held" else None
        self._live = LiveEvents(worker, redaction)
        self._traffic = traffic

    def add_to(self, app: web.Application) -> None:
        router = app.router
        router.add_route("GET", "/wake", self.wake, name="wake")
        router.add_route("POST", "/wake", self.wake, name="wake")
        router.add_get("/metrics", self.metrics, name="metrics")
        router.add_get("/", self.index, name="index")
        router.add_get("/events", self._live.events, name="events", allow_head=False)
        router.add_get("/openapi.json", self.openapi, name="openapi")
        for name in ("health", "healthz"):
            router.add_get(f"/{name}", self.health, name=name)
        for name in ("ready", "readyz"):
            router.add_get(f"/{name}", self.ready, name=name)
        app.cleanup_ctx.append(self._checks)
        app.on_shutdown.append(self._live.close)

    async def wake(self, request: web.Request) -> web.StreamResponse:
        """Wake the worker and answer at once or, held, when its work is done."""
        seconds = _requested_hold(request, self._default_hold)
        asks_again = _asks_again(request, self._asks_again)
        if seconds is None:
            self._worker.wake()
            return answer(202, {"status": "awake", "running": self._worker.progress()["running"]})
        end_with_input(request)
        if _NDJSON in request.headers.get("Accept", ""):
            return await self._stream_progress(request, seconds)
        try:
            result = await self._worker.call(lambda worker: worker.hold(seconds))
        except ConvolabWorkerError as error:
            return failure(503, str(error))
        if asks_again and result.status == "budget":
            return answer(503, structs.asdict(result), {"Retry-After": "1"})
        return answer(200, structs.asdict(result))

    async def _stream_progress(self, request: web.Request, seconds: float) -> web.StreamResponse:
        """Hold, and send a line of JSON each second; the last line is the result."""
        response = web.StreamResponse(headers={"Content-Type": _NDJSON})
        holding = asyncio.create_task(self._worker.call(lambda worker: worker.hold(seconds)))
        try:
            await response.prepare(request)
            while not (await asyncio.wait({holding}, timeout=_PROGRESS_SECONDS))[0]:
                await _write_line(response, {"status": "working", **self._worker.progress()})
            try:
                last = structs.asdict(await holding)
            except ConvolabWorkerError as error:
                last = {"error": str(error)}
            await _write_line(response, last)
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
        return response

    async def health(self, _request: web.Request) -> web.Response:
        """Answer 503 if something keeps the worker from running jobs."""
        problem = self._worker.problem()
        if problem is not None:
            return answer(503, {"status": "unhealthy", "problem": problem})
        return answer(200, {"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Answer 503 unless the worker is connected, or asleep and can be woken."""
        health = self._worker.health()
        return answer(200 if health.ready else 503, {"ready": health.ready, "state": health.state})

    async def metrics(self, _request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(_STATS_TIMEOUT_SECONDS):
                stats = await self._worker.call(_stats)
        except TimeoutError:
            return failure(503, "the worker's event loop does not answer")
        except ConvolabWorkerError as error:
            return failure(503, str(error))
        text = metrics_text(stats, self._traffic)
        return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE})

    async def index(self, _request: web.Request) -> web.Response:
        return page()

    async def openapi(self, _request: web.Request) -> web.Response:
        from convolab_worker.server.openapi import document  # few ask for it

        return answer(200, document())

    async def _checks(self, _app: web.Application) -> AsyncIterator[None]:
        checking = asyncio.create_task(self._check(), name="convolab-health-check")
        yield
        checking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await checking

    async def _check(self) -> NoReturn:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self._worker.check()


async def _stats(worker: Worker) -> dict[str, Any]:
    return worker.stats()


async def _write_line(response: web.StreamResponse, value: Any) -> None:
    await response.write(json.dumps(value).encode() + b"\n")


def _asks_again(request: web.Request, default: bool) -> bool:  # noqa: FBT001
    """Return whether the caller wants a 503 while work remains, because it asks again.

    Raises HTTPBadRequest unless the query has at most one ``retry``, and that ``on`` or ``off``.
    """
    given = request.query.getall("retry", [])
    if not given:
        return default
    if given not in (["on"], ["off"]):
        shown = "&".join(f"retry={text[:40]}" for text in given[:2])
        raise web.HTTPBadRequest(reason="Bad Request", text=f"{shown}: expected on or off")
    return given == ["on"]


def _requested_hold(request: web.Request, default: float | None) -> float | None:
    """Return how many seconds to hold, or None to answer at once.

    Raises HTTPBadRequest unless the query has at most one ``hold``, and that a valid duration.
    """
    given = request.query.getall("hold", [])
    if not given:
        return default
    try:
        return float(_HOLD.check(_HOLD.parse(", ".join(given))))  # several values are not valid
    except ValueError as error:
        shown = "&".join(f"hold={text[:40]}" for text in given[:2])
        raise web.HTTPBadRequest(reason="Bad Request", text=f"{shown}: expected {error}") from None
