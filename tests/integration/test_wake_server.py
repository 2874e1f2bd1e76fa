"""The wake server over real HTTP: what each route answers, to whom, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import ConfigurationError
from convolab_worker.server import routes
from convolab_worker.server.gate import connections, gate, http_connection
from convolab_worker.server.server import WakeServer
from tests.support.commandstats import counted_commands
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess
from tests.support.serving import raw, serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

Data = dict[str, Any]
ROUTES = ["/wake", "/health", "/healthz", "/ready", "/readyz", "/metrics", "/", "/openapi.json"]


@pytest.fixture
def handlers() -> HandlerRegistry:
    """One handler that sleeps for as long as its job says."""
    registry = HandlerRegistry()

    @registry.audio("work")
    async def work(job: Job[Data]) -> None:
        await asyncio.sleep(job.data.get("seconds", 0))

    return registry


# wake


async def test_a_wake_is_answered_at_once_and_a_hold_when_all_is_done(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """202 straight away; with hold, what came of it."""
    async with serving(handlers, make_settings()) as (_, client, session):
        async with session.get("/wake") as at_once:
            assert at_once.status == 202
            assert await at_once.json() == {"status": "awake", "running": 0}
        await client.enqueue("work", {"seconds": 0.2})
        async with session.post("/wake?hold=30s") as held:
            assert held.status == 200
            assert await held.json() == {
                "status": "drained",
                "processed": 1,
                "failed": 0,
                "remaining": 0,
                "next_due_at": None,
            }


async def test_a_worker_that_works_when_held_holds_by_default(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """As on Cloud Run: the answer comes when the queue is drained."""
    async with serving(handlers, make_settings(wake_mode="held")) as (_, client, session):
        await client.enqueue("work", {"seconds": 0.2})
        async with session.post("/wake") as held:
            assert held.status == 200
            assert (await held.json())["processed"] == 1


@pytest.mark.parametrize("hold", ["x", "", "0", "61m", "-1", "inf", "1&hold=2"])
async def test_a_wrong_hold_is_refused_with_what_was_expected(
    hold: str, handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """400, in JSON, before anything is held."""
    async with (
        serving(handlers, make_settings()) as (_, _, session),
        session.get(f"/wake?hold={hold}") as answer,
    ):
        assert answer.status == 400
        assert "expected a duration from 1s to 1h" in (await answer.json())["error"]


@pytest.mark.parametrize("asked", ["retry=on", None, "retry=off"])
async def test_a_caller_that_repeats_what_failed_comes_back_while_work_remains(
    make_settings: Callable[..., Settings], asked: str | None
) -> None:
    """By the server's setting, unless the request says otherwise; a drain is 200 all the same."""
    go_on = asyncio.Event()
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_: Job[Any]) -> None:
        await go_on.wait()

    by_setting = "off" if asked == "retry=on" else "on"
    settings = make_settings(wake_retry=by_setting)
    query = "" if asked is None else f"&{asked}"
    async with serving(handlers, settings) as (_, client, session):
        await client.enqueue("work")
        async with session.get(f"/wake?hold=1{query}") as early:
            status, body = early.status, await early.json()
        go_on.set()
        async with session.get(f"/wake?hold=10{query}") as late:
            assert (late.status, (await late.json())["status"]) == (200, "drained")
        async with session.get("/wake?hold=1&retry=maybe") as wrong:
            assert (wrong.status, "expected on or off" in await wrong.text()) == (400, True)

    assert body["status"] == "budget"
    assert (status, early.headers.get("Retry-After")) == (
        (200, None) if asked == "retry=off" else (503, "1")
    )


