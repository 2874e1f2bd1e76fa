"""``run --wake`` as a process: started, called, told to stop, as a platform does it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from convolab_worker import JobClient, Settings
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

TIMEOUT = 30.0
GRACE = 1.5
JOBS = """
import asyncio
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("work")
async def work(job):
    await asyncio.sleep(job.data.get("seconds", 0))
"""


class Service:
    """A worker service that runs, with its log and its port."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Read the log up to that event."""
        assert self.process.stderr is not None
        while True:
            line = await asyncio.wait_for(self.process.stderr.readline(), TIMEOUT)
            assert line, f"ended without {event}: {self.log}"
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]

    async def session(self) -> ClientSession:
        """Somebody to call it."""
        port = (await self.until("server.listening"))["port"]
        return ClientSession(f"http://127.0.0.1:{port}")


class Services:
    """Starts worker services for one test."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self, *flags: str, **variables: str) -> Service:
        """Start one on a free port."""
        settings = self._settings
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "convolab_worker", "run", "--app", "jobs:handlers", *flags),
            cwd=self._folder,
            env={
                **os.environ,
                "REDIS_URL": settings.redis_url,
                "CONVOLAB_QUEUES": settings.queues[0],
                "CONVOLAB_SHUTDOWN_GRACE": f"{GRACE}s",
                "LOG_FORMAT": "json",
                "PORT": "0",
                **variables,
            },
            stderr=asyncio.subprocess.PIPE,
        )
        self._running.append(process)
        return Service(process)

    async def end(self) -> None:
        """Kill what still runs."""
        for process in self._running:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest_asyncio.fixture
async def services(tmp_path: Path, server_url: str, queue_name: str) -> AsyncIterator[Services]:
    """Services of this test's own queue."""
    (tmp_path / "jobs.py").write_text(JOBS)
    services = Services(tmp_path, Settings(redis_url=server_url, queues=(queue_name,)))
    yield services
    await services.end()


async def test_a_stop_answers_who_holds_and_is_over_in_time(
    services: Services, server_url: str, queue_name: str
) -> None:
    """On SIGTERM /ready turns 503, the hold is answered with what is left, the exit is clean."""
    service = await services.start("--wake", K_SERVICE="worker")
    settings = Settings(redis_url=server_url, queues=(queue_name,))
    async with JobClient(settings) as client, await service.session() as session:
        await client.enqueue("work", {"seconds": 60})
        holding = asyncio.create_task(_json(session, "/wake"))
        await service.until("job.started")
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await wait_until(lambda: _is(session, "/ready", 503), what="unreadiness")
        status, answer = await holding
        code = await asyncio.wait_for(service.process.wait(), TIMEOUT)
        seconds = time.monotonic() - began

    assert status == 200
    assert (answer["status"], answer["processed"], answer["remaining"]) == ("budget", 0, 1)
    assert code == 0
    assert seconds < GRACE + 1 + 2  # and two for a machine that is busy with other tests


async def test_on_cloud_run_work_is_held_and_elsewhere_it_is_not(
    services: Services, server_url: str, queue_name: str
) -> None:
    """K_SERVICE makes the difference, unless the mode is said."""
    settings = Settings(redis_url=server_url, queues=(queue_name,))
    async with JobClient(settings) as client:
        for variables, status in (
            ({"K_SERVICE": "worker"}, 200),
            ({}, 202),
            ({"K_SERVICE": "worker", "CONVOLAB_WAKE_MODE": "background"}, 202),
            ({"CONVOLAB_WAKE_MODE": "held"}, 200),
        ):
            service = await services.start("--wake", **variables)
            async with await service.session() as session:
                job_id = await client.enqueue("work", {})
                assert (await _json(session, "/wake"))[0] == status, variables
                await client.result(job_id, timeout=TIMEOUT)
            service.process.terminate()
            await service.process.wait()


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        ([], {"CONVOLAB_SLEEP_AFTER": "1m"}, "CONVOLAB_SLEEP_AFTER is for the wake server"),
        (["--insecure"], {}, "--insecure is for the wake server: expected --wake beside it"),
        (["--wake", "--burst"], {}, "--wake is for a worker that goes on"),
        (["--wake"], {"CONVOLAB_WAKE_AUDIENCE": "https://x"}, "expected CONVOLAB_WAKE_EMAILS"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    flags: list[str], variables: dict[str, str], message: str, services: Services
) -> None:
    """Exit code 2 and one line that says what was expected."""
    service = await services.start(*flags, **variables)
    _, errors = await asyncio.wait_for(service.process.communicate(), TIMEOUT)

    assert message in errors.decode().splitlines()[-1]
    assert service.process.returncode == 2


async def _json(session: ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    async with session.get(path) as answer:
        return answer.status, await answer.json()


async def _is(session: ClientSession, path: str, status: int) -> bool:
    async with session.get(path) as answer:
        return answer.status == status
