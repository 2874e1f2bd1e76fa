"""``run`` and ``drain``: handlers from an application, at work."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from convolab_worker.cli.app_loader import load_app
from convolab_worker.cli.leaving import leave
from convolab_worker.cli.looping import run_in_loop
from convolab_worker.cli.output import as_json, remark, result
from convolab_worker.cli.signals import StopOnSignals
from convolab_worker.client.client import JobClient
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.logging import configure_logging
from convolab_worker.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker.handlers.registry import HandlerRegistry
    from convolab_worker.settings import Settings


def run(settings: Settings, *, embedded: bool) -> int:
    """Work until a signal says stop; 0 after a clean stop."""
    handlers = _prepare(settings)
    with private_server(settings, embedded=embedded) as reachable:
        return run_in_loop(_run(handlers, reachable))


def serve(settings: Settings, *, embedded: bool, insecure: bool) -> int:
    """Work as ``run`` does, with the wake server in front."""
    if settings.wake_mode == "auto":
        mode = "background" if settings.k_service is None else "held"
        settings = settings.replace(wake_mode=mode)
    handlers = _prepare(settings)
    with private_server(settings, embedded=embedded) as reachable:
        return run_in_loop(_serve(handlers, reachable, insecure=insecure))


def drain(settings: Settings, *, budget: float | None, embedded: bool) -> int:
    """Work until nothing is left or the budget is over; 1 if a job failed for good."""
    handlers = _prepare(settings)
    with private_server(settings, embedded=embedded) as reachable:
        return run_in_loop(_drain(handlers, reachable, budget))


def _prepare(settings: Settings) -> HandlerRegistry:
    configure_logging(settings.log_level, settings.log_format)
    if settings.app is None:
        msg = "no handlers: expected --app MODULE:REGISTRY or the variable CONVOLAB_APP"
        raise ConfigurationError(msg)
    return load_app(settings.app)


@contextmanager
def private_server(settings: Settings, *, embedded: bool) -> Iterator[Settings]:
    """Yield the settings, those of a private server where one is asked for."""
    if not embedded:
        yield settings
        return
    from convolab_worker.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        remark(f"embedded server: {server.url}")
        yield settings.replace(redis_url=server.url)


async def _run(handlers: HandlerRegistry, settings: Settings) -> int:
    worker = Worker(handlers, settings)
    stopping = StopOnSignals(worker)
    stopping.install()
    await worker.run()
    await stopping.settled()
    return await leave(0)


async def _serve(handlers: HandlerRegistry, settings: Settings, *, insecure: bool) -> int:
    from convolab_worker.server.server import WakeServer

    worker = Worker(handlers, settings)
    stopping = StopOnSignals(worker)
    stopping.install()
    async with WakeServer(worker, insecure=insecure):
        await worker.run()
        await stopping.settled()
    return await leave(0)


async def _drain(handlers: HandlerRegistry, settings: Settings, budget: float | None) -> int:
    async with JobClient(settings):  # a worker waits for a server that is away; a drain is to end
        pass
    worker = Worker(handlers, settings)
    stopping = StopOnSignals(worker)
    stopping.install()
    outcome = await worker.drain(budget=budget)
    await stopping.settled()
    result(as_json(asdict(outcome)))
    return await leave(1 if outcome.failed else 0)