async def test_a_hold_can_stream_its_progress(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line of JSON now and then, and the answer as the last one."""
    monkeypatch.setattr(routes, "_PROGRESS_SECONDS", 0.05)
    async with serving(handlers, make_settings(wake_mode="held")) as (_, client, session):
        await client.enqueue("work", {"seconds": 0.5})
        accept = {"Accept": "application/x-ndjson, application/json;q=0.9"}
        async with session.get("/wake", headers=accept) as answer:
            assert answer.content_type == "application/x-ndjson"
            lines = [json.loads(line) async for line in answer.content]

    assert {"status": "working", "processed": 0, "failed": 0, "running": 1} in lines
    assert (lines[-1]["status"], lines[-1]["processed"]) == ("drained", 1)


async def test_a_client_that_hangs_up_gives_up_its_hold(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """The connection is closed while a job runs: no request is held, and the job is returned."""
    handlers, started = HandlerRegistry(), asyncio.Event()

    @handlers.audio("work")
    async def work(job: Job[Data]) -> None:
        started.set()
        await job.cancelled.wait()

    async with serving(handlers, make_settings(wake_mode="held")) as (worker, client, session):
        await client.enqueue("work", {})
        call = asyncio.create_task(session.post("/wake").__aenter__())
        await asyncio.wait_for(started.wait(), 10)
        call.cancel()
        await wait_until(
            lambda: worker.stats()["running"] == 0 and not worker.stats()["held"],
            what="the end of the hold",
        )
        await wait_until(lambda: redis.llen(f"bull:{queue_name}:wait"), what="the job's return")


async def test_a_hold_without_redis_is_answered_with_503(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
) -> None:
    """Nothing can be counted: an error, not numbers that are made up."""
    server = start_server()
    settings = make_settings(redis_url=server.url, wake_mode="held")
    async with serving(handlers, settings) as (_, _, session):
        server.kill()
        async with session.get("/wake?hold=1s") as answer:
            assert answer.status == 503
            assert "Redis" in (await answer.json())["error"]


# probes


async def test_probes_and_metrics_send_nothing_to_redis(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
) -> None:
    """Every route but /wake answers from memory."""
    settings = make_settings(redis_url=start_server().url, wake_mode="held")
    async with (
        Redis.from_url(settings.redis_url) as redis,
        serving(handlers, settings) as (_, _, session),
    ):
        async with counted_commands(redis) as counts:
            for path in ROUTES[1:] * 3:
                async with session.get(path) as answer:
                    assert answer.status == 200, path
        assert counts.total == 0, counts.calls


async def test_health_is_200_while_redis_is_away_and_ready_is_503(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A restart would not bring Redis back, so that nothing may restart the worker for it."""
    monkeypatch.setattr(routes, "_CHECK_SECONDS", 0.02)
    server = start_server()
    async with serving(handlers, make_settings(redis_url=server.url)) as (worker, _, session):
        server.kill()
        await wait_until(lambda: not worker.health().ready, what="the loss of the connection")
        await asyncio.sleep(20 * 0.02)  # twenty checks; five that fail would be a problem
        async with session.get("/ready") as ready, session.get("/health") as health:
            assert (ready.status, health.status) == (503, 200)
        server.start()
        await wait_until(lambda: worker.health().ready, what="the connection")


async def test_health_answers_503_while_a_handler_blocks_the_loop(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has a thread of its own: it reports the hang while it lasts, and its end."""
    monkeypatch.setattr(routes, "_CHECK_SECONDS", 0.02)
    handlers, release = HandlerRegistry(), threading.Event()
    seen: list[tuple[int, str]] = []

    @handlers.audio("blocks")
    async def blocks(_: Job[Data]) -> None:
        assert release.wait(20), "nobody saw the hang"

    def watch(url: str) -> None:
        try:
            while not seen:
                try:
                    urllib.request.urlopen(url, timeout=10).close()  # noqa: S310 - on loopback
                except urllib.error.HTTPError as error:
                    seen.append((error.code, json.loads(error.read())["problem"]))
        finally:
            release.set()

    async with serving(handlers, make_settings()) as (_, client, session):
        url = f"{session._base_url}/health".replace("//health", "/health")  # noqa: SLF001
        watching = asyncio.create_task(asyncio.to_thread(watch, url))
        job_id = await client.enqueue("blocks", {})
        await client.result(job_id, timeout=30)
        await watching
        assert seen[0][0] == 503
        assert "event loop has not turned" in seen[0][1]

        await wait_until(lambda: _status(session, "/health", 200), what="health")


async def test_health_answers_503_while_the_loop_that_fetches_jobs_is_stuck(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop turns; one turn of the other asks for thirty due times, and takes seconds."""
    monkeypatch.setattr(routes, "_CHECK_SECONDS", 0.02)
    server = start_server()
    proxy = start_proxy(server)
    settings = make_settings(
        redis_url=server.url, queues=tuple(f"q{n}" for n in range(30)), command_timeout=0.5
    )
    async with JobClient(settings) as client:
        for queue in settings.queues:
            await client.enqueue("work", queue=queue, delay=3600)
    async with serving(handlers, settings.replace(redis_url=proxy.url)) as (worker, _, session):
        await wait_until(lambda: worker.stats()["idle"]["until"], what="the blocking read")
        proxy.delay(0.1)
        worker.wake()
        await wait_until(lambda: _status(session, "/health", 503), what="ill health")

        proxy.delay(0)
        await wait_until(lambda: _status(session, "/health", 200), what="health")


async def _status(session: Any, path: str, status: int) -> bool:
    async with session.get(path) as answer:
        return bool(answer.status == status)


async def test_metrics_are_the_workers(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """A job that ran is in them, and Prometheus's parser reads them."""
    async with serving(handlers, make_settings(wake_mode="held")) as (_, client, session):
        await client.enqueue("work", {})
        async with session.get("/wake"), session.get("/metrics") as answer:
            assert answer.content_type == "text/plain"
            text = await answer.text()

    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["convolab_worker_jobs_total", "audio", "completed"] == 1
    assert values["convolab_worker_drains_total",] == 1
    assert values["convolab_worker_http_requests_total", "wake", "200"] == 1


# who may call


async def test_a_token_is_asked_for(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """/wake, /metrics and / need it; probes do not; it is never in the log."""
    secret = "t0p-s3cret"
    with capture_logs() as logs:
        async with serving(handlers, make_settings(wake_token=secret)) as (_, _, session):
            for path in ("/wake", "/metrics", "/"):
                for header in (None, secret, "Bearer", f"Basic {secret}", f"Bearer {secret}x"):
                    headers = {} if header is None else {"Authorization": header}
                    async with session.get(path, headers=headers) as answer:
                        assert answer.status == 401, (path, header)
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
                        assert "error" in await answer.json()
                headers = {"Authorization": f"bearer {secret}"}
                async with session.get(path, headers=headers) as answer:
                    assert answer.status in {200, 202}, path
            for path in ("/health", "/healthz", "/ready", "/readyz", "/openapi.json"):
                async with session.get(path) as answer:
                    assert answer.status == 200, path

    assert secret not in repr(logs)


@pytest.mark.parametrize(
    ("overrides", "insecure", "host"),
    [
        ({}, False, "127.0.0.1"),
        ({}, True, "0.0.0.0"),  # noqa: S104 - what is asked for
        ({"wake_token": "t0ken"}, False, "0.0.0.0"),  # noqa: S104
        ({"k_service": "worker"}, False, "0.0.0.0"),  # noqa: S104
    ],
)
async def test_without_a_token_only_this_machine_may_call(
    overrides: Data,
    insecure: bool,  # noqa: FBT001
    host: str,
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
) -> None:
    """Loopback, unless Cloud Run stands before it or --insecure says that anybody may."""
    worker = Worker(handlers, make_settings(port=0, **overrides))
    with capture_logs() as logs:
        async with WakeServer(worker, insecure=insecure):
            pass

    assert [line["host"].split(",")[0] for line in logs if "host" in line] == [host]


async def test_a_port_that_is_taken_is_an_error_before_anything_starts(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """The setting is named, with what was expected."""
    async with WakeServer(Worker(handlers, make_settings(port=0))) as server:
        second = WakeServer(Worker(handlers, make_settings(port=server.port)))
        with pytest.raises(ConfigurationError, match=f"PORT={server.port}: expected a port that"):
            await second.__aenter__()


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_start_that_is_cancelled_leaves_no_thread(
    turns: int, handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """And no port: whoever cancelled it need not call __aexit__."""
    server = WakeServer(Worker(handlers, make_settings(port=0)))
    starting = asyncio.create_task(server.__aenter__())
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
        await server.__aexit__()

    threads = [thread for thread in threading.enumerate() if thread.name == "convolab-server"]
    for thread in threads:
        await asyncio.to_thread(thread.join, 5)
    assert not [thread for thread in threads if thread.is_alive()]


# limits


async def test_a_client_with_too_many_requests_is_told_when_to_come_back(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """429 with Retry-After; probes have no limit."""
    async with serving(handlers, make_settings(wake_rate=2)) as (_, _, session):
        answers = []
        for _ in range(10):
            async with session.get("/wake") as answer:
                answers.append((answer.status, answer.headers.get("Retry-After")))
        assert set(answers) == {(202, None), (429, "1")}
        async with session.get("/health") as health:
            assert health.status == 200

    assert 4 <= answers.count((202, None)) < 10


async def test_errors_are_json_and_every_answer_has_the_security_headers(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """404 and 405 like all other errors; headers for browsers; no version of any software."""
    async with serving(handlers, make_settings()) as (_, _, session):
        async with session.get("/nowhere") as unknown, session.delete("/wake") as wrong:
            assert (unknown.status, wrong.status) == (404, 405)
            assert await unknown.json() == {"error": "/nowhere: no such route"}
            assert await wrong.json() == {"error": "DELETE: expected GET, POST"}
            assert wrong.headers["Allow"] == "GET,POST"
        for path in (*ROUTES, "/nowhere"):
            async with session.get(path) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Server"] == "convolab-worker"


async def test_bodies_and_headers_that_are_too_large_are_refused(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """A body is refused by its stated or its real length; the server goes on."""
    async with WakeServer(Worker(handlers, make_settings(port=0))) as server:
        assert server.port is not None
        # By hand: a client that is still writing when the server hangs up may miss the answer.
        head = b"POST /wake HTTP/1.1\r\nHost: localhost\r\n"
        chunks = 17 * (b"1000\r\n" + b"x" * 4096 + b"\r\n")
        for rest in (
            b"Content-Length: 100000\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        ):
            answered = await raw(server.port, head + rest)
            assert answered.startswith(b"HTTP/1.1 413 ")
            assert b"expected 65536 bytes" in answered
        async with ClientSession(f"http://127.0.0.1:{server.port}") as session:
            async with session.get("/wake", headers={"X-Long": "x" * 20_000}) as answer:
                assert answer.status == 400
            async with session.post("/wake", data=b"x" * 60_000) as answer:
                assert answer.status == 202


async def test_slow_clients_are_cut_off(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head that does not end closes the connection; a body that does not come is a 408."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(gate, "_BODY_SECONDS", 0.2)
    async with WakeServer(Worker(handlers, make_settings(port=0))) as server:
        assert server.port is not None
        assert await raw(server.port, b"") == b""
        assert await raw(server.port, b"GET /wake HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") == b""
        slow = await raw(
            server.port, b"POST /wake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"
        )
        assert slow.startswith(b"HTTP/1.1 408 ")


async def test_who_does_not_read_its_answers_is_cut_off(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers that fill every buffer on the way are not waited for for ever."""
    monkeypatch.setattr(http_connection, "_UNREAD_SECONDS", 0.2)
    page = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(handlers, make_settings(wake_rate=1_000_000)) as (_, _, session):
        base = session._base_url  # noqa: SLF001 - what the session was made with
        assert base is not None
        assert base.port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", base.port, limit=1024)

        async def ask() -> None:
            while True:
                writer.write(100 * page)
                await writer.drain()

        async with asyncio.timeout(20):
            with pytest.raises(ConnectionError):
                await ask()
        writer.close()
        async with session.get("/metrics") as answer:
            # Older versions of aiohttp read on meanwhile, and the client has sent too much.
            dropped = re.findall(r'dropped_total\{reason="(\w+)"\} 1', await answer.text())
        assert dropped in (["unread"], ["overrun"])
        assert not reader.at_eof()


async def test_a_flood_of_wakes_is_one_check_a_second(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
) -> None:
    """A thousand wakes cost commands by the seconds that they took, not by their number."""
    settings = make_settings(
        redis_url=start_server().url, wake_rate=100_000, idle_min=600.0, idle_max=600.0
    )
    async with serving(handlers, settings) as (worker, _, session):
        await wait_until(lambda: worker.stats()["idle"]["until"], what="a wait")
        before = worker.stats()["commands"]["sent"]
        began = asyncio.get_running_loop().time()

        async def call() -> None:
            for _ in range(100):
                async with session.get("/wake") as answer:
                    assert answer.status == 202

        await asyncio.gather(*[call() for _ in range(10)])
        seconds = asyncio.get_running_loop().time() - began
        sent = worker.stats()["commands"]["sent"] - before

    assert 1 <= sent <= seconds + 2
