"""The wake server and the console mounted into FastAPI, served by uvicorn on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from fastapi import Depends, FastAPI
from redis.asyncio import Redis
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import ConfigurationError
from convolab_worker.integrations import asgi
from convolab_worker.integrations.asgi import AsgiMount, console_asgi, wake_asgi
from convolab_worker.integrations.starlette import job_client, jobs_lifespan
from convolab_worker.server import routes, wake_app
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
Client = Annotated[JobClient, Depends(job_client)]


class Uvicorn(uvicorn.Server):
    """A server in this event loop, which leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an ASGI application on a free port, and give a client of it."""
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1, **options)
    server = Uvicorn(config)
    serving = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started or serving.done(), what="uvicorn")
    if serving.done():
        serving.result()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def mounted(
    handlers: HandlerRegistry, settings: Settings
) -> AsyncIterator[tuple[Worker, JobClient, httpx.AsyncClient]]:
    """A FastAPI application with a worker in its life, and the wake server under /worker."""
    worker = Worker(handlers, settings)
    mount = wake_asgi(worker)
    api = FastAPI(lifespan=jobs_lifespan(worker, mount, settings=settings))
    api.mount("/worker", mount)
    async with served(api) as http, JobClient(settings) as client:
        await wait_until(lambda: worker.health().ready, what="the worker")
        yield worker, client, http


@pytest.fixture
def handlers() -> HandlerRegistry:
    """One handler that sleeps for as long as its job says."""
    registry = HandlerRegistry()

    @registry.audio("work")
    async def work(job: Job[dict[str, Any]]) -> str:
        await asyncio.sleep(job.data.get("seconds", 0))
        return "done"

    return registry


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/", {"headers": {"Accept": "text/html"}}),
    ("HEAD", "/", {}),
    ("GET", "/health", {}),
    ("GET", "/readyz", {}),
    ("GET", "/openapi.json", {}),
    ("POST", "/wake?hold=10s", {"content": b"a body"}),
    ("GET", "/wake?hold=never", {}),
    ("GET", "/wake?hold=1&hold=%20%C3%A9", {}),
    ("PUT", "/wake", {}),
    ("GET", "/no/such%20route/%C3%A9%25", {}),
    ("POST", "/wake", {"content": b"x" * 70_000}),
    ("POST", "/wake?chunked", {}),
    ("GET", "/api/console", {}),
    ("GET", "/api/handlers", {}),
    ("GET", "/api/jobs?state=completed&text=%C3%A9", {}),
    ("GET", "/api/jobs?state=nowhere", {}),
    ("POST", "/api/actions", {"json": {"action": "remove", "ids": ["1"]}}),
    ("GET", "/wake", {"headers": {"Sec-Fetch-Site": "cross-site"}}),
    ("GET", "/wake", {"headers": {"Host": "rebound.example"}}),
]
# What a server says for itself.
OF_THE_SERVER = {"date", "server", "connection", "content-length", "transfer-encoding"}


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    headers = {k: v for k, v in answer.headers.items() if k not in OF_THE_SERVER}
    return answer.status_code, headers, answer.content


async def test_every_route_answers_as_under_aiohttp(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """Status, headers and body are the same, whichever server is in front."""
    async with (
        mounted(handlers, make_settings()) as (worker, _, http),
        _under_aiohttp(worker) as direct,
    ):
        for method, path, more in ASKED:
            answers = []
            for client, prefix in ((direct, ""), (http, "/worker")):
                given = {**more, "content": _chunked()} if "chunked" in path else more
                answers.append(shown(await client.request(method, prefix + path, **given)))
            assert answers[0] == answers[1], (method, path)


@asynccontextmanager
async def _under_aiohttp(worker: Worker) -> AsyncIterator[httpx.AsyncClient]:
    runner = web.AppRunner(wake_app(worker))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        await runner.cleanup()


async def _chunked() -> AsyncIterator[bytes]:
    """A body whose length is not told, and more than a route takes."""
    for _ in range(2):
        yield b"x" * 40_000


async def test_a_server_is_named_once(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """The ASGI server says who it is and what time it is, and the mount does not."""
    async with mounted(handlers, make_settings()) as (_, _, http):
        answer = await http.get("/worker/health")

    assert len(answer.headers.get_list("date")) == 1
    assert len(answer.headers.get_list("server")) == 1
    assert "connection" not in answer.headers


async def test_a_hold_is_answered_when_all_is_done(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    async with mounted(handlers, make_settings(wake_mode="held")) as (_, client, http):
        await client.enqueue("work", {"seconds": 0.1})
        answer = await http.post("/worker/wake")

    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["processed"]) == ("drained", 1)


async def test_a_hold_streams_its_progress_while_it_lasts(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line comes while the job runs: the job ends because of it."""
    monkeypatch.setattr(routes, "_PROGRESS_SECONDS", 0.05)
    handlers, go_on = HandlerRegistry(), asyncio.Event()

    @handlers.audio("work")
    async def work(_: Job[Any]) -> None:
        await go_on.wait()

    lines = []
    async with mounted(handlers, make_settings(wake_mode="held")) as (_, client, http):
        await client.enqueue("work")
        accept = {"Accept": "application/x-ndjson"}
        async with http.stream("GET", "/worker/wake", headers=accept) as answer:
            async for line in answer.aiter_lines():
                lines.append(json.loads(line))
                go_on.set()

    assert lines[0]["status"] == "working"
    assert (lines[-1]["status"], lines[-1]["processed"]) == ("drained", 1)


