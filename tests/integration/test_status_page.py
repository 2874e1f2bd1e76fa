"""The status page: what it shows is true, costs Redis nothing, and is behind the token."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, Settings
from convolab_worker.telemetry.recent_runs import RecentRun
from tests.support.commandstats import counted_commands
from tests.support.server import ServerProcess
from tests.support.serving import serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

Data = dict[str, Any]
HTML = {"Accept": "text/html,application/xhtml+xml"}
TOKEN = {"Authorization": "Bearer the-token"}


class Stream:
    """The events that an open page receives."""

    def __init__(self, response: ClientResponse) -> None:
        """Read from ``response``."""
        self._response = response
        self.seen: dict[str, Any] = {}

    async def until(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Read until the events, by name, are as wanted."""
        async with asyncio.timeout(20):
            while not (set(self.seen) >= {"status", "reasons"} and what(self.seen)):
                kind, data = await self._event()
                self.seen[kind] = data
        return self.seen

    async def _event(self) -> tuple[str, Any]:
        fields: dict[str, str] = {}
        async for raw in self._response.content:
            line = raw.decode().rstrip("\n")
            if not line and "event" in fields:
                return fields["event"], json.loads(fields["data"])
            name, _, value = line.partition(": ")
            fields[name] = value
        msg = "the stream ended"
        raise AssertionError(msg)


@asynccontextmanager
async def listening(session: ClientSession) -> AsyncIterator[Stream]:
    """A page that is open."""
    async with session.get("/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield Stream(response)


@pytest.fixture
def gate() -> asyncio.Event:
    """Lets the handlers of ``work`` go on."""
    return asyncio.Event()


@pytest.fixture
def handlers(gate: asyncio.Event) -> HandlerRegistry:
    """A handler that waits, one that fails and one that blocks the loop."""
    registry = HandlerRegistry()

    @registry.audio("work")
    async def work(job: Job[Data]) -> None:
        await job.progress(40)
        await gate.wait()

    @registry.image("fail")
    async def fail(_job: Job[Data]) -> None:
        msg = "no <paint> left"
        raise ValueError(msg)

    @registry.course("block")
    async def block(_job: Job[Data]) -> None:
        threading.Event().wait(4)

    return registry


async def test_a_running_job_is_shown_with_its_progress_and_then_its_outcome(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings], gate: asyncio.Event
) -> None:
    """The events of the page follow the job."""
    async with (
        serving(handlers, make_settings()) as (_, client, session),
        listening(session) as stream,
    ):
        await stream.until(lambda heard: heard["status"]["state"] == "waiting")
        job_id = await client.enqueue("work")

        heard = await stream.until(
            lambda heard: any(job["progress"] == 40 for job in heard["status"]["jobs"])
        )
        [job] = heard["status"]["jobs"]
        assert (job["id"], job["name"], job["kind"], job["attempt"]) == (job_id, "work", "audio", 1)
        assert heard["status"]["state"] == "working"
        gate.set()

        heard = await stream.until(lambda heard: heard["recent"])
        assert heard["recent"][0]["id"] == job_id
        assert heard["recent"][0]["outcome"] == "completed"
        heard = await stream.until(lambda heard: not heard["status"]["jobs"])
        assert heard["status"]["kinds"]["audio"]["outcomes"] == {"completed": 1}


async def test_a_failure_is_shown_with_its_reason(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """The outcome, the reason, and the count of its kind."""
    async with (
        serving(handlers, make_settings()) as (_, client, session),
        listening(session) as stream,
    ):
        await client.enqueue("fail")

        heard = await stream.until(
            lambda heard: heard["recent"] and "image" in heard["status"]["kinds"]
        )
        assert heard["recent"][0]["reason"] == "no <paint> left"
        assert heard["status"]["kinds"]["image"]["outcomes"] == {"failed": 1}


async def test_the_history_and_the_reasons_come_whole_and_then_as_they_grow(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings], gate: asyncio.Event
) -> None:
    """A page that is opened later gets all; one that is open gets what changed."""
    gate.set()
    async with (
        serving(handlers, make_settings()) as (worker, client, session),
        listening(session) as stream,
    ):
        metrics = worker._assemble()[0].executor.metrics  # noqa: SLF001 - an hour passes in it
        hour_ago = time.time() - 3000
        metrics.job_ended(RecentRun(hour_ago, "0", "n", "q", "audio", 1, "completed", 1.0, 0.1))
        heard = await stream.until(lambda heard: heard["history"]["minutes"])
        assert heard["history"]["minutes"][0][1] == {"audio": {"completed": 1}}
        await client.enqueue("fail")
        heard = await stream.until(lambda heard: heard["reasons"])
        assert [one["reason"] for one in heard["reasons"]] == ["no <paint> left"]
        minutes = heard["history"]["minutes"]
        assert [kinds for _, kinds in minutes][-1] == {"image": {"failed": 1}}

        await client.enqueue("work")
        heard = await stream.until(lambda heard: heard["status"]["ended"] == 3)
        async with listening(session) as other:
            whole = await other.until(lambda heard: heard["history"]["minutes"])

    starts = [start for start, _ in heard["history"]["minutes"]]
    assert starts
    assert min(starts) > hour_ago + 60  # what was then is not sent again
    assert len(whole["history"]["minutes"]) >= 2


