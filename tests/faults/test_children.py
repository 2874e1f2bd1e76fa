"""Processes that handlers start, and signals: to one of them, to the group, to process 1."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import Bench
from tests.support.markdown import ROOT
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

PYTHON = [sys.executable, "-m", "convolab_worker"]
AS_FIRST = ["unshare", "--pid", "--fork", "--kill-child", *PYTHON]


WITHOUT_STREAMS = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PYTHON]


class Command:
    """A command as a process of a group of its own, and what it writes."""

    def __init__(self, bench: Bench, command: list[str], log: Path, **environ: str) -> None:
        self.log = log
        url = bench.settings().redis_url
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*command, "--redis-url", url, "--queue", bench.queue],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    async def ends(self, within: float) -> int:
        """Wait for the end of the process; its exit code."""
        return await asyncio.to_thread(self.process.wait, within)

    def first_child(self) -> int:
        """The command under unshare: process 1 of its namespace."""
        return _children(self.process.pid)[0]

    def close(self) -> None:
        """End what is left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(safe_bench: Bench, tmp_path: Path) -> Iterator[Any]:
    """Start commands, by default a worker whose handlers start processes."""
    started: list[Command] = []

    def begin(
        *arguments: str,
        first: bool = False,
        program: list[str] = PYTHON,
        log: Path | None = None,
        **environ: str,
    ) -> Command:
        command = [*(AS_FIRST if first else program), *(arguments or ("run", "--app", APP))]
        log = tmp_path / f"log-{len(started)}" if log is None else log
        one = Command(safe_bench, command, log, **environ)
        started.append(one)
        return one

    yield begin
    for one in started:
        one.close()


APP = "tests.faults.forking_app:handlers"


def _result(bench: Bench, job_id: str) -> Any:
    return json.loads(bench.field(job_id, "returnvalue") or "null")


async def test_children_of_handlers_end_as_any_other_program_does(
    safe_bench: Bench, start: Any
) -> None:
    """terminate() and a pool's exit work: a child has neither our handlers nor our descriptors."""
    start()
    terminated = await safe_bench.add({}, name="terminate")
    pooled = await safe_bench.add({}, name="pool")

    await safe_bench.all_in("completed", [*terminated, *pooled])

    assert _result(safe_bench, terminated[0]) == -signal.SIGTERM
    assert _result(safe_bench, pooled[0]) == [1, 2]


async def test_a_worker_ends_whatever_its_children_and_threads_do(
    safe_bench: Bench, start: Any
) -> None:
    """Within its grace and three seconds, and its children are gone with it."""
    worker = start(CONVOLAB_SHUTDOWN_GRACE="1")
    (left,) = await safe_bench.add({}, name="daemon")
    await safe_bench.all_in("completed", [left])

    with Stopwatch() as stopping:
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ends(within=10) == 0

    assert stopping.seconds < 4
    with pytest.raises(ProcessLookupError):
        os.kill(int(_result(safe_bench, left)), 0)


async def test_a_full_disk_for_its_lines_keeps_no_worker_from_its_end(
    safe_bench: Bench, start: Any
) -> None:
    """Nor does a pipe that nobody reads any more: what can't be written is lost."""
    worker = start(log=Path("/dev/full"), CONVOLAB_SHUTDOWN_GRACE="1", PYTHONUNBUFFERED="")
    (left,) = await safe_bench.add({}, name="daemon")
    await safe_bench.all_in("completed", [left])

    worker.process.send_signal(signal.SIGTERM)

    assert await worker.ends(within=10) == 0


async def test_a_handler_that_never_ends_and_a_full_disk_keep_no_worker_from_its_end(
    safe_bench: Bench, start: Any, tmp_path: Path
) -> None:
    running = tmp_path / "running"
    worker = start(log=Path("/dev/full"), CONVOLAB_SHUTDOWN_GRACE="0.1", PYTHONUNBUFFERED="")
    (job_id,) = await safe_bench.add(str(running), name="stubborn")
    await wait_until(running.exists, what="the handler")

    worker.process.send_signal(signal.SIGTERM)

    assert await worker.ends(within=10) == 0
    assert safe_bench.states() == {"wait": [job_id]}


