"""The client's wakes, on a service that answers as each test tells it to."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from redis.asyncio import Redis
from structlog.testing import capture_logs

from convolab_worker import JobClient, Settings
from convolab_worker.client.waking.waker import Waker
from convolab_worker.errors import ConfigurationError
from tests.support.commands import start_python
from tests.support.service import (
    AUDIENCE,
    Answer,
    Held,
    Service,
    identity_token,
    metadata,
    says,
    service,
)

SECRET = "s3cret-t0ken"
MakeSettings = Callable[..., Settings]


def client_of(make_settings: MakeSettings, there: Service, **more: Any) -> JobClient:
    """A client that wakes that service."""
    return JobClient(make_settings(**{"wake_url": there.url, **more}))


@pytest.mark.asyncio
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "one-answer"])
async def test_many_jobs_make_one_wake_and_one_more_after_it(
    make_settings: MakeSettings, redis: Redis, queue_name: str, *, streams: bool
) -> None:
    """Jobs that are added while the service works make one wake together, after its answer."""
    first, second = Held(streams=streams), Held(streams=streams)
    async with service(first, second) as there, client_of(make_settings, there) as client:
        await client.enqueue("work")
        await there.asked(1)
        await asyncio.gather(*[client.enqueue("work") for _ in range(50)])
        during = len(there.requests)
        first.let_go()
        await there.asked(2)
        second.let_go()
        await client.wake_heard(5)

    assert during == 1
    assert len(there.requests) == 2
    assert await redis.llen(f"bull:{queue_name}:wait") == 51


@pytest.mark.asyncio
async def test_jobs_that_are_added_together_share_a_wake(make_settings: MakeSettings) -> None:
    """Those that are added before the request is on its way need none of their own."""
    async with service(says()) as there:
        waker = Waker(make_settings(wake_url=there.url))
        for _ in range(1000):
            waker.wake()
        heard = await waker.heard(5)
        await waker.close()

    assert heard
    assert len(there.requests) == 1


@pytest.mark.asyncio
async def test_no_wake_is_lost_while_another_ends(make_settings: MakeSettings) -> None:
    """A job that is added at any moment of another wake's end makes a request after it."""
    async with service(says()) as there:
        waker = Waker(make_settings(wake_url=there.url))
        for number in range(150):
            requests = len(there.requests)
            waker.wake()
            await there.asked(requests + 1)
            for _ in range(number % 15):  # turns of the loop in which the other ends
                await asyncio.sleep(0)
        await waker.close()


