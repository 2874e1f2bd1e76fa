"""process=True at registration, and before a worker starts: what can't run elsewhere is refused."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convolab_worker import HandlerRegistry, Job, Renewal, Settings, Worker, errors
from convolab_worker.errors import ConfigurationError, RateLimited, RetryLater
from convolab_worker.handlers.registration import processes

BY_NAME = "expected a function at the top level of a module"


def plain(_job: Job[Any]) -> None: ...


async def coroutine(_job: Job[Any]) -> None: ...


class Callables:
    def __call__(self, _job: Job[Any]) -> None: ...


def local() -> Callable[..., Any]:
    def function(_job: Job[Any]) -> None: ...

    return function


def unlike(function: Callable[..., Any]) -> Callable[..., Any]:
    """Put another function in the place of the one that was registered."""

    def other(*given: object) -> object:
        return function(*given)

    return other


replaced_handlers = HandlerRegistry()


@unlike
@replaced_handlers.image("x", process=True)
def replaced(_job: Job[Any]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (coroutine, {}, "process=True is for plain functions, and this one is async"),
        (plain, {"thread": True}, "thread=True and process=True: expected one of them"),
        (plain, {"process": "yes"}, r"process='yes': expected True, or Renewal\("),
        (local(), {}, BY_NAME),
        (lambda _: None, {}, BY_NAME),
        (functools.partial(plain), {}, BY_NAME),
        (Callables(), {}, BY_NAME),
    ],
    ids=["async", "thread", "text", "local", "lambda", "partial", "object"],
)
def test_what_a_process_can_not_run_is_refused_at_registration(
    function: Callable[..., Any], options: dict[str, Any], reason: str
) -> None:
    """With the function's place, and what is expected."""
    with pytest.raises(ConfigurationError, match=reason):
        HandlerRegistry().image("x", **{"process": True, **options})(function)


@pytest.mark.parametrize("process", [True, Renewal(), Renewal(jobs=1), Renewal(memory_mb=0.5)])
def test_a_plain_function_of_a_module_can_run_in_a_process(process: bool | Renewal) -> None:  # noqa: FBT001
    handlers = HandlerRegistry()
    handlers.image("x", process=process)(plain)

    handlers.check()


@pytest.mark.parametrize("process", [None, False])
def test_without_it_a_function_may_be_anywhere(process: bool | None) -> None:  # noqa: FBT001
    handlers = HandlerRegistry()
    handlers.image("x", process=process)(local())

    (handler,) = handlers
    assert handler.process is None


def test_a_function_that_its_module_has_not_is_refused_before_a_worker_starts() -> None:
    """A decorator above the registration has put another one in its place."""
    with pytest.raises(ConfigurationError, match=r"replaced is not it: expected functools\.wraps"):
        Worker(replaced_handlers, Settings())


@pytest.mark.parametrize(
    "given", [{"jobs": 0}, {"jobs": 1.5}, {"jobs": True}, {"memory_mb": 0}, {"memory_mb": "1GB"}]
)
def test_a_renewal_that_can_not_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"Renewal\(\w+=.*: expected"):
        Renewal(**given)


@pytest.mark.parametrize(
    ("renewal", "due"),
    [
        (Renewal(), [False, False, False]),
        (Renewal(jobs=2), [False, True, True]),
        (Renewal(memory_mb=1), [False, False, True]),
        (Renewal(jobs=3, memory_mb=1), [False, False, True]),
    ],
)
def test_a_renewal_is_due_after_so_many_jobs_or_so_much_memory(
    renewal: Renewal, due: list[bool]
) -> None:
    sizes = [(1, 10), (2, 1_000_000), (3, 1_000_001)]

    assert [renewal.is_due(jobs, memory) for jobs, memory in sizes] == due


def test_a_program_that_starts_a_worker_as_it_is_imported_is_told_so() -> None:
    """Else each process would start a worker, whose processes would start workers."""
    token = processes.IMPORTING.set(True)
    try:
        with pytest.raises(ConfigurationError, match="if __name__ == '__main__'"):
            Worker(replaced_handlers, Settings())
    finally:
        processes.IMPORTING.reset(token)


@pytest.mark.parametrize("kind", [RetryLater, RateLimited])
def test_a_delay_travels_whole(kind: type[RetryLater | RateLimited]) -> None:
    travelled = pickle.loads(pickle.dumps(kind(30, "busy")))  # noqa: S301 - our own

    assert (travelled.delay, str(travelled)) == (30, "busy")


@pytest.mark.parametrize(
    "error", [each for each in vars(errors).values() if isinstance(each, type)]
)
def test_every_error_can_be_pickled(error: type[BaseException]) -> None:
    """Whatever a handler lets through arrives as what it is."""
    given: dict[str, tuple[object, ...]] = {
        "RetryLater": (1.0,), "RateLimited": (1.0,), "JobFailed": ("7", "no voice"),
    }  # fmt: skip
    raised = error(*given.get(error.__name__, ("text",)))

    travelled = pickle.loads(pickle.dumps(raised))  # noqa: S301 - our own

    assert type(travelled) is error
    assert str(travelled) == str(raised)


PROGRAM = """
import asyncio, os
from convolab_worker import HandlerRegistry, Job
from convolab_worker.testing import run_handler

handlers = HandlerRegistry()


class Busy(Exception):
    pass


@handlers.image("pid", process=True)
def pid(job: Job[dict]) -> list:
    if job.data:
        raise Busy("very")
    return [os.getpid(), __name__]


if __name__ == "__main__":
    run = asyncio.run(run_handler(handlers, "pid"))
    failed = asyncio.run(run_handler(handlers, "pid", {"fail": 1}, raises=False))
    print(run.result[0] != os.getpid(), run.result[1], isinstance(failed.error, Busy))
"""


@pytest.mark.parametrize("way", ["file", "module"])
def test_handlers_may_stand_in_the_program_itself(tmp_path: Path, way: str) -> None:
    """As a file, or as ``python -m`` runs it; its own exceptions come back as such."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["program.py"] if way == "file" else ["-m", "program"]

    said = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, check=True, capture_output=True, text=True
    )

    name = {"file": "__mp_main__", "module": "program"}[way]
    assert said.stdout.splitlines()[-1] == f"True {name} True", said.stderr
