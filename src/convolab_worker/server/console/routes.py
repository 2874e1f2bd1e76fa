"""The console's routes: what operators ask of Redis, and what they do to jobs and queues.

Each look is one request, which says what it cost. One request is answered at a time, so that the
count is of this request alone. Redis is asked only when a request asks.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.errors import (
    ConfigurationError,
    ConvolabWorkerError,
    InvalidResult,
    JobNotFound,
    JobNotRunning,
    WrongState,
)
from convolab_worker.server.answers import answer, failure
from convolab_worker.server.console import answers as shown
from convolab_worker.server.console.orders import Order
from convolab_worker.server.gate.gate import CALLER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from convolab_worker.client.console.client import ConsoleClient
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.server.console.redaction import Redaction
    from convolab_worker.settings import Settings

    Look = Callable[[ConsoleClient, Mapping[str, str]], Awaitable[dict[str, Any]]]

_TIMEOUT_SECONDS = 30.0
_LOGGED_IDS = 20
_LONGEST_PARAMETER = 1000
_LONGEST_ID = 10_000
_STATUS_OF = {
    JobNotFound: 404,
    WrongState: 409,
    JobNotRunning: 409,
    ConfigurationError: 400,
    InvalidResult: 400,
}
_log = Log()


class Console:
    """Answers the console's requests about the settings' Redis.

    ``handlers`` are those of the worker whose memory the page shows, None for no worker.
    ``redaction`` says what of jobs may be shown.
    ``acts``: jobs and queues may be acted upon. ``looks``: Redis may be asked, which shows data and
    costs commands.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: HandlerRegistry | None,
        redaction: Redaction,
        *,
        acts: bool,
        looks: bool = True,
    ) -> None:
        self._settings = settings
        self._handlers = handlers
        self._acts = acts and looks
        self._looks = looks
        self._redaction = redaction
        self._client: ConsoleClient | None = None
        self._lock = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the routes under ``/api``."""
        router = app.router
        router.add_get("/api/console", self.about, name="console", allow_head=False)
        looks: dict[str, Look] = {
            "queues": self._queues,
            "jobs": self._jobs,
            "job": self._job,
            "payload": self._payload,
            "attempts": self._attempts,
            "matching": self._matching,
            "failures": self._failures,
            "schedules": self._schedules,
        }
        for name, look in looks.items():
            router.add_get(
                f"/api/{name}", self._answering(look), name=f"console-{name}", allow_head=False
            )
        router.add_get("/api/handlers", self.handlers, name="console-handlers", allow_head=False)
        router.add_post("/api/actions", self.act, name="console-actions")
        app.on_cleanup.append(self._close)

    async def about(self, _request: web.Request) -> web.Response:
        """Answer with what the page needs first, from memory."""
        return answer(
            200,
            {
                "live": self._handlers is not None,
                "acts": self._acts,
                "hides": self._redaction.hides,
                "queues": list(self._settings.queues),
                "caller": CALLER.get(),
            },
        )

    async def handlers(self, _request: web.Request) -> web.Response:
        """Answer with what the worker's handlers are, from memory."""
        found = [] if self._handlers is None else shown.handlers(self._handlers, self._settings)
        return answer(200, {"handlers": found, "commands": 0})

    async def act(self, request: web.Request) -> web.Response:
        """Do to jobs or to a queue what the body says, and log who asked."""
        if not self._acts:
            return failure(403, "read-only: expected a token, or the option --console-actions")
        if request.content_type != "application/json":  # forms of other sites can't send JSON
            return failure(415, "expected Content-Type: application/json")
        try:
            order = Order.read(await request.read())
        except ValueError as error:
            return failure(400, str(error))

        done: dict[str, Any] = {}

        async def carry_out(client: ConsoleClient, _: Mapping[str, str]) -> dict[str, Any]:
            done.update(await order.carry_out(client))
            return done

        answered = await self._answer(carry_out, {})
        ids = [done["id"]] if "id" in done else order.ids
        more = {} if order.schedule is None else {"schedule": order.schedule}
        _log.info(
            "console.action",
            action=order.action,
            queue=order.queue,
            jobs=len(ids),
            job_ids=ids[:_LOGGED_IDS],
            status=answered.status,
            by=CALLER.get(),
            **more,
        )
        return answered

    async def _queues(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        found = await client.queues(find=asked.get("find") == "all")
        return {"queues": [shown.queue_row(queue) for queue in found]}

    async def _jobs(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        state = asked.get("state", "failed")
        page = await client.page(
            self._queue(asked), state, after=asked.get("after"), fits=self._filter(asked)
        )
        return {
            "jobs": [shown.job_row(job, self._redaction) for job in page.jobs],
            "after": page.after,
            "looked_at": page.looked_at,
            "total": page.total,
        }

    async def _matching(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        found = await client.matching(
            self._queue(asked),
            asked.get("state", "failed"),
            name=asked.get("name") or None,
            fits=self._filter(asked) if asked.get("text") else None,
        )
        return found._asdict()

    async def _job(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        details = await client.details(asked.get("id", ""), self._queue(asked))
        return {"job": shown.job_whole(details, self._redaction)}

    async def _attempts(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        found = await client.attempts(asked.get("id", ""), self._queue(asked))
        return {
            "attempts": [attempt._asdict() for attempt in found.attempts],
            "complete": found.complete,
        }

    async def _payload(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        if self._redaction.hides:
            msg = "payloads are hidden: CONVOLAB_CONSOLE_PAYLOADS=hidden"
            raise ConfigurationError(msg)
        job = await client.status(asked.get("id", ""), self._queue(asked))
        names = {"name": job.name, "queue": job.queue}
        return {
            what: self._redaction.payload(what, getattr(job, what), **names)
            for what in ("data", "result")
        }

    async def _failures(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        queue = self._queue(asked)
        groups = await client.failures(queue)
        return {"groups": [shown.failure_group(group, queue, self._redaction) for group in groups]}

    async def _schedules(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        found, now = await client.schedules(asked.get("queue")), time.time()
        return {"schedules": [shown.schedule_row(one, self._redaction, now) for one in found]}

    def _queue(self, asked: Mapping[str, str]) -> str:
        return asked.get("queue") or self._settings.queues[0]

    def _filter(self, asked: Mapping[str, str]) -> Callable[[JobStatus], bool] | None:
        """Return a function that tells whether a job has that name, and shows that text."""
        name, wanted = asked.get("name"), asked.get("text")
        if not name and not wanted:
            return None
        return lambda job: (
            (not name or job.name == name) and (not wanted or self._redaction.contains(job, wanted))
        )

    def _answering(self, look: Look) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            for name, value in request.query.items():
                if len(value) > (_LONGEST_ID if name == "id" else _LONGEST_PARAMETER):
                    return failure(400, f"{name[:40]}: expected a shorter text")
            return await self._answer(look, request.query)

        return handle

    async def _answer(self, look: Look, asked: Mapping[str, str]) -> web.Response:
        if not self._looks:
            return failure(403, "anybody can reach this server: expected CONVOLAB_WAKE_TOKEN")
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS), self._lock:
                client = self._opened()
                before = client.counter.billable
                found = await look(client, asked)
                return answer(200, {**found, "commands": client.counter.billable - before})
        except TimeoutError:
            return failure(503, "Redis did not answer in time")
        except ConvolabWorkerError as error:
            return failure(_STATUS_OF.get(type(error), 503), str(error))

    def _opened(self) -> ConsoleClient:
        if self._client is None:
            from convolab_worker.client.console.client import ConsoleClient

            self._client = ConsoleClient(self._settings)
        return self._client

    async def _close(self, _app: web.Application) -> None:
        if self._client is not None:
            await self._client.close()
