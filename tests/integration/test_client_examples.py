"""examples/clients: the programs that add jobs, with a worker that runs them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.testclient import TestClient

from convolab_worker import Settings, Worker
from examples.clients import fastapi_app
from examples.clients.jobs import SPEAK, handlers
from tests.support.commands import start_python
from tests.support.markdown import ROOT
from tests.support.ports import free_port
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
EXPECTED = {"seconds": 0.6}


@pytest_asyncio.fixture
async def settings(start_server: Callable[..., ServerProcess]) -> AsyncIterator[Settings]:
    """A server of the test's own with the examples' worker, and its settings."""
    settings = Settings(redis_url=start_server().url, queues=("speeches",))
    async with Worker(handlers, settings):
        yield settings


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send a request, with a body as JSON; return the answer's status and JSON."""
    method = "GET" if body is None else "POST"
    answer = httpx.request(method, url, json=body, headers=headers, timeout=20)
    return answer.status_code, answer.json()


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn forks")
async def test_flask_under_gunicorn_that_forks_a_loaded_app(settings: Settings) -> None:
    """Two processes with eight threads each share what one process has made."""
    port = free_port()
    gunicorn = await start_python(
        *("-m", "gunicorn", "--preload", "--workers", "2", "--threads", "8"),
        *("--bind", f"127.0.0.1:{port}", "examples.clients.flask_app:app"),
        cwd=ROOT,
        environ={"REDIS_URL": settings.redis_url},
    )
    url = f"http://127.0.0.1:{port}/speeches"

    def use(number: int) -> tuple[int, Any]:
        return ask(url, {"text": "Guten Tag"}, **{"Idempotency-Key": f"k-{number % 20}"})

    try:
        for _ in range(2):
            await gunicorn.until("Booting worker")
        with ThreadPoolExecutor(16) as threads:
            loop = asyncio.get_running_loop()
            answers = await asyncio.gather(
                *[loop.run_in_executor(threads, use, number) for number in range(60)]
            )
        assert {status for status, _ in answers} == {202}
        assert len({answer["id"] for _, answer in answers}) == 20
        assert sum(not answer["existed"] for _, answer in answers) == 20

        async def is_done() -> bool:
            _, told = await asyncio.to_thread(ask, f"{url}/k-3")
            return bool(told["result"] == EXPECTED)

        await wait_until(is_done, what="the job's end")
        assert (await asyncio.to_thread(ask, f"{url}/nowhere"))[0] == 404
        assert (await asyncio.to_thread(ask, url, {"words": 1}))[0] == 422
    finally:
        await gunicorn.stopped()


async def test_fastapi_from_both_kinds_of_endpoints(settings: Settings) -> None:
    """The app lives in a thread of TestClient's, and the worker in the test's event loop."""
    fastapi_app.app.state.settings = settings

    def use() -> None:
        with TestClient(fastapi_app.app) as http, ThreadPoolExecutor(8) as threads:
            spoken = http.post("/speeches/spoken", json={"text": "Guten Tag"})
            assert (spoken.status_code, spoken.json()) == (200, EXPECTED)
            paths = ["/speeches", "/speeches/from-a-thread"] * 16
            added = list(threads.map(lambda path: http.post(path, json={"text": "x"}), paths))
            assert {answer.status_code for answer in added} == {202}
            told = http.get(f"/speeches/{added[0].json()['id']}")
            assert told.status_code == 200
            assert http.get("/speeches/nowhere").status_code == 404

    await asyncio.to_thread(use)


async def test_a_script_that_waits_for_results(settings: Settings) -> None:
    program = await start_python(
        *("-m", "examples.clients.script", "Guten Tag", "Hi"),
        cwd=ROOT,
        environ={"REDIS_URL": settings.redis_url},
    )

    assert await program.ended() == (0, "0.6 s  Guten Tag\n0.1 s  Hi\n", "")
    assert SPEAK.queue == "speeches"
