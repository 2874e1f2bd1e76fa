"""Job options of every shape, run by Node's worker and by ours: what becomes of the jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import HandlerRegistry, Job, Settings, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.node import NodeProcess, NodeScripts

pytestmark = pytest.mark.asyncio
QUIET_MS = 1200
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 1.5, "1", "2", "x", "", [], [2], {}, "1e0", " 1 ", "0x2",
)  # fmt: skip
BACKOFFS: tuple[Any, ...] = (
    5, 2.5, -5, -1, "5", None, True, [], {}, {"delay": 5}, {"type": "fixed"},
    {"type": "fixed", "delay": 5}, {"type": "fixed", "delay": "5"}, {"type": "fixed", "delay": -1},
    {"type": "fixed", "delay": "-1"}, {"type": "fixed", "delay": -5},
    {"type": "fixed", "delay": 2.5}, {"type": "fixed", "delay": None},
    {"type": "fixed", "delay": "x"}, {"type": "fixed", "delay": True},
    {"type": "fixed", "delay": 5, "jitter": "0.5"}, {"type": "fixed", "delay": "5", "jitter": 1},
    {"type": "exponential", "delay": "2"}, {"type": "exponential"},
    {"type": "exponential", "delay": -3}, {"type": "exponential", "delay": 1.5},
    {"type": "exponential", "delay": 3, "jitter": None}, {"type": "polite", "delay": 5},
)  # fmt: skip
KEPT: tuple[Any, ...] = (
    # On a fraction BullMQ's script stops half-way.
    *(value for value in ODD if value != 1.5), {"count": 1}, {"count": "1"}, {"count": 0},
    {"count": -1}, {"count": None}, {"age": 0}, {"age": 3600}, {"age": "3600"},
    {"age": 3600, "count": 1}, {"age": 0, "limit": 1},
)  # fmt: skip
CASES: list[dict[str, Any]] = [
    *({"attempts": value} for value in ODD),
    *({"attempts": 3, "backoff": value} for value in BACKOFFS),
    *({"removeOnComplete": value, "removeOnFail": value} for value in KEPT),
    *({"keepLogs": value} for value in ODD),
    *({"attempts": 3, "stackTraceLimit": value} for value in ODD),
    *({"attempts": 2, "lifo": value} for value in ODD),
]
STUCK = {"active", "unknown"}
"""Where Node's worker leaves a job whose backoff it does not understand; ours fails it."""


async def by_either(node: NodeProcess, server_url: str, prefix: str, cases: Sequence[Any]) -> Any:
    """What becomes of the jobs by Node's worker and by ours, and the errors that Node's had."""
    count, found, errors = len(cases), [], []
    for whose in ("theirs", "ours"):
        at = f"{prefix}-{whose}"
        await node.ask("stage", prefix=at, cases=cases)
        if whose == "theirs":
            errors = await node.ask("work", prefix=at, count=count, quiet=QUIET_MS)
        else:
            await ours(server_url, at, count)
        found.append(await node.ask("report", prefix=at, count=count))
    return zip(*found, errors, strict=True)


async def ours(server_url: str, prefix: str, count: int) -> None:
    """Run the jobs of a prefix by our worker, until nothing is left to fetch."""
    handlers = HandlerRegistry()

    @handlers.audio("good-1", "good-2", "bad-1", "bad-2")
    async def handle(job: Job[Any]) -> None:
        for row in "abc":
            job.log.info(row)
        if job.name.startswith("bad"):
            msg = "no"
            raise ValueError(msg)

    queues = tuple(f"q{number}" for number in range(count))
    settings = Settings(redis_url=server_url, prefix=prefix, queues=queues, listed="off")
    while (await Worker(handlers, settings).drain()).remaining:
        pass


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2, 3))]
)
async def test_options_of_every_shape_end_as_with_nodes_worker(
    node: NodeScripts, server_url: str, queue_name: str, part: int
) -> None:
    """State, attempts, starts, reason, kept traces and rows, and which jobs are kept."""
    cases = CASES[part::4]
    async with await node.start("job_options.mjs", server_url) as script:
        pairs = [*await by_either(script, server_url, queue_name, cases)]

    differences = []
    for case, (theirs, our, errors) in zip(cases, pairs, strict=True):
        jobs = [job for job in theirs.values() if job is not None]
        # Documented: such jobs are lost with Node, or fail with an error of its own script.
        is_better = errors or any(
            job["state"] in STUCK or str(job["reason"]).startswith(("ERR ", "Missing key"))
            for job in jobs
        )
        if theirs != our and not is_better:
            told = json.dumps(case)
            names = [name for name in theirs if theirs[name] != our[name]]
            differences += [f"{told} {name}: {theirs[name]} / {our[name]}" for name in names]
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("name", ["a b", "a, b", "a/b", 'a"b\\c', "käse 🧀", "{a} b"])
async def test_a_queue_has_any_name_that_node_gives_it(
    node: NodeScripts, server_url: str, queue_name: str, name: str
) -> None:
    """Its jobs are found, run and answered under a prefix with spaces, too."""
    handlers, prefix = HandlerRegistry(), f"{queue_name}, our jobs"
    handlers.audio("work")(_answer)
    settings = Settings(
        redis_url=server_url, prefix=prefix, queues=(name,), idle_max=0.5, idle_min=0.1
    )

    script = await node.start("job_options.mjs", server_url)
    async with script, Worker(handlers, settings):
        answer = await script.ask("wait", prefix=prefix, queue=name)

    assert answer == name


async def _answer(job: Job[Any]) -> str:
    return job.queue
