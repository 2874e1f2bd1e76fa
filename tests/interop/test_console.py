"""The console in a real browser: every view, every action, by keyboard, under a path prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings
from convolab_worker.errors import UnrecoverableError
from convolab_worker.server import ConsoleServer, console_app
from tests.interop.test_status_page import Browser, browsing
from tests.support.browser import chromium
from tests.support.failed_jobs import add_failed
from tests.support.node import NodeScripts
from tests.support.serving import serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

Data = dict[str, Any]


def speaking() -> HandlerRegistry:
    """A handler that fails for good after a step, until its job is tried a third time."""
    handlers = HandlerRegistry()

    @handlers.audio("speak", timeout=300)
    async def speak(job: Job[Data]) -> str:
        await job.step("speech", lambda: "spoken")
        if job.starts < 3:
            msg = f"<b>no voice</b> for chapter {job.data['chapter']}"
            raise UnrecoverableError(msg)
        return "spoken"

    return handlers


async def test_an_operator_finds_out_why_jobs_failed_and_retries_them(
    node: NodeScripts, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """From the queues to a job and back, by keyboard, at a desk and on a phone in the dark."""
    chromium()
    settings = make_settings(console_actions="on")
    async with (
        serving(speaking(), settings) as (_, client, session),
        browsing(node, session, tmp_path) as page,
    ):
        for n in range(3):
            await client.enqueue("speak", {"chapter": n}, job_id=f"épisode-{n}-🎧")
        await client.schedule("nightly", "speak", {}, cron="0 3 * * *", tz="Europe/Berlin")
        await wait_until(lambda: _failed(client, 3), what="three failures")
        await page.ask("open", width=1200, scheme="light")
        await page.shows("#recent tbody tr", "failed")
        await _reads_the_chart(page)

        await _pauses_and_resumes(page, client)
        await _retries_a_group(page, client)
        await _reads_and_retries_one(page, client)
        await _edits_and_runs_again(page, client)
        looks = await _looks_at_all_views(page, client.settings.queues[0], tmp_path)
        faults = await page.ask("faults")

    assert faults == []
    assert [look["injected"] for look in looks] == [0] * 5
    assert [look["unnamed"] for look in looks] == [[]] * 5
    assert [look["overflow"] for look in looks] == [0] * 5


async def _reads_the_chart(page: Browser) -> None:
    """By the arrow keys, and in a table."""
    await page.shows("#reasons tbody tr", "no voice")
    assert "audio" in await page.shows("#kinds tbody tr", "audio")
    told = await page.ask("key", selector="#history svg", key="End")
    if "failed or retried" not in told:  # a minute has just begun
        told = await page.ask("key", selector="#history svg", key="ArrowLeft")
    assert "audio 3 failed or retried" in told
    assert "nothing" in await page.ask("key", selector="#history svg", key="Home")
    await page.ask("press", name="last day")
    assert "audio 3 failed or retried" in await page.ask("key", selector="#history svg", key="End")
    await page.ask("key", selector="#history summary", key="Enter")
    await page.shows("#history table tbody tr", "3")


async def _pauses_and_resumes(page: Browser, client: JobClient) -> None:
    await page.ask("follow", name="Queues")
    assert "3 failed" in await page.shows("#queue-list tbody tr", client.settings.queues[0])
    await page.shows("#said", "Queues read, for")
    await page.ask("press", name="pause")
    await page.ask("press", name="Yes")
    await page.shows("#queue-list tbody tr", "paused")
    await page.ask("press", name="resume")
    await page.shows("#queue-list tbody tr", "open")
    assert (await client.queues())[0].paused is False


async def _retries_a_group(page: Browser, client: JobClient) -> None:
    await page.ask("follow", name="3 failed")
    await page.shows("#found tbody tr", "no voice")
    await page.ask("press", name="Group failures by reason")
    await page.shows("#groups tbody tr", "retry 3 jobs")
    await page.ask("press", name="retry 3 jobs")
    await page.ask("press", name="Yes")
    await wait_until(lambda: _failed(client, 3, starts=2), what="three failures again")


async def _reads_and_retries_one(page: Browser, client: JobClient) -> None:
    await page.ask("follow", name="Jobs")
    await page.shows("#found tbody tr", "no voice")
    await page.ask("follow", name="épisode-1-🎧")
    told = await page.shows("#job-body", "recorded steps")
    assert "<b>no voice</b> for chapter 1" in told
    assert '"chapter": 1' in told
    assert f"--queue '{client.settings.queues[0]}'" in told
    await page.ask("press", name="When each run began and ended (2 to 5 commands)")
    assert "failed" in await page.shows("#job-body table tbody tr")
    assert "in speak" in await page.shows("#job-body pre.application")
    await page.ask("press", name="retry")
    await wait_until(lambda: _failed(client, 2), what="one that is completed")
    await page.ask("reload")
    await page.shows("#job-body", "completed")


async def _edits_and_runs_again(page: Browser, client: JobClient) -> None:
    await page.ask("expand", selector="#job-body details:last-of-type")
    await page.ask("fill", selector="#job-body textarea", text='{"chapter": 9007199254740993')
    await page.ask("press", name="Add as a new job")
    await page.shows("#job-body [role=alert]", "data: ")
    await page.ask("fill", selector="#job-body textarea", text='{"chapter": 77}')
    await page.ask("press", name="Add as a new job")
    await page.shows("#job-body pre", '"chapter": 77')
    await wait_until(lambda: _has_chapter(client, 77), what="the job that was added")


async def _has_chapter(client: JobClient, chapter: int) -> bool:
    return chapter in [job.data.get("chapter") async for job in client.jobs()]


async def _looks_at_all_views(page: Browser, queue: str, folder: Path) -> list[Data]:
    await page.ask("follow", name="Costs")
    await page.shows("#purposes tbody tr")
    looks = []
    for view, selector, text in (
        ("queues", "#queue-list tbody tr", "3 failed"),
        ("jobs", "#found tbody tr", "no voice"),
        (f"job?queue={queue}&id=épisode-2-🎧", "#job-body", "recorded steps"),
        ("handlers", "#handler-list tbody tr", "5 min"),
        ("schedules", "#schedule-list tbody tr", "at 03:00, in Europe/Berlin"),
    ):
        await page.ask("open", width=360, scheme="dark", hash=view)
        await page.shows(selector, text)
        looks.append(await page.ask("look", picture=str(folder / f"{view[:4]}.png")))
    return looks


async def _failed(client: JobClient, count: int, starts: int = 1) -> bool:
    found = [job async for job in client.jobs("failed")]
    return len(found) == count and all(job.starts >= starts for job in found)


async def test_it_works_under_a_path_without_a_worker_and_read_only(
    node: NodeScripts, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """No live part, no button that acts, and a search that says what it cost."""
    chromium()
    settings = make_settings()
    async with JobClient(settings) as client:
        await client.enqueue_many(
            {"name": "speak", "data": {"text": f"日本語 {n}"}, "job_id": f"j{n}"} for n in range(60)
        )
        await client.enqueue("write", {"text": "x" * 5_000_000}, job_id="large", delay=900)
    app = web.Application()
    app.add_subapp("/ops/console", console_app(settings))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}/ops/console/"
    try:
        async with ClientSession(base) as session, browsing(node, session, tmp_path) as page:
            await page.ask("open", width=1200, scheme="light")
            await page.shows("#state", "no worker")
            await page.ask("follow", name="60 waiting")
            await page.shows("#found tbody tr", "j59")
            await page.shows("#said", "for 54 commands")
            await page.shows("#found-count", "50 jobs shown of 60")
            assert len(await page.ask("rows", table="#found")) == 50
            await page.ask("press", name="Older jobs")
            await page.shows("#found tbody tr", "j0")
            assert len(await page.ask("rows", table="#found")) == 60
            await page.ask("fill", selector="#look-text", text="日本語 42")
            await page.shows("#price", "60 of 60 jobs, and costs up to 80 commands")
            await page.ask("type", selector="#look-text", text="日本語 42")
            await page.shows("#found tbody tr", "j42")
            await page.shows("#said", "Jobs read")
            assert len(await page.ask("rows", table="#found")) == 1
            assert await page.ask("buttons", selector="#all-actions") == []
            await _searches_any_state_and_downloads_what_is_large(page)
            assert await page.ask("faults") == []
    finally:
        await runner.cleanup()


async def _searches_any_state_and_downloads_what_is_large(page: Browser) -> None:
    await page.ask("choose", selector="#look-state", value="any")
    await page.ask("type", selector="#look-name", text="speak")
    await page.shows("#found tbody tr", "waiting")
    await page.ask("type", selector="#open-id", text="large")
    await page.shows("#job-body", "The first 20,000 of 5,000,")
    file = await page.ask("download", name="Download data and result")
    assert (file["name"], len(file["text"]) > 5_000_000) == ("large.json", True)


def busy(gate: asyncio.Event) -> HandlerRegistry:
    """A handler that waits, one that fails, and one that no queue reaches."""
    handlers = speaking()

    @handlers.image("draw", attempts=2, backoff=1.0)
    async def draw(job: Job[Data]) -> None:
        await job.progress({"pct": 20, "step": "sketch"})
        await gate.wait()

    @handlers.dialogue("tell", queue="elsewhere")
    async def tell(_job: Job[Data]) -> None: ...

    return handlers


LOOKS = [(width, scheme) for scheme in ("light", "dark") for width in (1280, 390, 820)]


@pytest.mark.parametrize(
    "looks_at_each", [1, pytest.param(len(LOOKS), marks=pytest.mark.long)], ids=["once", "all"]
)
async def test_axe_finds_no_fault_in_any_view(
    looks_at_each: int,
    node: NodeScripts,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    """Names, roles, contrast, headings and focus, with everything opened that can be."""
    chromium()
    gate, settings = asyncio.Event(), make_settings(console_actions="on", command_budget=5_000)
    async with (
        serving(busy(gate), settings) as (_, client, session),
        browsing(node, session, tmp_path) as page,
    ):
        queue = settings.queues[0]
        await client.enqueue("speak", {"chapter": 1}, job_id="übung-🎧")
        await client.enqueue("draw", job_id="running")
        await client.schedule("nightly", "speak", {}, cron="0 3 * * *", tz="Europe/Berlin")
        await wait_until(lambda: _failed(client, 1), what="a failure")
        faults = {}
        views = {
            "overview": "#reasons tbody tr",
            "queues": "#queue-list tbody tr",
            "jobs": "#found tbody tr",
            f"job?queue={queue}&id=übung-🎧": "#job-body pre.application",
            f"job?queue={queue}&id=running": "#job-body dl",
            "handlers": "#handler-list tbody tr",
            "schedules": "#schedule-list tbody tr",
            "costs": "#purposes tbody tr",
        }
        for place, (view, selector) in enumerate(views.items()):
            for look in range(looks_at_each):
                width, scheme = LOOKS[(5 * place + look) % len(LOOKS)]  # each of them in turn
                await page.ask("open", width=width, scheme=scheme, hash=view)
                await page.shows(selector)
                await page.ask("expand", selector="main section:not([hidden]) details")
                found = await page.ask("look", picture=str(tmp_path / "look.png"))
                faults[view, width, scheme] = [*await page.ask("axe"), *found["unnamed"]]
                assert found["overflow"] == 0, (view, width)
        gate.set()

        assert {where: found for where, found in faults.items() if found} == {}
        assert await page.ask("faults") == []


@pytest.mark.parametrize(
    "count", [1_200, pytest.param(10_000, marks=pytest.mark.long)], ids=["some", "all"]
)
async def test_all_failed_jobs_that_match_are_retried_by_one_question(
    count: int,
    node: NodeScripts,
    make_settings: Callable[..., Settings],
    redis: Redis,
    tmp_path: Path,
) -> None:
    """In batches, with their number and price in the question, and what it cost said at the end."""
    chromium()
    settings = make_settings(console_actions="on")
    queue = await add_failed(redis, settings, count)
    async with (
        ConsoleServer(settings.replace(port=0)) as server,
        ClientSession(f"http://127.0.0.1:{server.port}") as session,
        browsing(node, session, tmp_path) as page,
    ):
        await page.ask("open", width=1280, scheme="light", hash="jobs")
        await page.shows("#found-count", f"50 jobs shown of {count:,}")
        await page.ask("press", name="find all of them (up to 2 commands)")
        await page.shows("#all-actions", f"{count:,} jobs match")
        await page.ask("press", name=f"retry all {count:,}")
        question = f"retry all {count:,} failed jobs of {queue}? That costs about {12 * count:,}"
        await page.shows("#sure-text", question)
        await page.ask("press", name="Yes")
        await page.shows("#said", f"Done: retry, {count:,} of {count:,}, for ")
        await page.shows("#found-none:not([hidden])")
        assert await page.ask("faults") == []

    assert await redis.llen(f"{settings.prefix}:{queue}:wait") == count


async def test_a_page_that_is_open_for_a_day_has_no_more_in_memory_than_after_an_hour(
    node: NodeScripts, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """A day of the stream's events: nodes of the document, and the heap after a collection."""
    chromium()
    run = {
        "name": "speak", "queue": "audio", "kind": "audio", "attempt": 1, "outcome": "failed",
        "duration": 0.5, "waited": 0.1, "reason": "no voice", "id": "1", "at": 0.0,
    }  # fmt: skip
    async with (
        serving(speaking(), make_settings()) as (worker, _, session),
        browsing(node, session, tmp_path) as page,
    ):
        painted = await page.ask("paint", jobs=0)
        await page.ask("open", width=1280, scheme="light")
        await page.shows("#state", "waiting")
        told = await page.ask("day", status=worker.status_snapshot(), run=run)
        faults = await page.ask("faults")

    first, middle, last = told
    assert last["nodes"] <= middle["nodes"] + 100
    assert last["heap"] <= first["heap"] + 1_000_000
    assert {*painted["requests"]} <= {"/api/console", "/events"}  # all else is in the page
    assert faults == []
