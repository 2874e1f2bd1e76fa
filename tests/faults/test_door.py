"""A wake server that strangers attack: what they send, how often, and how many they are."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from convolab_worker import JobClient, Settings
from tests.faults.door import fuzz, soak
from tests.faults.door.target import Crowd, Target
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

SECRET = "s3cret-t0ken"
MALFORMED = b"GET /\x00 HTTP/1.1\r\n\r\n"


@pytest.fixture
def target(server_url: str, queue_name: str, tmp_path: Path) -> Callable[..., Target]:
    """Start a worker with its wake server, on the test's own queue."""

    def start(**given: str) -> Target:
        return Target(server_url, queue_name, tmp_path / "log", **given)

    return start


@pytest.fixture
def client_of(server_url: str, queue_name: str) -> JobClient:
    """A producer for that queue."""
    return JobClient(Settings(redis_url=server_url, queues=(queue_name,)))


@asynccontextmanager
async def crowd(target: Target) -> AsyncIterator[Crowd]:
    crowd = Crowd(target.port)
    try:
        yield crowd
    finally:
        crowd.leave()


# connections


@pytest.mark.parametrize("descriptors", ["256", "1024"])
async def test_a_thousand_silent_sockets_leave_the_handlers_their_descriptors(
    descriptors: str, target: Callable[..., Target], client_of: JobClient
) -> None:
    """A handler that opens twenty files completes, probes are answered, and the log is calm."""
    async with target(descriptors=descriptors) as server, client_of as client:
        async with crowd(server) as strangers:
            await strangers.join(1010)
            ids = [await client.enqueue("open-files", {}) for _ in range(3)]
            assert [await client.result(job_id, timeout=20) for job_id in ids] == [20] * 3
            assert [(await server.get("/healthz")).status for _ in range(20)] == [200] * 20
            metrics = await server.metrics()

        limit = int(descriptors) // 2 - 32
        assert metrics["http_connections_limit",] == limit
        assert metrics["http_connections",] <= limit
        assert metrics["http_connections_dropped_total", "crowded"] >= 1010 - limit
        assert not server.troubles()
        assert len(server.process.events("server.crowded")) == 1


async def test_the_soft_limit_is_raised_where_the_hard_one_allows(
    target: Callable[..., Target],
) -> None:
    async with target(descriptors="-Sn 256") as server:
        assert (await server.metrics())["http_connections_limit",] == 1000


async def test_idle_connections_shut_nobody_out(target: Callable[..., Target]) -> None:
    """Sockets that asked once and stay go first, the longest idle before others."""
    async with target(descriptors="256") as server, crowd(server) as strangers:
        probe = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await strangers.join(300, probe, reads=True)
        assert [(await server.get("/readyz")).status for _ in range(95)] == [200] * 95
        metrics = await server.metrics()

    assert metrics["http_connections_dropped_total", "crowded"] >= 300 - 96
    assert server.process.events("server.crowded")[0]["limit"] == 96


async def test_probes_are_answered_while_every_place_is_held(
    target: Callable[..., Target], client_of: JobClient
) -> None:
    """Held requests are never dropped for others: who comes then may only probe."""
    async with target(descriptors="256") as server, client_of as client:
        await client.enqueue("work", {"seconds": 60})
        await server.process.says("job.started")
        async with crowd(server) as holders:
            hold = b"GET /wake?hold=1m HTTP/1.1\r\nHost: localhost\r\n"
            await holders.join(96, hold + b"Accept: application/x-ndjson\r\n\r\n", reads=True)
            assert [(await server.get("/healthz")).status for _ in range(20)] == [200] * 20
            refused = await server.get("/wake")

    assert refused.status == 503
    assert refused.headers["retry-after"] == "5"


# what never becomes a request


async def test_a_flood_of_malformed_requests_is_one_line(target: Callable[..., Target]) -> None:
    """Each is answered in JSON, without the versions of any software, and counted."""
    async with target(CONVOLAB_WAKE_RATE="100000") as server:
        before = len(server.process.text())
        for _ in range(300):
            (answer,) = await server.send(MALFORMED)
            assert (answer.status, answer.error) == (400, "the request is not valid HTTP")
            assert answer.headers["server"] == "convolab-worker"
        assert (await server.metrics())["http_requests_total", "malformed", "400"] == 300

    assert len(server.process.events("server.malformed")) == 1
    assert len(server.process.text()) - before < 500