async def test_a_client_that_hangs_up_gives_up_its_hold(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """The connection is closed while a job runs: no request is held, and the job is returned."""
    handlers, started = HandlerRegistry(), asyncio.Event()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        started.set()
        await job.cancelled.wait()

    async with mounted(handlers, make_settings(wake_mode="held")) as (worker, client, http):
        await client.enqueue("work", {})
        call = asyncio.create_task(http.post("/worker/wake"))
        await asyncio.wait_for(started.wait(), 10)
        assert worker.stats()["held"]
        call.cancel()
        await wait_until(
            lambda: worker.stats()["running"] == 0 and not worker.stats()["held"],
            what="the end of the hold",
        )
        await wait_until(lambda: redis.llen(f"bull:{queue_name}:wait"), what="the job's return")


async def test_an_open_page_gets_events(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """Server-sent events come one by one, and the stream ends with the mount."""
    async with mounted(handlers, make_settings()) as (_, client, http):
        events: list[str] = []
        async with http.stream("GET", "/worker/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    events.append(line)
                if line == "event: status" and events.count(line) == 1:
                    await client.enqueue("work", {})
                if line.startswith("data: ") and '"completed"' in line:
                    break

    assert {"event: recent", "event: status"} <= {*events}
    assert events.count("event: recent") == 2


async def test_a_token_is_asked_for(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    async with mounted(handlers, make_settings(wake_token="secret")) as (_, _, http):
        refused = await http.get("/worker/wake")
        passed = await http.get("/worker/wake", headers={"Authorization": "Bearer secret"})

    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert passed.status_code == 202


async def test_the_console_by_itself(make_settings: Callable[..., Settings]) -> None:
    """An ASGI server opens and closes it, and Redis is asked when somebody looks."""
    settings = make_settings(console_actions="on")
    mount = console_asgi(settings, redact=lambda shown: f"no {shown.what}")
    async with served(mount) as http, JobClient(settings) as client:
        job_id = await client.enqueue("work", {"n": 1})
        shown = (await http.get("/api/payload", params={"id": str(job_id)})).json()
        listed = (await http.get("/api/jobs", params={"state": "waiting"})).json()
        order = {"action": "remove", "queue": settings.queues[0], "ids": [str(job_id)]}
        done = await http.post("/api/actions", json=order)

        assert shown["data"] == "no data"
        assert [job["id"] for job in listed["jobs"]] == [job_id]
        assert done.json()["done"] == 1


async def test_what_cant_be_served_is_told_at_once(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigurationError, match="CONVOLAB_WAKE_EMAILS"):
        console_asgi(make_settings(wake_audience="https://h"))


async def test_endpoints_get_the_applications_client(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """And the application can be started again, in another event loop too."""
    settings = make_settings()

    def make() -> FastAPI:
        worker = Worker(handlers, settings)
        api = FastAPI(lifespan=jobs_lifespan(worker, settings=settings))

        @api.post("/work")
        async def add(client: Client) -> dict[str, Any]:
            return {"result": await client.result(await client.enqueue("work", {}), timeout=10)}

        return api

    for _ in range(2):
        async with served(make()) as http:
            assert (await http.post("/work")).json() == {"result": "done"}


async def test_a_client_is_there_in_mounted_applications_and_without_a_server(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings()
    inner = FastAPI()

    @inner.get("/same")
    async def same(client: Client) -> bool:
        return client.settings == settings

    api = FastAPI(lifespan=jobs_lifespan(settings=settings))
    api.mount("/inner", inner)
    api.add_api_route("/same", same)

    async with served(api) as http:
        assert (await http.get("/inner/same")).json() is True
    transport = httpx.ASGITransport(api)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://api") as http,
    ):
        assert (await http.get("/same")).json() is True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(inner), base_url="http://a") as http:
        with pytest.raises(ConfigurationError, match="jobs_lifespan"):
            await http.get("/same")


def _opened_once(mount: AsgiMount) -> int:
    async def ask() -> int:
        transport = httpx.ASGITransport(mount)
        async with mount, httpx.AsyncClient(transport=transport, base_url="http://h") as http:
            await mount.close()
            answers = await asyncio.gather(*[http.get("/api/console") for _ in range(3)])
            return sum(answer.status_code for answer in answers)

    return asyncio.run(ask())


async def test_a_mount_can_be_opened_again_in_another_loop(
    make_settings: Callable[..., Settings],
) -> None:
    mount = console_asgi(make_settings())

    for _ in range(2):
        assert await asyncio.to_thread(_opened_once, mount) == 3 * 200


# what a server can't do for us


def streaming(handler: Any) -> AsgiMount:
    app = web.Application()
    app.router.add_get("/", handler)
    return AsgiMount(lambda: app)


SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}


async def test_an_answer_waits_for_its_reader() -> None:
    """What is not sent yet is bounded, however much the route writes."""
    written, go_on = 0, asyncio.Event()
    chunk, chunks = b"x" * 10_000, 100

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal written
        stream = web.StreamResponse()
        await stream.prepare(request)
        for _ in range(chunks):
            await stream.write(chunk)
            written += len(chunk)
        return stream

    sent = bytearray()
    is_full = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            if not is_full.is_set():
                is_full.set()
                await go_on.wait()
            sent.extend(message["body"])

    async with streaming(handler) as mount:
        answering = asyncio.create_task(mount(SCOPE, _never_gone(), send))
        await asyncio.wait_for(is_full.wait(), 10)
        await _settled(lambda: written)
        assert written < 20 * len(chunk)
        go_on.set()
        await asyncio.wait_for(answering, 10)

    assert sent == chunk * chunks


async def test_a_request_that_the_server_gives_up_ends_in_the_route() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with streaming(handler) as mount:
        answering = asyncio.create_task(mount(SCOPE, _never_gone(), _ignore))
        await asyncio.wait_for(started.wait(), 10)
        answering.cancel()
        await asyncio.wait({answering})
        await asyncio.wait_for(ended.wait(), 10)


async def test_what_a_middleware_raises_ends_the_request() -> None:
    """Nobody waits for an answer that can't come, and the server hears of the reason."""

    async def handler(_: web.Request) -> web.Response:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def receive() -> Any:
        raise OSError("no more")  # noqa: EM101, TRY003

    scope = {**SCOPE, "headers": [(b"content-length", b"3")]}
    async with streaming(handler) as mount:
        with pytest.raises(OSError, match="no more"):
            await asyncio.wait_for(mount(scope, receive, _ignore), 10)


async def test_a_header_cant_end_the_head() -> None:
    """Whatever a middleware before us has put there."""
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.headers.get("X"), request.headers.get("Y"), request.query_string))
        return web.Response()

    headers = [(b"x", b"1\r\ny: 2"), (b"connection", b"upgrade"), (b"upgrade", b"h2c")]
    scope = {**SCOPE, "headers": headers, "query_string": b"a=1\r\ny: 3"}
    async with streaming(handler) as mount:
        await mount(scope, _never_gone(), _ignore)

    assert seen == [("1y: 2", None, "a=1\r\ny: 3")]


async def test_a_body_of_unknown_length_that_does_not_come_is_answered(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "_BODY_SECONDS", 0.05)
    monkeypatch.setattr("convolab_worker.server.gate.gate._BODY_SECONDS", 0.05)
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {**SCOPE, "method": "POST", "path": "/api/actions", "server": ("127.0.0.1", 80)}
    async with console_asgi(make_settings()) as mount:
        await mount(scope, _never_gone([b'{"action":'], last=True), send)

    assert statuses == [408]


@pytest.mark.parametrize(
    ("reached_at", "headers", "token", "lines"),
    [
        (("10.0.0.5", 80), [], None, 1),
        (None, [], None, 1),  # a unix socket, behind a proxy
        (("127.0.0.1", 80), [], None, 0),
        (("10.0.0.5", 80), [(b"cookie", b"session=1")], None, 0),
        (("10.0.0.5", 80), [], "secret", 0),
    ],
    ids=["elsewhere", "behind-a-proxy", "loopback", "credentials", "a-token"],
)
async def test_whoever_lets_anybody_in_from_elsewhere_is_told_once(
    make_settings: Callable[..., Settings], reached_at: Any, headers: Any, token: Any, lines: int
) -> None:
    scope = {**SCOPE, "path": "/api/console", "server": reached_at, "headers": headers}
    with capture_logs() as logs:
        async with console_asgi(make_settings(wake_token=token)) as mount:
            for _ in range(2):
                await mount({**scope}, _never_gone(), _ignore)

    told = [(line["log_level"], line["route"]) for line in logs if line["event"] == "server.open"]
    assert told == [("warning", "console")] * lines


async def test_a_websocket_is_refused(make_settings: Callable[..., Settings]) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await console_asgi(make_settings())({"type": "websocket"}, _never_gone(), send)

    assert sent == ["websocket.close"]


def _never_gone(chunks: list[bytes] | None = None, *, last: bool = False) -> Any:
    """A client that sends its body and waits; ``last``: there would be more to come."""
    messages = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks or []
    ] or [{"type": "http.request", "body": b"", "more_body": last}]

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    return receive


async def _ignore(_: Any) -> None:
    return


async def _settled(value: Callable[[], int]) -> None:
    """Let the loop turn until a number stays the same."""
    before = -1
    while before != value():
        before = value()
        for _ in range(50):
            await asyncio.sleep(0)
