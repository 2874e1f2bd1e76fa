"""What nobody runs is said: by the worker, by ``enqueue --wait`` and by ``doctor``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog

from convolab_worker import HandlerRegistry, Job, Settings, Worker
from tests.support.commands import Commands
from tests.support.server import ServerProcess

pytestmark = pytest.mark.asyncio

APP = """
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("speak", queue="elsewhere")
async def speak(job):
    return "spoken"
"""


@pytest_asyncio.fixture
async def commands(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> AsyncIterator[Commands]:
    """The command line on a server of the test's own, with a handler of another queue."""
    (tmp_path / "jobs.py").write_text(APP, encoding="utf-8")
    commands = Commands(tmp_path, start_server(durable=True).url, "jobs")
    yield commands
    await commands.close()


async def test_a_worker_warns_of_a_handler_that_none_of_its_queues_reaches(
    make_settings: Callable[..., Settings],
) -> None:
    handlers = HandlerRegistry()

    @handlers.audio("speak", queue="elsewhere")
    async def speak(job: Job[Any]) -> None:
        del job

    @handlers.audio("sing")
    async def sing(job: Job[Any]) -> None:
        del job

    settings = make_settings()
    with structlog.testing.capture_logs() as logs:
        async with Worker(handlers, settings):
            pass

    (warned,) = [line for line in logs if line["event"] == "handler.unreachable"]
    assert (warned["log_level"], warned["names"], warned["queue"]) == (
        "warning", ["speak"], "elsewhere",
    )  # fmt: skip
    assert warned["queues"] == list(settings.queues)
    assert ".speak:" in warned["handler"]


async def test_waiting_for_a_job_that_nobody_starts_says_so(commands: Commands) -> None:
    """After a second; of a paused queue it says that."""
    waiting = await commands.start("enqueue", "speak", "--wait")
    assert "no worker is listening on jobs" in await waiting.until("no worker")
    await commands.run("queue", "pause")
    paused = await commands.start("enqueue", "speak", "--wait")
    assert "jobs is paused: convolab-worker queue resume" in await paused.until("is paused")


async def test_doctor_finds_jobs_without_a_worker_and_handlers_without_a_queue(
    commands: Commands,
) -> None:
    """On queues that nobody has named, too."""
    await commands.run("enqueue", "speak", "--queue", "misspelt")

    _, out, _ = await commands.run("doctor", "--json", "--app", "jobs:handlers")

    found = {each["check"]: (each["verdict"], each["found"]) for each in json.loads(out)}
    assert found["queue misspelt, workers"] == (
        "warning", "1 job waits, and no worker is connected",
    )  # fmt: skip
    assert found["handlers"][0] == "warning"
    assert "no queue of jobs reaches" in found["handlers"][1]
    assert "(queue elsewhere)" in found["handlers"][1]
