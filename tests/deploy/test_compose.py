"""What compose.yaml starts, started without Docker: its commands and variables, on loopback."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientConnectionError, ClientSession

from tests.support.markdown import ROOT
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_PATIENCE_SECONDS = 60.0
_PROGRAMS = {
    "convolab-worker": [sys.executable, "-m", "convolab_worker"],
    "python": [sys.executable],
}


@pytest.fixture
def start(server_url: str, queue_name: str, tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Start a service of compose.yaml as a process; its port."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())[
        "services"
    ]
    ports = {name: free_port() for name in ("worker", "api")}
    hosts = {"redis://redis:6379": server_url, "worker:8080": f"127.0.0.1:{ports['worker']}"}
    hosts |= {"0.0.0.0": "127.0.0.1", "/lessons": str(tmp_path)}  # noqa: S104 - what is replaced

    def here(text: object) -> str:
        for there, local in hosts.items():
            text = str(text).replace(there, local)
        return str(text)

    with ExitStack() as stack:

        def start_one(name: str) -> int:
            service = services[name]
            words: list[str] = service.get("entrypoint", ["convolab-worker"])
            words = words + service.get("command", [])
            variables = {key: here(value) for key, value in service["environment"].items()}
            process = stack.enter_context(
                subprocess.Popen(
                    [*_PROGRAMS[words[0]], *words[1:]],
                    cwd=ROOT,
                    env={
                        **os.environ,
                        **variables,
                        "PORT": str(ports[name]),
                        "CONVOLAB_PREFIX": queue_name,
                    },
                )
            )
            stack.callback(process.terminate)
            return ports[name]

        yield start_one


@pytest.mark.asyncio
async def test_a_course_that_the_api_is_asked_for_is_made(start: Callable[[str], int]) -> None:
    """The API of compose.yaml adds the job and wakes its worker, which makes the course."""
    worker, api = start("worker"), start("api")
    course = {"courseId": "compose", "language": "es", "dialogueLength": 4}

    async with ClientSession() as session:

        async def answers(url: str) -> bool:
            try:
                async with session.get(url) as answer:
                    return answer.status == 200
            except ClientConnectionError:
                return False

        for url in (f"http://127.0.0.1:{worker}/ready", f"http://127.0.0.1:{api}/docs"):
            await wait_until(lambda: answers(url), timeout=_PATIENCE_SECONDS, what=url)  # noqa: B023
        async with session.post(f"http://127.0.0.1:{api}/courses", json=course) as posted:
            job_id = (await posted.json())["jobId"]
        job: dict[str, Any] = {}

        async def ended() -> bool:
            await asyncio.sleep(0.1)
            async with session.get(f"http://127.0.0.1:{api}/jobs/{job_id}") as answer:
                job.update(await answer.json())
            return job["state"] in ("completed", "failed")

        await wait_until(ended, timeout=_PATIENCE_SECONDS, what="the course")
        async with session.get(f"http://127.0.0.1:{worker}/metrics") as refused:
            status = refused.status

    assert job["state"] == "completed", job
    assert status == 401
