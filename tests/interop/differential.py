"""One scenario run by Node's worker and by ours, and what each left behind."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from convolab_worker import Settings, Worker
from tests.interop.app import Behaviour
from tests.interop.normalise import normalise
from tests.interop.session import NodeSession

WORKER_NAME = "convolab"
Snapshot = dict[str, Any]
_PATIENCE_MS = 8000


class Bench:
    """Runs scenarios on one server with one version of Node's BullMQ as the producer."""

    def __init__(self, session: NodeSession, server_url: str) -> None:
        self.version = session.version
        self._session = session
        self._server_url = server_url
        hello = session.request("hello")
        self.bullmq: str = hello["bullmq"]
        self.scenarios: dict[str, dict[str, Any]] = hello["scenarios"]
        self._node_runs: dict[str, Snapshot] = {}

    async def by_node(self, scenario: str) -> Snapshot:
        """What Node's own worker leaves behind; run once and kept."""
        if scenario not in self._node_runs:
            self._node_runs[scenario] = await self.by_node_again(scenario)
        return self._node_runs[scenario]

    async def by_node_again(self, scenario: str) -> Snapshot:
        """What Node's own worker leaves behind in a run of its own."""
        prefix = _new_prefix()
        return await self._run(scenario, prefix, self._node_worker(scenario, prefix))

    async def by_ours(self, scenario: str, *, patience_ms: int = _PATIENCE_MS) -> Snapshot:
        """What our worker leaves behind; AssertionError if it takes longer than the patience."""
        prefix = _new_prefix()
        worker = self._our_worker(scenario, prefix)
        return await self._run(scenario, prefix, worker, patience_ms=patience_ms)

    async def raw_by_ours(self, scenario: str, *, workers: int = 1) -> Snapshot:
        """What so many workers of ours leave behind, with its times."""
        prefix = _new_prefix()
        return await self._run_raw(scenario, prefix, self._our_workers(scenario, prefix, workers))

    async def _run(
        self,
        scenario: str,
        prefix: str,
        worker: AbstractAsyncContextManager[None],
        *,
        patience_ms: int = _PATIENCE_MS,
    ) -> Snapshot:
        raw = await self._run_raw(scenario, prefix, worker, patience_ms=patience_ms)
        return normalise(raw, prefix)

    async def _run_raw(
        self,
        scenario: str,
        prefix: str,
        worker: AbstractAsyncContextManager[None],
        *,
        patience_ms: int = _PATIENCE_MS,
    ) -> Snapshot:
        await self._session.ask(
            "stage",
            scenario=scenario,
            prefix=prefix,
            workerName=WORKER_NAME,
            patience=patience_ms,
        )
        try:
            async with worker:
                await self._session.ask("drive", scenario=scenario, prefix=prefix)
            raw: Snapshot = await self._session.ask("snapshot", scenario=scenario, prefix=prefix)
        finally:
            await self._session.ask("forget", prefix=prefix)
        return raw

    @asynccontextmanager
    async def _node_worker(self, scenario: str, prefix: str) -> AsyncIterator[None]:
        await self._session.ask("work", scenario=scenario, prefix=prefix)
        yield
        await self._session.ask("rest", prefix=prefix)

    @asynccontextmanager
    async def _our_workers(self, scenario: str, prefix: str, count: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            for _ in range(count):
                await running.enter_async_context(self._our_worker(scenario, prefix))
            yield

    @asynccontextmanager
    async def _our_worker(self, scenario: str, prefix: str) -> AsyncIterator[None]:
        about = self.scenarios[scenario]
        settings = Settings(
            redis_url=self._server_url,
            queues=tuple(about["queues"]),
            prefix=prefix,
            concurrency=about["worker"].get("concurrency", 1),
            worker_name=WORKER_NAME,
            max_stalled_count=about["worker"].get("maxStalledCount", 1),
            metrics_points=about["worker"].get("metrics", {}).get("maxDataPoints"),
            rate_limit=_rate(about["worker"].get("limiter")),
            keep_completed=_kept(about["worker"].get("removeOnComplete")),
            keep_failed=_kept(about["worker"].get("removeOnFail")),
            progress_interval=0.0,
            idle_min=0.1,
            idle_max=1.0,
            shutdown_grace=2.0,
        )
        behaviour = Behaviour(server_url=self._server_url, prefix=prefix)
        async with Worker(behaviour.registry(), settings):
            yield


def _rate(limiter: dict[str, int] | None) -> str | None:
    """Node's ``limiter`` option as our setting."""
    return None if limiter is None else f"{limiter['max']}/{limiter['duration']}ms"


def _kept(keep: dict[str, int] | None) -> str | None:
    """Node's ``removeOnComplete`` of a worker as our setting."""
    if keep is None:
        return None
    count, age = keep["count"], keep.get("age")
    return f"{count}" if age is None else f"{count}/{age}s"


def _new_prefix() -> str:
    return f"run-{uuid.uuid4().hex[:10]}"