@pytest.mark.asyncio
async def test_nobody_waits_for_a_service_that_does_not_answer(make_settings: MakeSettings) -> None:
    """Jobs are added, and the client closes within moments, whatever the service does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and nobody is there
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/wake"
        client = JobClient(make_settings(wake_url=url))
        for _ in range(20):
            await client.enqueue("work")
        heard = await client.wake_heard(0.05)
        began = time.monotonic()
        await client.close()

    assert not heard
    assert time.monotonic() - began < 5


@pytest.mark.asyncio
async def test_a_failed_wake_is_tried_again(make_settings: MakeSettings) -> None:
    """Busy, broken, cut in the middle: the next attempt is heard, and nothing is logged."""

    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    asked = {"Retry-After": "0"}
    answers = (says(status=503, headers=asked), says(status=429, headers=asked), cut, says())
    async with service(*answers) as there, client_of(make_settings, there) as client:
        with capture_logs() as lines:
            await client.enqueue("work")
            await there.asked(4)
            heard = await client.wake_heard(5)

    assert heard
    assert len(there.requests) == 4
    assert [line for line in lines if line["log_level"] != "debug"] == []


@pytest.mark.asyncio
async def test_wakes_that_fail_are_told_of_once(make_settings: MakeSettings) -> None:
    """One warning for an outage, one line when it is over, the token in neither."""
    broken = says(status=503, headers={"Retry-After": "0"})
    async with service(*[broken] * 10, says()) as there:
        url = there.url.replace("/wake", f"/wake?token={SECRET}")
        client = client_of(make_settings, there, wake_url=url, wake_token=SECRET)
        with capture_logs() as lines:
            async with client:
                for times in (5, 10):
                    await client.enqueue("work")
                    await there.asked(times)
                    assert not await client.wake_heard(5)
                await client.enqueue("work")
                assert await client.wake_heard(5)

    told = [line for line in lines if line["log_level"] != "debug"]
    assert [line["event"] for line in told] == ["wake.failed", "wake.heard_again"]
    assert told[0]["reason"] == "status 503, 5 times"
    assert SECRET not in str(lines)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "headers", "hint"),
    [(401, {}, "CONVOLAB_WAKE_TOKEN"), (302, {"Location": "/elsewhere"}, "redirects")],
)
async def test_a_refusal_is_not_asked_twice(
    make_settings: MakeSettings, status: int, headers: dict[str, str], hint: str
) -> None:
    """A wrong token or address is told of with what to do, and no token is carried elsewhere."""
    async with (
        service(says(status=status, headers=headers)) as there,
        client_of(make_settings, there) as client,
    ):
        with capture_logs() as lines:
            await client.enqueue("work")
            heard = await client.wake_heard(5)

    assert not heard
    assert [request.path for request in there.requests] == ["/wake"]
    assert hint in lines[-1]["hint"]


@pytest.mark.asyncio
async def test_what_a_budget_left_is_waked_for_again(make_settings: MakeSettings) -> None:
    """An answer that names work left brings the next wake at once, without a job added."""
    left = says({"status": "budget", "processed": 2, "remaining": 3})
    done = says({"status": "drained", "processed": 3, "remaining": 0, "next_due_at": None})
    async with service(left, done) as there, client_of(make_settings, there) as client:
        await client.enqueue("work")
        await there.asked(2)


@pytest.mark.asyncio
async def test_a_delayed_job_wakes_when_it_is_due(make_settings: MakeSettings) -> None:
    """Not when it is added; and what its wake's answer says is due next brings the next one."""
    began = time.time()
    at: list[float] = []

    def noting(body: dict[str, Any] | None = None) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            at.append(time.time() - began)
            return await says(body)(request)

        return answer

    first = noting(
        {"status": "drained", "processed": 1, "remaining": 1, "next_due_at": began + 0.8}
    )
    async with service(first, noting()) as there, client_of(make_settings, there) as client:
        await client.enqueue("work", delay=0.8)
        await client.enqueue("work", delay=0.4)
        await there.asked(2)

    assert at[0] >= 0.4
    assert at[1] >= 0.8


@pytest.mark.asyncio
async def test_closing_sends_what_was_not_sent_and_hangs_up(make_settings: MakeSettings) -> None:
    """A job added just before, or while the service works, wakes; its answer is not waited for."""
    holds = [Held(streams=True) for _ in range(3)]
    async with service(*holds) as there:
        async with client_of(make_settings, there) as client:
            await client.enqueue("work")
        await there.asked(1)
        await asyncio.wait_for(holds[0].hung_up.wait(), 10)

        async with client_of(make_settings, there) as client:
            await client.enqueue("work")
            await there.asked(2)
            await client.enqueue("work")
        await there.asked(3)
        await asyncio.wait_for(holds[2].hung_up.wait(), 10)
        for hold in holds:
            hold.let_go()


@pytest.mark.asyncio
async def test_the_token_is_sent_and_the_path_is_added(make_settings: MakeSettings) -> None:
    """An address without a path is the service's own; one with a query keeps it."""
    async with service(says({"status": "drained"})) as there:
        for url in (there.url.removesuffix("/wake"), f"{there.url}?hold=30"):
            async with client_of(make_settings, there, wake_url=url, wake_token=SECRET) as client:
                await client.enqueue("work")

    assert [str(request.rel_url) for request in there.requests] == ["/wake", "/wake?hold=30"]
    assert {request.headers["Authorization"] for request in there.requests} == {f"Bearer {SECRET}"}
    assert {request.method for request in there.requests} == {"POST"}


def test_a_user_in_the_address_beside_a_token_is_an_error() -> None:
    """Only one of them can be sent, and neither is shown."""
    settings = Settings(wake_url=f"http://api:{SECRET}@worker", wake_token=SECRET)

    with pytest.raises(ConfigurationError, match="CONVOLAB_WAKE_URL=") as caught:
        JobClient(settings)

    assert SECRET not in str(caught.value)


# Google's identity tokens, from a metadata server on loopback

ENQUEUES = """
import asyncio
from convolab_worker import JobClient

async def main():
    async with JobClient() as client:
        for _ in range(2):
            await client.enqueue("work")
            assert await client.wake_heard(20)

asyncio.run(main())
"""


