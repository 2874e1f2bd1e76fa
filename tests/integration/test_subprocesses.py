"""Programs that handlers start: they end with their jobs, and what is left behind is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import JobFailed
from tests.support.processes import all_gone, is_alive
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
SOON = 10.0
# It ignores SIGTERM, and so does what it has started.
STUBBORN = ("sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60")
Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]


async def test_a_program_runs_to_its_end_like_any_other(running: Running) -> None:
    """In the loop and in a thread, with a group of its own and the options of Python's own."""
    handlers = HandlerRegistry()

    @handlers.audio("loop")
    async def loop(job: Job[Any]) -> list[Any]:
        async with job.subprocess("cat", stdin=-1, stdout=-1) as cat:
            out, _ = await cat.communicate("é😀".encode())
        return [out.decode(), cat.returncode, os.getpgid(0) != cat.pid]

    @handlers.audio("thread")
    def thread(job: Job[Any]) -> list[Any]:
        with job.subprocess("cat", stdin=-1, stdout=-1, text=True) as cat:
            out, _ = cat.communicate("é😀")
        return [out, cat.returncode, os.getpgid(0) != cat.pid]

    async with running(handlers) as (_, client):
        for name in ("loop", "thread"):
            assert await client.result(await client.enqueue(name), SOON) == ["é😀", 0, True]


@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
@pytest.mark.parametrize("how", ["time-out", "stop", "error"])
async def test_a_program_ends_with_its_job(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    threaded: bool,  # noqa: FBT001
    how: str,
) -> None:
    """Whatever ends the job, and whatever the program thinks of SIGTERM."""
    monkeypatch.setattr("convolab_worker.handlers.job.subprocesses._END_SECONDS", 0.2)
    handlers, pids = HandlerRegistry(), list[int]()
    programs: list[asyncio.subprocess.Process] = []
    started, loop = asyncio.Event(), asyncio.get_running_loop()
    timeout = 0.3 if how == "time-out" else None

    @handlers.audio("loop", timeout=timeout)
    async def in_loop(job: Job[Any]) -> None:
        async with job.subprocess(*STUBBORN, stdout=-1) as program:
            assert program.stdout is not None
            pids.extend([program.pid, int(await program.stdout.readline())])
            programs.append(program)
            started.set()
            if how == "error":
                raise ValueError
            await program.wait()

    @handlers.audio("thread", timeout=timeout)
    def in_thread(job: Job[Any]) -> None:
        with job.subprocess(*STUBBORN, stdout=-1, text=True) as program:
            assert program.stdout is not None
            pids.extend([program.pid, int(program.stdout.readline())])
            loop.call_soon_threadsafe(started.set)
            if how == "error":
                raise ValueError
            while not job.cancelled.is_set():
                time.sleep(0.01)

    async with running(handlers, shutdown_grace=0.05) as (_, client):
        job_id = await client.enqueue("thread" if threaded else "loop")
        await asyncio.wait_for(started.wait(), SOON)
        if how != "stop":
            with pytest.raises(JobFailed):
                await client.result(job_id, SOON)

    await all_gone(pids)
    for program in programs:
        await program.wait()  # or the loop is closed before it hears of the end