async def test_malformed_requests_count_for_the_limit(target: Callable[..., Target]) -> None:
    async with target(CONVOLAB_WAKE_RATE="2") as server:
        statuses = [(await server.send(MALFORMED))[0].status for _ in range(10)]

    assert statuses[0] == 400
    assert statuses[-1] == 429


async def test_no_headers_value_is_written(target: Callable[..., Target]) -> None:
    """A control byte next to a token is refused without quoting the line."""
    async with target(CONVOLAB_WAKE_TOKEN=SECRET) as server:
        for line in (
            f"Authorization: Bearer {SECRET}\x01",
            f"Authorization\x00: Bearer {SECRET}",
            f"Authorization : Bearer {SECRET}",
            f"X: \x7f\x00\r\nAuthorization: Bearer {SECRET}",
            f"Expect: {SECRET}",
            f"Content-Length: {SECRET}",
        ):
            data = f"POST /wake HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n"
            answers = await server.send(data.encode("latin-1"), half_close=True)
            assert [answer.status for answer in answers] in ([400], [401]), line
            assert all(SECRET.encode() not in answer.body for answer in answers), line

    assert SECRET not in server.process.text()


async def test_expect_is_answered_behind_the_gate(target: Callable[..., Target]) -> None:
    """A stranger is told nothing but 401; whoever may pass learns what was expected, or goes on."""
    async with target(CONVOLAB_WAKE_TOKEN=SECRET) as server:
        token = f"Authorization: Bearer {SECRET}"
        for value in ("\xbd", "foo", "100-continue"):
            for path, status in (("/wake", 401), ("/nowhere", 404 if value[0] == "1" else 417)):
                answer = await server.get(path, f"Expect: {value}", method="POST")
                assert (answer.status, bool(answer.error)) == (status, True), (path, value)
        assert (await server.get("/wake", token, "Expect: \xbd")).status == 417
        metrics = await server.metrics(token)
        data = f"POST /wake HTTP/1.1\r\nHost: localhost\r\n{token}\r\nConnection: close\r\n"
        body = "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"
        assert [one.status for one in await server.send((data + body).encode())] == [202]

    assert metrics["http_requests_total", "wake", "401"] == 3
    assert metrics["http_requests_total", "wake", "417"] == 1
    assert not server.troubles()


async def test_a_refusal_says_whether_the_connection_goes_on(target: Callable[..., Target]) -> None:
    """It closes where the body was not read, and a client that goes on would get no answer."""
    head = b"POST /wake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
    whole = b"POST /wake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
    async with target(CONVOLAB_WAKE_TOKEN=SECRET) as server:
        for rest in (b"", b"x" * 1000):
            (answer,) = await server.send(head + rest)
            assert (answer.status, answer.headers.get("connection")) == (401, "close"), rest[:1]
        first, second = await server.send(whole + head)

    assert (first.status, first.headers.get("connection")) == (401, None)
    assert (second.status, second.headers.get("connection")) == (401, "close")


async def test_what_frames_a_body_counts_as_the_body(target: Callable[..., Target]) -> None:
    """Chunk extensions, trailers and what follows an upgrade are bounded, and so is gzip."""
    head = b"POST /wake HTTP/1.1\r\nHost: localhost\r\n"
    chunk = b"1;" + b"x" * 8000 + b"\r\na\r\n"
    bomb = gzip.compress(b"x" * 1_000_000)
    async with target() as server:
        for rest in (
            b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 40,
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: x\r\n" * 50_000,
            b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + b"x" * 400_000,
            b"X: y\r\n" * 50_000,
        ):
            taken = await _taken(server, head + rest)
            assert taken < len(head + rest), rest[:40]
        length = f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n".encode()
        (answer,) = await server.send(head + b"Connection: close\r\n" + length + b"\r\n" + bomb)
        assert answer.status == 202
        metrics = await server.metrics()

    assert metrics["http_requests_total", "wake", "413"] >= 1
    assert not server.troubles()