async def test_a_worker_without_standard_streams_works_and_ends(
    safe_bench: Bench, start: Any
) -> None:
    """Started with ``<&- >&- 2>&-``: sockets must not get the numbers of the streams."""
    worker = start(program=WITHOUT_STREAMS)
    (pooled,) = await safe_bench.add({}, name="pool")
    await safe_bench.all_in("completed", [pooled])

    worker.process.send_signal(signal.SIGTERM)

    assert await worker.ends(within=10) == 0


async def test_a_child_holds_none_of_a_killed_workers_connections(
    safe_bench: Bench, start: Any
) -> None:
    """The server notices at once that the worker is gone, and gives it no marker any more."""
    worker = start()
    (left,) = await safe_bench.add({}, name="daemon")
    await safe_bench.all_in("completed", [left])
    await wait_until(lambda: safe_bench.blocked() == 1, what="the block")

    os.kill(worker.process.pid, signal.SIGKILL)

    await wait_until(lambda: safe_bench.blocked() == 0, timeout=2, what="the end of the block")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_job_whose_program_dies_of_the_stop_goes_back(
    safe_bench: Bench, start: Any, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C and systemd signal the whole group: that is not a failed attempt."""
    worker = start()
    running = tmp_path / "running"
    (job_id,) = await safe_bench.add(str(running), name="ffmpeg", attempts=1)
    await wait_until(running.exists, what="the program")

    os.killpg(worker.process.pid, number)

    assert await worker.ends(within=10) == 0
    assert safe_bench.states() == {"wait": [job_id]}


async def test_a_program_that_is_killed_alone_fails_its_job(
    safe_bench: Bench, start: Any, tmp_path: Path
) -> None:
    """Where no stop follows, the attempt has failed."""
    worker = start()
    running = tmp_path / "running"
    (job_id,) = await safe_bench.add(str(running), name="ffmpeg", attempts=1)
    await wait_until(running.exists, what="the program")

    for pid in _children(worker.process.pid):
        os.kill(pid, signal.SIGTERM)

    await safe_bench.all_in("failed", [job_id])


@pytest.mark.parametrize("raises", ["", "yes"], ids=["swallowed", "raised"])
async def test_a_stop_during_the_applications_import_is_not_lost(
    safe_bench: Bench, start: Any, tmp_path: Path, raises: str
) -> None:
    """The first process of a container gets no signal without a handler; it takes no job."""
    told = tmp_path / "told"
    await safe_bench.add({}, name="daemon")
    worker = start(first=True, IMPORT_TELLS=str(told), IMPORT_RAISES=raises)
    await wait_until(told.exists, what="the import")

    os.kill(worker.first_child(), signal.SIGTERM)

    assert await worker.ends(within=4) == 0
    assert list(safe_bench.states()) == ["wait"]


@pytest.mark.parametrize(
    "command", [("status", "--watch"), ("enqueue", "nobody", "--wait")], ids=["status", "enqueue"]
)
async def test_commands_that_wait_end_as_process_1_too(
    start: Any, command: tuple[str, ...]
) -> None:
    waiting = start(*command, first=True)
    await wait_until(waiting.log.read_bytes, what="a word")

    os.kill(waiting.first_child(), signal.SIGTERM)

    assert await waiting.ends(within=4) == 128 + signal.SIGTERM


async def test_process_1_reaps_what_handlers_leave_behind(safe_bench: Bench, start: Any) -> None:
    """An orphan of an orphan becomes a child of process 1, and would stay as a zombie."""
    handlers = "tests.faults.forking_app:handlers"
    worker = start("run", "--app", handlers, first=True)
    ids = await safe_bench.add(*[{}] * 3, name="orphan")
    await safe_bench.all_in("completed", ids)

    first = worker.first_child()
    await wait_until(lambda: len(_children(first)) == 1, what="the reaping")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_worker_without_a_thread_for_its_locks_keeps_them(
    safe_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system gives no more threads, the event loop renews the locks."""
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_: Job[Any]) -> str:
        await asyncio.sleep(1.5)
        return "kept"

    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "convolab-locks":
            msg = "can't start new thread"
            raise RuntimeError(msg)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    async with safe_bench.worker(handlers, lock_duration=1.0):
        ids = await safe_bench.add({}, {})
        await safe_bench.all_in("completed", ids)
        more = await safe_bench.add({})
        await safe_bench.all_in("completed", [*ids, *more])
