"""Node's API adds jobs of all four kinds and waits; a real worker process runs them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from tests.interop.session import NodeSession
from tests.support.commands import Commands
from tests.support.markdown import ROOT

SCENARIO = "an API waits for its jobs"
KINDS = {
    "generate-audio": "audio-generation",
    "generate-dialogue": "dialogue-generation",
    "generate-image": "image-generation",
    "generate-course": "course-generation",
}


@asynccontextmanager
async def worker_process(server_url: str, prefix: str) -> AsyncIterator[None]:
    """``convolab_worker run`` on the application's four queues, as an operator starts it."""
    commands = Commands(ROOT, server_url, ",".join(KINDS.values()))
    worker = await commands.start(
        *("run", "--app", "tests.interop.app:handlers"),
        CONVOLAB_PREFIX=prefix,
        CONVOLAB_PROGRESS_INTERVAL="0",
    )
    try:
        yield
    finally:
        code, _, errors = await worker.stopped()
    assert code == 0, errors


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def seen(session: NodeSession, server_url: str) -> dict[str, Any]:
    """What the API saw of each kind's jobs, by job name."""
    prefix = f"api-{uuid.uuid4().hex[:10]}"
    await session.ask("stage", scenario=SCENARIO, prefix=prefix)
    try:
        async with worker_process(server_url, prefix):
            await session.ask("drive", timeout=60, scenario=SCENARIO, prefix=prefix)
        snapshot = await session.ask("snapshot", scenario=SCENARIO, prefix=prefix)
    finally:
        await session.ask("forget", prefix=prefix)
    return {**snapshot["observed"], "api": snapshot["api"]}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_of_each_kind_gives_node_its_result(seen: dict[str, Any], name: str) -> None:
    """``waitUntilFinished`` resolves with what the handler returned, the job's data unharmed."""
    result = seen[name]["result"]

    assert result["name"] == name
    assert result["data"].keys() & {"episodeId", "courseId"}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_of_each_kind_shows_node_its_progress(seen: dict[str, Any], name: str) -> None:
    """QueueEvents get the last progress, of a job that works and of one that fails."""
    assert seen[name]["worked"][-1] == {"percent": 100}
    assert seen[name]["broke"][-1] == 40


@pytest.mark.parametrize(("name", "queue"), KINDS.items())
@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_of_each_kind_gives_node_the_reason_of_its_failure(
    seen: dict[str, Any], name: str, queue: str
) -> None:
    """``waitUntilFinished`` rejects with the handler's own message, after the job's attempts."""
    failed = seen["api"][queue]["jobs"]["2"]

    assert seen[name]["reason"] == f"no {name}: 日本語"
    assert failed["state"] == "failed"
    assert failed["job"]["failedReason"] == seen[name]["reason"]
    assert failed["job"]["attemptsMade"] == 2
    assert len(failed["job"]["stacktrace"]) == 2
    assert failed["job"]["stacktrace"][0].startswith("Traceback")