async def run_python(*arguments: str, **environ: str) -> str:
    """Run Python to its good end; what it wrote to standard error."""
    code, _, errors = await (await start_python(*arguments, environ=environ)).ended(60)
    assert code == 0, errors
    return errors


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("own_token", "lifetime", "fetched"),
    [("", 3600.0, 1), (SECRET, 3600.0, 1), ("", 200.0, 2)],
    ids=["alone", "beside-a-token", "almost-over"],
)
async def test_googles_token_is_sent_and_kept_until_almost_its_end(
    server_url: str, queue_name: str, own_token: str, lifetime: float, fetched: int
) -> None:
    """It is fetched for the audience once an hour; a token of the service's own goes beside it."""
    token = identity_token(lifetime)
    async with service(metadata(token)) as google, service(says({"status": "drained"})) as there:
        host = google.url.removeprefix("http://").removesuffix("/wake")
        await run_python(
            "-c",
            ENQUEUES,
            REDIS_URL=server_url,
            CONVOLAB_QUEUES=queue_name,
            CONVOLAB_WAKE_URL=there.url,
            CONVOLAB_WAKE_TOKEN=own_token,
            CONVOLAB_WAKE_AUDIENCE=AUDIENCE,
            GCE_METADATA_HOST=host,
            GCE_METADATA_IP=host,
        )

    paths = [request.path.rpartition("/")[2] for request in google.requests]
    assert paths.count("identity") == fetched
    assert len(there.requests) == 2
    for request in there.requests:
        own, googles = request.headers["Authorization"], f"Bearer {token}"
        if own_token:
            assert own == f"Bearer {own_token}"
            assert request.headers["X-Serverless-Authorization"] == googles
        else:
            assert own == googles


@pytest.mark.asyncio
async def test_the_commands_job_wakes_before_it_ends(server_url: str, queue_name: str) -> None:
    """``enqueue`` ends once its wake was heard, and says where it was not."""
    command = ("-m", "convolab_worker", "enqueue", "work")
    where = {"REDIS_URL": server_url, "CONVOLAB_QUEUES": queue_name}
    async with service(Held(streams=True)) as there, service(says(status=404)) as elsewhere:
        quiet = await run_python(*command, **where, CONVOLAB_WAKE_URL=there.url)
        told = await run_python(*command, **where, CONVOLAB_WAKE_URL=elsewhere.url)

    assert len(there.requests) == 1
    assert quiet == ""
    assert "wake.failed" in told
    assert "was not woken" in told


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("command", "wakes"),
    [
        (("failed", "retry", "--all"), 1),
        (("failed", "retry", "--all", "--dry-run"), 0),
        (("failed", "remove", "--all"), 0),
        (("migrate", "--from", "{queue}", "--to", "{queue}-new", "--yes"), 1),
        (("migrate", "--from", "{queue}", "--to", "{queue}-new"), 0),
    ],
    ids=["retry", "retry-dry", "remove", "migrate", "migrate-looking"],
)
async def test_commands_that_put_jobs_into_queues_wake_the_service(
    redis: Redis, server_url: str, queue_name: str, command: tuple[str, ...], wakes: int
) -> None:
    """A service that sleeps runs what was retried, or moved."""
    await redis.hset(
        f"bull:{queue_name}:1",
        mapping={"name": "work", "data": "{}", "opts": "{}", "failedReason": "x", "atm": 1},
    )
    await redis.zadd(f"bull:{queue_name}:failed", {"1": time.time() * 1000})
    arguments = [part.format(queue=queue_name) for part in command]
    async with service(says()) as there:
        told = await run_python(
            *("-m", "convolab_worker", *arguments),
            REDIS_URL=server_url,
            CONVOLAB_QUEUES=queue_name,
            CONVOLAB_WAKE_URL=there.url,
        )

    assert len(there.requests) == wakes, told


@pytest.mark.asyncio
async def test_a_retry_that_nobody_hears_says_so(
    redis: Redis, server_url: str, queue_name: str
) -> None:
    """The jobs are back in their queues, but nothing may run them."""
    await redis.hset(
        f"bull:{queue_name}:1",
        mapping={"name": "work", "data": "{}", "opts": "{}", "failedReason": "x", "atm": 1},
    )
    await redis.zadd(f"bull:{queue_name}:failed", {"1": time.time() * 1000})
    async with service(says(status=404)) as elsewhere:
        told = await run_python(
            *("-m", "convolab_worker", "failed", "retry", "--all"),
            REDIS_URL=server_url,
            CONVOLAB_QUEUES=queue_name,
            CONVOLAB_WAKE_URL=elsewhere.url,
        )

    assert "the jobs were retried, but the worker service was not woken" in told
