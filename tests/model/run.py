"""Runs one plan, in an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import warnings
from typing import TYPE_CHECKING, Any

import structlog

from tests.model.events import ForgetScripts
from tests.model.rest import settle
from tests.model.world import Finding, World, capture_logs
from tests.support.scripted import ScriptedProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.bench import ModelBench
    from tests.model.plan import Plan

_STEP_SECONDS = 12.0


def run_plan(plan: Plan, bench: ModelBench) -> list[Finding]:
    """Run a plan; return what was found wrong."""
    loop = asyncio.new_event_loop()
    findings: list[Finding] = []
    with ScriptedProxy(bench.port) as proxy, _quiet_logs():
        threads = {*threading.enumerate()}
        try:
            findings = loop.run_until_complete(_run(plan, bench, proxy, threads))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            if any(isinstance(step, ForgetScripts) for step in plan.steps):
                bench.load_scripts()
    if findings:
        _collect_garbage()
    return findings


def _collect_garbage() -> None:
    """Collect what the worker has left; what it left open is a finding, and no other test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    before = structlog.get_config() if structlog.is_configured() else None
    try:
        yield
    finally:
        structlog.reset_defaults()
        if before is not None:
            structlog.configure(**before)


async def _run(
    plan: Plan, bench: ModelBench, proxy: ScriptedProxy, threads: set[threading.Thread]
) -> list[Finding]:
    world = World(plan, bench, proxy)
    asyncio.get_running_loop().set_exception_handler(lambda _, told: _note(world, told))
    capture_logs(world)
    try:
        proxy.delay(plan.lag)
        world.start()
        for step in plan.steps:
            try:
                async with asyncio.timeout(_STEP_SECONDS):
                    await step.take(world)
            except TimeoutError:
                world.wrong("step-hangs", f"{step} has not ended")
            world.look()
        await settle(world, threads)
        _collect_garbage()  # asyncio reports exceptions that nobody has retrieved
    finally:
        await world.demolish()
    return world.findings


def _note(world: World, told: dict[str, Any]) -> None:
    world.wrong("crash", f"{told.get('message')}: {told.get('exception')!r}")