async def test_open_pages_cost_no_redis_command(
    handlers: HandlerRegistry,
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
) -> None:
    """While pages listen and are loaded, the server runs nothing."""
    server = start_server()
    settings = make_settings(redis_url=server.url, idle_min=60.0, idle_max=60.0)
    async with (
        Redis.from_url(server.url) as redis,
        serving(handlers, settings) as (_, _, session),
        listening(session) as one,
        listening(session) as other,
    ):
        await one.until(lambda heard: heard["status"]["state"] == "waiting")

        async with counted_commands(redis) as counts:
            for _ in range(5):
                async with session.get("/", headers=HTML) as page:
                    assert page.status == 200
            await other.until(lambda heard: heard["status"]["waiting"]["until"])
            async with listening(session) as third:
                await third.until(lambda heard: heard["status"]["state"] == "waiting")

        assert counts.calls == {}


async def test_a_browser_without_a_token_gets_the_page_without_data(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """401 with the page that asks for the token; every other route refuses."""
    async with serving(handlers, make_settings(wake_token="the-token")) as (worker, _, session):
        async with session.get("/", headers=HTML) as page:
            assert page.status == 401
            assert page.headers["WWW-Authenticate"] == "Bearer"
            text = await page.text()
        async with session.get("/", headers={**HTML, **TOKEN}) as page:
            assert page.status == 200
            assert await page.text() == text
        assert worker.settings.queues[0] not in text

        for path in ("/events", "/api/queues", "/"):
            async with session.get(path) as refused:
                assert refused.status == 401
                assert "error" in await refused.json()
        async with session.get("/events", headers=TOKEN) as stream:
            assert stream.status == 200


async def test_the_page_runs_its_own_script_and_style_and_nothing_else(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """The policy names the hashes of what is in the page, and the page needs no more than that."""
    async with (
        serving(handlers, make_settings()) as (_, _, session),
        session.get("/", headers=HTML) as page,
    ):
        policy, text = page.headers["Content-Security-Policy"], await page.text()

    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        [body] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\son\w+=|\sstyle=|https?://(?!www\.w3\.org)|innerHTML", text)


async def test_a_loop_that_is_blocked_is_shown_as_blocked(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """The page is told while it lasts, by the server's own thread."""
    settings = make_settings()
    heard: list[str] = []
    async with serving(handlers, settings) as (worker, client, session):
        base = session._base_url  # noqa: SLF001 - a reader in another thread needs the address
        assert base is not None
        reader = threading.Thread(target=lambda: asyncio.run(_states(str(base), heard)))
        reader.start()
        await wait_until(lambda: heard, what="the first snapshot")
        await client.enqueue("block")
        await wait_until(lambda: worker.stats()["outcomes"].get("completed"), what="the job's end")
        await wait_until(lambda: heard[-1] != "blocked", what="the recovery")
        blocked = "blocked" in heard

    await asyncio.to_thread(reader.join, 10)
    assert blocked
    assert not reader.is_alive()  # the server's end is the stream's end


async def _states(base: str, heard: list[str]) -> None:
    async with ClientSession(base) as session, session.get("/events") as response:
        event = b""
        async for raw in response.content:
            if raw.startswith(b"event: "):
                event = raw
            elif raw.startswith(b"data: ") and event == b"event: status\n":
                status = json.loads(raw.removeprefix(b"data: "))
                heard.append(status["state"])


async def test_a_sleeping_worker_is_shown_asleep_and_is_not_woken_by_the_page(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """An open page changes nothing."""
    settings = make_settings(sleep_after=0.2, idle_min=30.0, idle_max=30.0)
    async with (
        serving(handlers, settings) as (worker, _, session),
        listening(session) as stream,
    ):
        heard = await stream.until(lambda heard: heard["status"]["state"] == "asleep")

        assert not heard["status"]["connected"]
        assert worker.stats()["phase"] == "asleep"
