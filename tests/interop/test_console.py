"""The console in a real browser: every view, every action, by keyboard, under a path prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from convolab_worker import HandlerRegistry, Job, JobClient, Settings
from convolab_worker.errors import UnrecoverableError
from convolab_worker.server import console_app
from tests.interop.test_status_page import Browser, browsing
from tests.support.browser import chromium
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
    assert "in speak" in await page.shows("#job-body pre.application")
    await page.ask("press", name="retry")
    await wait_until(lambda: _failed(client, 2), what="one that is completed")
    await page.ask("reload")
    await page.shows("#job-body", "completed")


async def _looks_at_all_views(page: Browser, queue: str, folder: Path) -> list[Data]:
    await page.ask("follow", name="Costs")
    await page.shows("#purposes tbody tr")
    looks = []
    for view, selector, text in (
        ("queues", "#queue-list tbody tr", "2 failed"),
        ("jobs", "#found tbody tr", "no voice"),
        (f"job?queue={queue}&id=épisode-2-🎧", "#job-body", "recorded steps"),
        ("handlers", "#handler-list tbody tr", "300 s"),
        ("schedules", "#schedule-list tbody tr", "0 3 * * * in Europe/Berlin"),
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
            await page.shows("#said", "for 52 commands")
            assert len(await page.ask("rows", table="#found")) == 50
            await page.ask("press", name="Older jobs")
            await page.shows("#found tbody tr", "j0")
            assert len(await page.ask("rows", table="#found")) == 60
            await page.ask("type", selector="#look-text", text="日本語 42")
            await page.shows("#found tbody tr", "j42")
            await page.shows("#said", "Jobs read")
            assert len(await page.ask("rows", table="#found")) == 1
            assert await page.ask("buttons", selector="#all-actions") == []
            assert await page.ask("faults") == []
    finally:
        await runner.cleanup()