async def test_what_a_handler_leaves_of_its_own_programs_is_killed_and_told(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is abandoned never leaves its block: its programs end all the same."""
    monkeypatch.setattr("convolab_worker.worker.execution.handler_call.PATIENCE_SECONDS", 0.1)
    handlers, pids, release = HandlerRegistry(), list[int](), asyncio.Event()
    ended = asyncio.Event()

    @handlers.audio("hang", timeout=1.5)  # the program has started by then
    async def hang(job: Job[Any]) -> None:
        async with job.subprocess(*STUBBORN, stdout=-1) as program:
            assert program.stdout is not None
            pids.extend([program.pid, int(await program.stdout.readline())])
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
        ended.set()

    async with running(handlers) as (_, client):
        with capture_logs() as lines, pytest.raises(JobFailed, match="was abandoned"):
            await client.result(await client.enqueue("hang"), SOON)
        await all_gone(pids)
        release.set()
        await asyncio.wait_for(ended.wait(), SOON)

    (left,) = [line for line in lines if line["event"] == "job.subprocess_left"]
    assert (left["killed"], left["running"]) == ([f"sh (pid {pids[0]})"], [])


@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
async def test_a_time_out_that_leaves_another_program_behind_says_so(
    running: Running,
    threaded: bool,  # noqa: FBT001
) -> None:
    """One that was started without the helper: which it is, in the log and in the job's reason."""
    handlers, left = HandlerRegistry(), list[subprocess.Popen[bytes]]()

    @handlers.audio("loop", timeout=0.2)
    async def in_loop(_job: Job[Any]) -> None:
        left.append(subprocess.Popen(["sleep", "60"]))  # noqa: ASYNC220
        await asyncio.Event().wait()

    @handlers.audio("thread", timeout=0.2)
    def in_thread(job: Job[Any]) -> None:
        left.append(subprocess.Popen(["sleep", "60"]))
        while not job.cancelled.is_set():
            time.sleep(0.01)

    async with running(handlers) as (_, client):
        with capture_logs() as lines, pytest.raises(JobFailed) as failed:
            await client.result(await client.enqueue("thread" if threaded else "loop"), SOON)
    left[0].kill()
    left[0].wait()

    program = f"sleep (pid {left[0].pid})"
    assert failed.value.reason.endswith(f"its time-out of 0.2 s; left running: {program}")
    (told,) = [line for line in lines if line["event"] == "job.subprocess_left"]
    assert (told["killed"], told["running"]) == ([], [program])


APP = """
import multiprocessing
import time

from convolab_worker import HandlerRegistry, Job

handlers = HandlerRegistry()


@handlers.audio("loop")
async def in_loop(job: Job[dict]) -> None:
    async with job.subprocess(*job.data["command"]) as program:
        open(job.data["notes"], "w").write(str(program.pid))
        await program.wait()


@handlers.audio("forks")
def forks(job: Job[dict]) -> None:
    with job.subprocess(*job.data["command"]) as program:
        fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=[3])
        fork.start()
        open(job.data["notes"], "w").write(str(program.pid))
        program.wait()


@handlers.audio("process", process=True)
def in_process(job: Job[dict]) -> None:
    with job.subprocess(*job.data["command"]) as program:
        open(job.data["notes"], "w").write(str(program.pid))
        program.wait()
"""


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("loop", "kill"),
        ("process", "kill"),
        ("forks", "kill"),
        ("loop", "stop"),
        ("process", "stop"),
    ],
)
async def test_a_worker_that_ends_leaves_no_program(
    make_settings: Callable[..., Settings], client: JobClient, tmp_path: Path, name: str, how: str
) -> None:
    """Killed or stopped; also in uvloop, which the command line uses where it is installed.

    A fork of the worker, which lives for some seconds longer, keeps nothing alive.
    """
    settings, notes = make_settings(), tmp_path / "notes"
    (tmp_path / "programs_app.py").write_text(APP)
    command = [
        *(sys.executable, "-m", "convolab_worker", "run", "--app", "programs_app:handlers"),
        *("--redis-url", settings.redis_url, "--queue", settings.queues[0]),
    ]
    environment = {**os.environ, "CONVOLAB_SHUTDOWN_GRACE": "100ms"}
    with subprocess.Popen(  # noqa: ASYNC220
        command, stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment
    ) as worker:
        await client.enqueue(name, {"notes": str(notes), "command": STUBBORN})
        await wait_until(lambda: notes.exists() and notes.read_text())
        pid = int(notes.read_text())
        assert is_alive(pid)

        worker.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)

    await wait_until(lambda: not is_alive(pid), timeout=2)
