"""Handlers that run in processes, which import this module."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypedDict

from convolab_worker import HandlerRegistry, Job, Renewal, SyncJob
from convolab_worker.errors import RetryLater, UnrecoverableError

handlers = HandlerRegistry()
few = HandlerRegistry()
kept: list[bytes] = []


class Sized(TypedDict):
    size: int


class UnpicklableError(Exception):
    """Pickled by what it was not made of."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def fails_at(step: Callable[[], object]) -> object:
    """A frame to be seen in a traceback."""
    return step()


def _raise(error: BaseException) -> NoReturn:
    raise error


WAYS: dict[str, Callable[[], object]] = {
    "error": lambda: _raise(ValueError("no voice 😀")),
    "unrecoverable": lambda: _raise(UnrecoverableError("never")),
    "later": lambda: _raise(RetryLater(60, "busy")),
    "unpicklable": lambda: _raise(UnpicklableError(7, "no such voice")),
    "exit": lambda: sys.exit(3),
    "hard exit": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: ctypes.string_at(0),
    "a set": lambda: {1, 2},
    "awaitable": lambda: [_coroutine()][0],
}


async def _coroutine() -> None: ...


@handlers.image("echo", process=True)
def echo(job: Job[Any]) -> Any:
    return job.data


@handlers.image("pid", process=True)
def pid(_job: Job[Any]) -> int:
    return os.getpid()


@handlers.image("sized", process=True)
def sized(job: Job[Sized]) -> str:
    return "é" * job.data["size"]


@handlers.image("fail", process=True)
def fail(job: Job[dict[str, str]]) -> object:
    return fails_at(WAYS[job.data["way"]])


@handlers.image("report", process=True)
def report(job: Job[Any]) -> None:
    for done in range(1001):
        job.progress({"done": done})
    job.log.info("drawn", colour="red", where=Path("/x"), size=3)
    job.log.debug("not shown")
    try:
        fails_at(WAYS["error"])
    except ValueError:
        job.log.exception("mended")


def _paid(what: str) -> str:
    return f"{what} by {os.getpid()}"


async def _paid_async(what: str) -> str:
    return f"{what} by {os.getpid()}"


@handlers.image("steps", process=True)
def steps(job: SyncJob[dict[str, int]]) -> list[Any]:
    """Fail the first attempt, when its steps are recorded."""
    made = [job.step("plain", _paid, "a"), job.step("async", _paid_async, "b", timeout=5)]
    job.update_data({"attempt": job.attempt})
    if job.attempt == 1:
        _raise(ValueError(f"{made}"))
    return [*made, job.step_key("plain")]


@handlers.image("too large", process=True)
def too_large(job: SyncJob[Any]) -> str:
    return job.step("large", "x".__mul__, 2**20)


@handlers.image("resources", process=True)
def resources(job: Job[Any, Any]) -> object:
    return job.resources.session


@handlers.image("hang", process=True, timeout=0.4)
def hang(job: Job[dict[str, str]]) -> None:
    _hang(Path(job.data["notes"]), job.data.get("how", ""))


@handlers.image("hang on", process=True)
def hang_on(job: Job[dict[str, str]]) -> str:
    _hang(Path(job.data["notes"]), job.data.get("how", ""))
    return f"cancelled {job.cancelled.is_set()}"


def _hang(notes: Path, how: str) -> None:
    """Start what ignores SIGTERM, write down who runs, and wait until told to end, or for ever."""
    stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 60; done"])
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    forked.start()
    notes.write_text(f"{os.getpid()} {stubborn.pid} {forked.pid}")
    try:
        if how == "lock":
            sum(range(10**10))  # keeps the interpreter lock, and hears no signal
        time.sleep(60)
    except KeyboardInterrupt:
        if how == "returns":
            return
        if how == "stubborn":
            while True:
                with suppress(KeyboardInterrupt):
                    time.sleep(60)
        notes.with_suffix(".tidy").write_text("finally")
        raise


@handlers.image("forks", process=True)
def forks(_job: Job[Any]) -> int | None:
    """What it forks is ended as any other child."""
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    forked.start()
    forked.terminate()
    forked.join(5)
    return forked.exitcode


@handlers.image("keeps the lock", process=True)
def keeps_the_lock(job: Job[dict[str, str]]) -> int:
    """Let no other thread of its interpreter run, for longer than the job's lock lasts."""
    with Path(job.data["notes"]).open("a", encoding="utf-8") as notes:
        notes.write("started\n")
    ctypes.PyDLL(None).usleep(int(float(job.data["seconds"]) * 1e6))
    return 1


@few.image("few jobs", process=Renewal(jobs=2))
def few_jobs(_job: Job[Any]) -> int:
    return os.getpid()


@few.image("little memory", process=Renewal(memory_mb=120))
def little_memory(job: Job[dict[str, int]]) -> int:
    kept.append(b"x" * (job.data["mb"] * 1_000_000))
    return os.getpid()


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler that is registered already."""

    @functools.wraps(function)
    def wrapper(*_: object) -> NoReturn:
        msg = "the wrapper around the registered function was called"
        raise AssertionError(msg)

    return wrapper


@traced
@handlers.image("wrapped", process=True)
def wrapped(_job: Job[Any]) -> str:
    return "inner"
