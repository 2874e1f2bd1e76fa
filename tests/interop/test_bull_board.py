"""Bull Board on our worker's queue, in a real browser: what it shows, and what its buttons do."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from convolab_worker import JobClient, Settings, Worker
from tests.interop.app import Behaviour
from tests.support.browser import chromium
from tests.support.node import NodeProcess, NodeScripts
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

PATIENCE = 60.0
CLEANED_AFTER = 5.1  # the board leaves alone what ended in the last 5 s


class Board:
    """A browser that looks at Bull Board, and the client of the same queue."""

    def __init__(self, node: NodeProcess, client: JobClient, pictures: Path) -> None:
        self.ask = node.ask
        self._pictures = pictures
        self.client = client

    async def add(self, *steps: dict[str, Any], **opts: Any) -> str:
        """Add a job of those steps as Node does; its id."""
        job_id: str = await self.ask("add", name="work", data={"do": list(steps)}, opts=opts)
        return job_id

    async def show(self, status: str, *expect: str, tab: str | None = None) -> str:
        """The text of the page of that status, once all that is expected is there."""
        picture = str(self._pictures / f"{status}{f'-{tab}' if tab else ''}.png")
        text: str = await self.ask("show", status=status, tab=tab, expect=expect, picture=picture)
        return text

    async def state(self, job_id: str) -> str:
        """The job's state."""
        return (await self.client.status(job_id)).state

    async def has_none(self, state: str) -> bool:
        """Whether the queue has no job in that state."""
        return (await self.counts())[state] == 0

    async def counts(self) -> dict[str, int]:
        """The queue's jobs by state."""
        return (await self.client.counts())["work"]


@pytest_asyncio.fixture
async def settings(server_url: str) -> Settings:
    """A worker of one slot on the queue "work" under a prefix of the test's own."""
    return Settings(
        redis_url=server_url,
        prefix=f"board-{uuid.uuid4().hex[:10]}",
        queues=("work",),
        worker_name="convolab",
        concurrency=1,
        progress_interval=0.0,
        shutdown_grace=0.0,
    )


@pytest_asyncio.fixture
async def board(
    node: NodeScripts, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Board]:
    """Bull Board in a browser."""
    program, folder = chromium("@bull-board/express"), tmp_path_factory.mktemp("board")
    arguments = (settings.redis_url, settings.prefix, "work", program, str(folder / "profile"))
    async with (
        JobClient(settings) as client,
        await node.start("bull_board.mjs", *arguments) as browser,
    ):
        assert (await browser.receive(timeout=PATIENCE))["url"].startswith("http://127.0.0.1:")
        yield Board(browser, client, folder)


@asynccontextmanager
async def working(
    settings: Settings, *, until: Callable[[dict[str, int]], bool]
) -> AsyncIterator[Worker]:
    """A running worker, once its outcomes satisfy the predicate."""
    handlers = Behaviour(server_url=settings.redis_url, prefix=settings.prefix).registry()
    async with Worker(handlers, settings) as worker:
        await wait_until(lambda: until(outcomes(worker)), timeout=PATIENCE)
        yield worker


def outcomes(worker: Worker) -> dict[str, int]:
    """How many jobs of each outcome the worker has had."""
    return {"completed": 0, "failed": 0, **worker.stats().get("outcomes", {})}


async def test_it_shows_jobs_of_every_state(board: Board, settings: Settings) -> None:
    """Waiting, active, completed, failed with stack trace, progress and log; who ran them."""
    progress, log = {"op": "progress", "value": 40}, {"op": "log", "line": "the first line"}
    await board.add(progress, log, {"op": "fail", "message": "no such voice"})
    await board.add({"op": "return", "value": {"audioUrl": "ä.wav"}})
    await board.add({"op": "progress", "value": 70}, {"op": "gate", "name": "held"})
    await board.add({"op": "return", "value": "later"})
    await board.add({"op": "return", "value": "much later"}, delay=3_600_000)

    async with working(settings, until=lambda done: done["completed"] + done["failed"] == 2):
        failed = await board.show("failed", "RuntimeError: no such voice", "40%")
        logs = await board.show("failed", "the first line", tab="Logs")
        completed = await board.show("completed", "#2", "audioUrl")
        active = await board.show("active", "#3", "70%")
        waiting = await board.show("waiting", "#4")
        delayed = await board.show("delayed", "#5", "Will run at")
        await board.ask("open", gate="held")

    assert "Traceback (most recent call last)" in failed
    assert "in do_fail" in failed
    assert "by convolab" in failed
    assert "[info] the first line" in logs
    assert '"ä.wav"' in completed
    assert "Failed at" not in active
    assert "Process started at" not in waiting
    assert "Process started at" not in delayed


async def test_its_buttons_retry_promote_and_clean(board: Board, settings: Settings) -> None:
    """Each for one job and for all, while our worker runs."""
    flaky = [await board.add({"op": "fail", "message": "once", "until": 1}) for _ in range(3)]
    later = [await board.add({"op": "return", "value": n}, delay=3_600_000 + n) for n in range(3)]
    async with working(settings, until=lambda done: done["failed"] == 3) as worker:
        await board.show("failed", "#3")
        await board.ask("press", name="Retry", at=0)
        await wait_until(lambda: outcomes(worker)["completed"] == 1, timeout=PATIENCE)
        await board.show("failed", "Retry all")
        await board.ask("press", name="Retry all")
        await wait_until(lambda: outcomes(worker)["completed"] == 3, timeout=PATIENCE)
        assert {await board.state(job_id) for job_id in flaky} == {"completed"}

        await board.show("delayed", "#6")
        await board.ask("press", name="Promote", at=0)
        await wait_until(lambda: outcomes(worker)["completed"] == 4, timeout=PATIENCE)
        await board.show("delayed", "Promote all")
        await board.ask("press", name="Promote all")
        await wait_until(lambda: outcomes(worker)["completed"] == 6, timeout=PATIENCE)
        assert {await board.state(job_id) for job_id in later} == {"completed"}

        await board.show("completed", "#6")
        await board.ask("press", name="Clean", at=2)
        await board.show("completed", "Clean all")
        left = (await board.counts())["completed"]
        cleaned_from = time.monotonic() + CLEANED_AFTER
        await wait_until(lambda: time.monotonic() > cleaned_from, timeout=PATIENCE)
        await board.ask("press", name="Clean all")
        await wait_until(lambda: board.has_none("completed"), timeout=PATIENCE)

    assert left == 5
