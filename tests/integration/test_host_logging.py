"""The application's logging, whatever it is: outcomes and time-outs are the same."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Worker
from convolab_worker.errors import JobFailed, UnrecoverableError
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0


class BrokenError(Exception):
    """What a host's logging raises."""


def broken(*_: Any, **__: Any) -> Any:
    """Stand for a processor, a renderer or a logger with a fault."""
    raise BrokenError


class BrokenLogger:
    """A logger whose every method raises."""

    def __getattr__(self, name: str) -> Any:
        return broken


class BrokenWrapper(structlog.BoundLoggerBase):
    """A bound logger that can't even be made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise BrokenError


class UnprintableHandler(logging.Handler):
    """A handler of the standard library that raises instead of ``handleError``."""

    def emit(self, record: logging.LogRecord) -> None:
        raise BrokenError(record)


STDLIB = structlog.stdlib
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "render_to_log_kwargs": {
        "processors": [STDLIB.filter_by_level, STDLIB.render_to_log_kwargs],
        "wrapper_class": STDLIB.BoundLogger,
        "logger_factory": STDLIB.LoggerFactory(),
    },
    "a bridge to the standard library": {
        "processors": [
            structlog.contextvars.merge_contextvars,
            STDLIB.add_logger_name,
            STDLIB.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            STDLIB.ProcessorFormatter.wrap_for_formatter,
        ],
        "wrapper_class": STDLIB.BoundLogger,
        "logger_factory": STDLIB.LoggerFactory(),
    },
    "loggers that are awaited": {
        "processors": [structlog.processors.JSONRenderer()],
        "wrapper_class": STDLIB.AsyncBoundLogger,
        "logger_factory": STDLIB.LoggerFactory(),
    },
    "a level filter and bytes": {
        "processors": [structlog.processors.JSONRenderer(serializer=lambda *_, **__: b"{}")],
        "wrapper_class": structlog.make_filtering_bound_logger(logging.ERROR),
        "logger_factory": structlog.BytesLoggerFactory(),
        "cache_logger_on_first_use": True,
    },
    "a processor that raises": {"processors": [broken]},
    "a renderer that can't write the values": {
        "processors": [structlog.processors.JSONRenderer(default=broken)],
    },
    "a logger that raises": {"logger_factory": lambda *_: BrokenLogger()},
    "a factory that raises": {"logger_factory": broken},
    "a wrapper that raises": {"wrapper_class": BrokenWrapper},
    "a handler that raises": {
        "processors": [STDLIB.render_to_log_kwargs],
        "wrapper_class": STDLIB.BoundLogger,
        "logger_factory": STDLIB.LoggerFactory(),
    },
    "no processors": {"processors": []},
}
if hasattr(STDLIB, "render_to_log_args_and_kwargs"):  # since structlog 25
    CONFIGURATIONS["render_to_log_args_and_kwargs"] = {
        "processors": [STDLIB.add_log_level, STDLIB.render_to_log_args_and_kwargs],
        "wrapper_class": STDLIB.BoundLogger,
        "logger_factory": STDLIB.LoggerFactory(),
    }


@pytest.fixture(params=CONFIGURATIONS)
def host_logging(request: pytest.FixtureRequest) -> Iterator[str]:
    """The logging of a host, which it configures before the worker starts."""
    root, handler = logging.getLogger("convolab_worker"), UnprintableHandler()
    structlog.configure(**CONFIGURATIONS[request.param])
    if request.param == "a handler that raises":
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield request.param
    root.removeHandler(handler)
    root.setLevel(logging.NOTSET)


async def test_jobs_end_as_they_do_with_any_other_logging(
    running: Running, host_logging: str
) -> None:
    """Results, failures, attempts, rows of the log, parts, and time-outs with their report."""
    handlers, tried = HandlerRegistry(), list[int]()

    @handlers.audio("good")
    async def good(job: Job[Any]) -> str:
        job.log.info("spoken", name="a", args=(1,), message="text", process=object())
        job.log.bind(more=1).warning("with %s", "an argument")
        return "good"

    @handlers.audio("bad")
    async def bad(job: Job[Any]) -> None:
        tried.append(job.attempt)
        raise (ValueError if job.attempt == 1 else UnrecoverableError)(host_logging)

    @handlers.audio("slow", timeout=0.2)
    async def slow(_: Job[Any]) -> None:
        await asyncio.sleep(60)

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        done = await job.children_results()
        if not done:
            await job.enqueue_children([Child("good")])
        return done

    async with running(handlers) as (worker, client):
        ids = [await client.enqueue(name, attempts=3) for name in ("good", "bad", "course")]
        late = await client.enqueue("slow")
        assert await client.result(ids[0], SOON) == "good"
        with pytest.raises(JobFailed, match=host_logging):
            await client.result(ids[1], SOON)
        assert await client.result(ids[2], SOON) == {"good": "good"}
        with pytest.raises(JobFailed, match="longer than its time-out"):
            await client.result(late, SOON)
        await wait_until(lambda: sum(worker.stats()["outcomes"].values()) == 7)
        outcomes = worker.stats()["outcomes"]

    assert tried == [1, 2]
    assert outcomes == {"completed": 3, "retried": 1, "failed": 2, "waiting_children": 1}