async def _taken(server: Target, data: bytes) -> int:
    """Send slowly; return how many bytes went out before the server hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    taken = 0
    try:
        for at in range(0, len(data), 8192):
            writer.write(data[at : at + 8192])
            await writer.drain()
            taken = at
            if reader.at_eof():
                break
            await asyncio.sleep(0.002)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return taken


async def test_mutated_requests_get_answers_of_ours(target: Callable[..., Target]) -> None:
    """Two thousand, as raw bytes: each answer is ours, below 500, counted, and no trouble."""
    variables = {"CONVOLAB_WAKE_TOKEN": fuzz.TOKEN, "CONVOLAB_WAKE_RATE": "1000000"}
    async with target(**variables) as server:
        seen = await fuzz.check(server, seed=20, requests=2000)

    assert {200, 202, 400, 401, 404, 417} <= set(seen)


# who may call, and how often


async def test_web_pages_of_others_are_refused_on_loopback(target: Callable[..., Target]) -> None:
    """By their origin, and by a name that was made to lead here; our own page is not."""
    async with target() as server:
        for path in ("/wake", "/wake?hold=1s", "/events", "/metrics", "/", "/api/jobs", "/health"):
            for header in (
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Site: same-site",
                "Origin: http://attacker.example",
                "Origin: null",
                f"Origin: http://localhost:{server.port + 1}",
            ):
                answer = await server.get(path, header)
                assert answer.status == 403, (path, header)
                assert "CONVOLAB_WAKE_TOKEN" in answer.error
            data = f"GET {path} HTTP/1.1\r\nHost: attacker.example\r\n\r\n"
            (answer,) = await server.send(data.encode())
            assert answer.status == 403, path
        own = f"Host: 127.0.0.1:{server.port}\r\nOrigin: http://127.0.0.1:{server.port}\r\n"
        more = "Sec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n"
        (answer,) = await server.send(f"GET /api/queues HTTP/1.1\r\n{own}{more}".encode())
        assert answer.status == 200


async def test_a_forwarded_address_counts_once(target: Callable[..., Target]) -> None:
    """Behind a front end its own line counts, the last one, whatever stands before it."""
    variables = {"K_SERVICE": "worker", "CONVOLAB_WAKE_MODE": "background"}
    async with target(CONVOLAB_WAKE_RATE="5", **variables) as server:
        statuses = [
            (
                await server.get(
                    "/wake", f"X-Forwarded-For: 9.9.9.{number}", "X-Forwarded-For: 1.2.3.4"
                )
            ).status
            for number in range(14)
        ]
        invented = [
            (await server.get("/wake", f"X-Forwarded-For: {number}{'x' * 7500}")).status
            for number in range(14)
        ]

    assert statuses.count(202) < 14
    assert invented.count(202) < 14


async def test_a_flood_of_probes_is_slowed_and_never_refused(
    target: Callable[..., Target],
) -> None:
    """One connection has its burst at once, and then four a second."""
    async with target(CONVOLAB_WAKE_RATE="10") as server:
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        began, answered = time.monotonic(), 0
        while time.monotonic() - began < 1.5:
            writer.write(request)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(16)
            answered += 1
        writer.close()

    assert answered < 40 + 20 * 2 + 4 * 2


async def test_who_half_closes_gets_its_answer(target: Callable[..., Target]) -> None:
    """Also on the second of two requests, and where a body does not come to its end."""
    async with target() as server:
        for path, status in (("/healthz", 200), ("/wake", 202), ("/metrics", 200)):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            answers = await server.send(2 * request, half_close=True)
            assert [answer.status for answer in answers] == [status, status], path
        cut = b"POST /wake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"
        (answer,) = await server.send(cut, half_close=True)
        assert answer.status == 400


async def test_a_held_worker_at_rest_tells_that_redis_is_lost(
    start_server: Callable[..., ServerProcess], queue_name: str, tmp_path: Path
) -> None:
    """Once, and not when it closes its connections by itself."""
    redis = start_server()
    variables = {"CONVOLAB_WAKE_MODE": "held", "CONVOLAB_SLEEP_AFTER": "1h"}
    async with Target(redis.url, queue_name, tmp_path / "log", **variables) as server:
        await wait_until(lambda: _is_ready(server), what="readiness")
        redis.kill()
        lost = await server.process.says("redis.lost")

    assert lost["level"] == "warning"
    assert len(server.process.events("redis.lost")) == 1


async def _is_ready(server: Target) -> bool:
    return (await server.get("/readyz")).status == 200


async def test_a_held_worker_counts_every_job_while_its_server_is_attacked(
    server_url: str, tmp_path: Path
) -> None:
    """Two seconds of ``make soak-door``: the counts are exact, and nothing is left open."""
    account = await soak.soak(server_url, tmp_path / "log", seconds=2, seed=20)

    assert soak.verdict(account) == [], soak.table(account)
