"""``run --wake`` as a process: started, called, told to stop, as a platform does it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from convolab_worker import JobClient, Settings
from tests.support.commands import Commands, Process
from tests.support.ports import free_port
from tests.support.stopwatch import Stopwatch
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


class Services:
    """Starts worker services for one test, each on a free port."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.commands = Commands(folder, settings.redis_url, settings.queues[0])

    async def start(self, *flags: str, **variables: str) -> Process:
        """Start one."""
        given = {"CONVOLAB_SHUTDOWN_GRACE": f"{GRACE}s", "PORT": "0", **variables}
        return await self.commands.start("run", "--app", "jobs:handlers", *flags, **given)

    @staticmethod
    async def session(service: Process) -> ClientSession:
        """Make a session with the service as its base, once it listens."""
        port = (await service.event("server.listening"))["port"]
        return ClientSession(f"http://127.0.0.1:{port}")


@pytest_asyncio.fixture
async def services(tmp_path: Path, server_url: str, queue_name: str) -> AsyncIterator[Services]:
    """Services of this test's own queue."""
    (tmp_path / "jobs.py").write_text(JOBS)
    services = Services(tmp_path, Settings(redis_url=server_url, queues=(queue_name,)))
    yield services
    await services.commands.close()


async def test_a_stop_answers_who_holds_and_is_over_in_time(
    services: Services, server_url: str, queue_name: str
) -> None:
    """On SIGTERM /ready turns 503, the hold is answered with what is left, the exit is clean."""
    service = await services.start("--wake", K_SERVICE="worker")
    settings = Settings(redis_url=server_url, queues=(queue_name,))
    async with JobClient(settings) as client, await services.session(service) as session:
        await client.enqueue("work", {"seconds": 60})
        holding = asyncio.create_task(_json(session, "/wake"))
        await service.event("job.started")
        with Stopwatch() as watch:
            service.send(signal.SIGTERM)
            await wait_until(lambda: _is(session, "/ready", 503), what="unreadiness")
            status, answer = await holding
            code, _, _ = await service.ended(TIMEOUT)

    assert status == 200
    assert (answer["status"], answer["processed"], answer["remaining"]) == ("budget", 0, 1)
    assert code == 0
    assert watch.seconds < GRACE + 1 + 2  # and two for a machine that is busy with other tests


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
            async with await services.session(service) as session:
                job_id = await client.enqueue("work", {})
                assert (await _json(session, "/wake"))[0] == status, variables
                await client.result(job_id, timeout=TIMEOUT)
            await service.stopped()


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        ([], {"CONVOLAB_SLEEP_AFTER": "1m"}, "CONVOLAB_SLEEP_AFTER is for the wake server"),
        (["--insecure"], {}, "--insecure is for the wake server: expected --wake with it"),
        (["--console-actions"], {}, "--console-actions is for the wake server"),
        (["--wake", "--burst"], {}, "--wake is for a worker that goes on"),
        (["--wake"], {"CONVOLAB_WAKE_AUDIENCE": "https://x"}, "expected CONVOLAB_WAKE_EMAILS"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    flags: list[str], variables: dict[str, str], message: str, services: Services
) -> None:
    """Exit code 2 and one line that says what was expected."""
    service = await services.start(*flags, **variables)
    code, _, errors = await service.ended(TIMEOUT)

    assert message in errors.splitlines()[-1]
    assert code == 2


SLOW_APP = """
import os, socket

# The test is told that this module is being imported, and says when it may go on.
socket.create_connection(("127.0.0.1", int(os.environ["TEST_GATE"]))).recv(1)

from jobs import handlers
"""


async def test_a_request_that_comes_during_the_imports_waits_and_is_answered(
    services: Services, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_APP)
    importing, may_go_on = asyncio.Event(), asyncio.Event()

    async def gate(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        importing.set()
        await may_go_on.wait()
        writer.write(b".")
        writer.close()

    async with await asyncio.start_server(gate, "127.0.0.1", 0) as gated:
        variables = {"PORT": str(free_port()), "TEST_GATE": str(port_of(gated))}
        await services.commands.start("run", "--app", "slow:handlers", "--wake", **variables)
        await asyncio.wait_for(importing.wait(), TIMEOUT)
        reader, writer = await asyncio.open_connection("127.0.0.1", variables["PORT"])
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        may_go_on.set()
        answer = await asyncio.wait_for(reader.read(), TIMEOUT)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200 OK")


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _json(session: ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    async with session.get(path) as answer:
        return answer.status, await answer.json()


async def _is(session: ClientSession, path: str, status: int) -> bool:
    async with session.get(path) as answer:
        return answer.status == status
