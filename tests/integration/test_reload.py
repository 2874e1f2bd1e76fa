"""run --reload: the worker follows its sources, and ends with its supervisor."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from convolab_worker import JobClient
from convolab_worker.cli.main import main
from tests.support.commands import TIMEOUT, Commands
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

JOBS = """
import asyncio, os, pathlib
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("who")
async def who(job):
    return ["VERSION", os.getpid()]

@handlers.audio("slow")
async def slow(job):
    pathlib.Path("started").touch()
    while not pathlib.Path("finish").exists():
        await asyncio.sleep(0.01)
    return "VERSION"
"""


def write(folder: Path, version: str) -> None:
    """Write the application anew."""
    (folder / "jobs.py").write_text(JOBS.replace("VERSION", version), encoding="utf-8")


@pytest_asyncio.fixture
async def commands(tmp_path: Path, server_url: str, queue_name: str) -> AsyncIterator[Commands]:
    """Commands in a folder with version "one" of an application."""
    write(tmp_path, "one")
    commands = Commands(tmp_path, server_url, queue_name)
    yield commands
    await commands.close()


async def who(client: JobClient) -> list[Any]:
    """Which version runs, in which process."""
    answer: list[Any] = await client.result(await client.enqueue("who"), TIMEOUT)
    return answer


def is_alive(pid: int) -> bool:
    """Whether a process of that id is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_change_starts_the_worker_again_and_running_jobs_finish(
    commands: Commands, client: JobClient, tmp_path: Path
) -> None:
    """A job that runs when its source changes ends in the old code; the next runs in the new."""
    process = await commands.start("run", "--reload", "--app", "jobs:handlers", "-c", "2")
    await process.until("worker.started")
    first = await who(client)
    slow = await client.enqueue("slow")
    await wait_until((tmp_path / "started").exists, timeout=TIMEOUT, what="the slow job")

    write(tmp_path, "two")
    said = await process.until("reload: ")
    await process.until("worker.stopping")
    (tmp_path / "finish").touch()
    await process.until("worker.started")
    second = await who(client)
    process.send(signal.SIGINT)
    code, _, errors = await process.ended()

    assert said.strip() == "reload: jobs.py changed"
    assert (first[0], second[0]) == ("one", "two")
    assert await client.result(slow, TIMEOUT) == "one"
    assert (await client.status(slow)).attempts_made == 1
    assert code == 0, errors
    assert not any(is_alive(pid) for pid in (first[1], second[1]))


async def test_an_error_in_the_source_is_shown_and_the_next_change_waited_for(
    commands: Commands, client: JobClient, tmp_path: Path
) -> None:
    """The worker's own message, then a remark; mended, it works again."""
    process = await commands.start("run", "--reload", "--app", "jobs:handlers")
    await process.until("worker.started")

    (tmp_path / "jobs.py").write_text("def broken(:\n", encoding="utf-8")
    await process.until("SyntaxError")
    ended = await process.until("reload: the worker ended")
    write(tmp_path, "mended")
    await process.until("worker.started")
    version, pid = await who(client)
    process.send(signal.SIGTERM)
    code, _, _ = await process.ended()

    assert ended.strip() == "reload: the worker ended with 2; waiting for a change"
    assert version == "mended"
    assert code == 0
    assert not is_alive(pid)


async def test_ctrl_c_ends_it_while_nothing_runs(commands: Commands, tmp_path: Path) -> None:
    """A broken application is left with one Ctrl-C."""
    (tmp_path / "jobs.py").write_text("import no_such_module\n", encoding="utf-8")
    process = await commands.start("run", "--reload", "--app", "jobs:handlers")
    await process.until("waiting for a change")

    process.send(signal.SIGINT)
    code, _, _ = await process.ended()

    assert code == 0


async def test_a_private_server_outlives_the_restarts(commands: Commands, tmp_path: Path) -> None:
    """With --embedded, jobs that wait are there after a change."""
    process = await commands.start("run", "--reload", "--embedded", "--app", "jobs:handlers")
    url = (await process.until("export REDIS_URL=")).strip().partition("=")[2]
    await process.until("worker.started")

    write(tmp_path, "two")
    await process.until("worker.started")
    queue = commands.queue
    async with JobClient(redis_url=url, queues=(queue,)) as client:
        version, _ = await who(client)
    process.send(signal.SIGINT)
    code, _, errors = await process.ended()

    assert version == "two"
    assert "REDIS_URL" not in errors.partition("reload:")[2]
    assert code == 0


async def test_without_watchfiles_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)

    code = main(["run", "--reload", "--app", "jobs:handlers"])

    assert code == 2
    assert 'pip install "convolab_worker[reload]"' in capsys.readouterr().err
