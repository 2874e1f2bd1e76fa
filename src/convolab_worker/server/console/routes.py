"""The console's routes: what operators ask of Redis, and what they do to jobs and queues.

Each look is one request, which says what it cost. One request is answered at a time, so that the
number is its own. Nothing here asks Redis by itself.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker._logs import Log
from convolab_worker.errors import (
    ConfigurationError,
    ConvolabWorkerError,
    JobNotFound,
    JobNotRunning,
    WrongState,
)
from convolab_worker.handlers.facts import facts_of
from convolab_worker.server.answers import answer, failure
from convolab_worker.server.console import answers as shown
from convolab_worker.server.gate.gate import CALLER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from convolab_worker.client.console_client import ConsoleClient
    from convolab_worker.handlers.registry import HandlerRegistry
    from convolab_worker.settings import Settings

    Look = Callable[[ConsoleClient, Mapping[str, str]], Awaitable[dict[str, Any]]]

_TIMEOUT_SECONDS = 30.0
_MOST_JOBS = 500  # that one action is done to
_LOGGED_IDS = 20
_LONGEST_PARAMETER = 1000
_LONGEST_ID = 10_000
_STATUS_OF = {
    JobNotFound: 404,
    WrongState: 409,
    JobNotRunning: 409,
    ConfigurationError: 400,
}
_JOB_ACTIONS = ("retry", "promote", "remove", "cancel")
_QUEUE_ACTIONS = ("pause", "resume")

_log = Log()


class Order(NamedTuple):
    """An action that was asked for, checked."""

    action: str
    queue: str
    ids: list[str]
    reset_attempts: bool
    forget_steps: bool


class Console:
    """Answers the console's requests about the settings' Redis.

    ``handlers`` are those of the worker whose memory the page shows, None for no worker.
    ``acts``: jobs and queues may be acted upon. ``looks``: Redis may be asked, which shows data and
    costs commands.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: HandlerRegistry | None,
        *,
        acts: bool,
        looks: bool = True,
    ) -> None:
        self._settings = settings
        self._handlers = handlers
        self._acts = acts and looks
        self._looks = looks
        self._hides = settings.console_payloads == "hidden"
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
        """Answer with what the page has to know first, from memory."""
        return answer(
            200,
            {
                "live": self._handlers is not None,
                "acts": self._acts,
                "hides": self._hides,
                "queues": list(self._settings.queues),
                "caller": CALLER.get(),
            },
        )

    async def handlers(self, _request: web.Request) -> web.Response:
        """Answer with what the worker's handlers are, from memory."""
        found = [] if self._handlers is None else facts_of(self._handlers)
        return answer(200, {"handlers": found, "commands": 0})

    async def act(self, request: web.Request) -> web.Response:
        """Do to jobs or to a queue what the body says, and log who asked."""
        if not self._acts:
            return failure(403, "read-only: expected a token, or the option --console-actions")
        if request.content_type != "application/json":  # no form of another site can send that
            return failure(415, "expected Content-Type: application/json")
        try:
            order = _order(await request.read())
        except ValueError as error:
            return failure(400, str(error))

        async def carry_out(client: ConsoleClient, _: Mapping[str, str]) -> dict[str, Any]:
            return {"done": await _carry_out(client, order)}

        answered = await self._answer(carry_out, {})
        _log.info(
            "console.action",
            action=order.action,
            queue=order.queue,
            jobs=len(order.ids),
            job_ids=order.ids[:_LOGGED_IDS],
            status=answered.status,
            by=CALLER.get(),
        )
        return answered

    async def _queues(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        found = await client.queues(find=asked.get("find") == "all")
        return {"queues": [shown.queue_row(queue) for queue in found]}

    async def _jobs(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        containing = asked.get("text") or None
        if containing is not None and self._hides:
            msg = "text: payloads are hidden, and can't be searched"
            raise ConfigurationError(msg)
        page = await client.page(
            self._queue(asked),
            asked.get("state", "failed"),
            after=asked.get("after"),
            containing=containing,
        )
        return {
            "jobs": [shown.job_row(job, hides=self._hides) for job in page.jobs],
            "after": page.after,
            "looked_at": page.looked_at,
        }

    async def _job(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        details = await client.details(asked.get("id", ""), self._queue(asked))
        return {"job": shown.job_whole(details, hides=self._hides)}

    async def _payload(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        if self._hides:
            msg = "payloads are hidden: CONVOLAB_CONSOLE_PAYLOADS=hidden"
            raise ConfigurationError(msg)
        job = await client.status(asked.get("id", ""), self._queue(asked))
        return {"data": job.data, "result": job.result}

    async def _failures(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        groups = await client.failures(self._queue(asked))
        return {"groups": [shown.failure_group(group) for group in groups]}

    async def _schedules(self, client: ConsoleClient, asked: Mapping[str, str]) -> dict[str, Any]:
        found = await client.schedules(asked.get("queue"))
        return {"schedules": [shown.schedule_row(one, hides=self._hides) for one in found]}

    def _queue(self, asked: Mapping[str, str]) -> str:
        return asked.get("queue") or self._settings.queues[0]

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
            from convolab_worker.client.console_client import ConsoleClient

            self._client = ConsoleClient(self._settings)
        return self._client

    async def _close(self, _app: web.Application) -> None:
        if self._client is not None:
            await self._client.close()


async def _carry_out(client: ConsoleClient, order: Order) -> int:
    """Do it; return to how many jobs or queues it was done."""
    ids: Any = order.ids[0] if len(order.ids) == 1 else order.ids
    if order.action == "pause":
        await client.pause(order.queue)
        return 1
    if order.action == "resume":
        await client.resume(order.queue)
        return 1
    if order.action == "retry":
        return await client.retry(
            ids,
            queue=order.queue,
            reset_attempts=order.reset_attempts,
            forget_steps=order.forget_steps,
        )
    if order.action == "promote":
        return await client.promote(ids, queue=order.queue)
    if order.action == "remove":
        return await client.remove(ids, queue=order.queue)
    done = 0
    for job_id in order.ids:
        try:
            await client.cancel(job_id, queue=order.queue, wait=False)
        except (JobNotFound, JobNotRunning, WrongState):
            if len(order.ids) == 1:
                raise
            continue
        done += 1
    return done


def _order(body: bytes) -> Order:
    """Return the order of a request's body. Raises ValueError with what was expected."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        msg = "expected a JSON object"
        raise ValueError(msg)  # noqa: TRY004 - the caller treats it like any other wrong body
    action, queue, ids = given.get("action"), given.get("queue"), given.get("ids", [])
    if action not in (*_JOB_ACTIONS, *_QUEUE_ACTIONS):
        msg = f"action: expected one of {', '.join((*_JOB_ACTIONS, *_QUEUE_ACTIONS))}"
        raise ValueError(msg)
    if not isinstance(queue, str) or not queue or ":" in queue:
        msg = "queue: expected the name of a queue"
        raise ValueError(msg)
    if not isinstance(ids, list) or not all(isinstance(one, str) and one for one in ids):
        msg = "ids: expected a list of job ids"
        raise ValueError(msg)
    if (action in _JOB_ACTIONS) != (0 < len(ids) <= _MOST_JOBS):
        msg = f"ids: expected 1 to {_MOST_JOBS} jobs for {', '.join(_JOB_ACTIONS)}, none otherwise"
        raise ValueError(msg)
    flags = [given.get(name, False) for name in ("reset_attempts", "forget_steps")]
    if not all(isinstance(flag, bool) for flag in flags):
        msg = "reset_attempts, forget_steps: expected true or false"
        raise ValueError(msg)
    return Order(action, queue, ids, *flags)
