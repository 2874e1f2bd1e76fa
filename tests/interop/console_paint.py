"""When the console's page is painted: ``python -m tests.interop.console_paint``.

It prints the median of several loads of a worker's page on loopback, with 100 running jobs, in
Chromium. The budget is 200 ms.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from convolab_worker import HandlerRegistry, Job, Settings
from convolab_worker.embedded import EmbeddedServer
from tests.interop.test_status_page import browsing
from tests.support.node import NodeScripts
from tests.support.serving import serving
from tests.support.waiting import wait_until

JOBS, LOADS = 100, 9


def waiting(gate: asyncio.Event) -> HandlerRegistry:
    """A handler that tells of progress and waits."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[dict[str, Any]]) -> None:
        await job.progress({"pct": 20, "step": "speech"})
        await gate.wait()

    return handlers


async def measure(settings: Settings, node: NodeScripts, folder: Path) -> list[dict[str, Any]]:
    """Load the page several times while the jobs run."""
    gate = asyncio.Event()
    async with (
        serving(waiting(gate), settings) as (worker, client, session),
        browsing(node, session, folder) as page,
    ):
        await client.enqueue_many({"name": "speak"} for _ in range(JOBS))
        await wait_until(lambda: worker.stats()["running"] == JOBS, what="all jobs running")
        loads = [await page.ask("paint", jobs=JOBS) for _ in range(LOADS)]
        gate.set()
    return loads


def main() -> None:
    """Print the medians as JSON."""
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        settings = Settings(redis_url=server.url, queues=("paint",), concurrency=JOBS)
        node = NodeScripts(Path(__file__).parent)
        loads = asyncio.run(measure(settings, node, Path(folder)))
    for what in ("first", "jobs"):
        median = statistics.median(load[what] for load in loads)
        print(json.dumps({"what": what, "median_ms": round(median), "loads": LOADS}))  # noqa: T201


if __name__ == "__main__":
    main()
