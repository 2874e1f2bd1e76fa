"""A job that its children failed, retried together with them: it waits for them, and completes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from bullmq import FlowProducer

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Worker
from tests.support.commands import start_python
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio


class Family:
    """Handlers of a job and its children, which fail while ``broken`` names them."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.broken: set[str] = set()
        self.ran: list[str] = []
        self.handlers.course("whole")(self.whole)
        self.handlers.audio("part")(self.part)
        self.handlers.image("asking")(self.asking)

    def _run(self, name: str) -> None:
        self.ran.append(name)
        if name in self.broken:
            msg = f"{name} is broken"
            raise ValueError(msg)

    async def whole(self, job: Job[Any]) -> Any:
        """A job of a flow: its children were added with it."""
        self._run(job.data["name"])
        return sorted((await job.children_results()).values())

    async def part(self, job: Job[Any]) -> str:
        self._run(job.data["name"])
        return str(job.data["name"])

    async def asking(self, job: Job[Any]) -> Any:
        """A job that asks for its children when it runs, each time."""
        self.ran.append("asking")
        parts = [{"name": name} for name in job.data["parts"]]
        on_failure = job.data.get("on_failure", "fail")
        if not await job.children_results():
            await job.enqueue_children(
                [Child("part", part, key=part["name"], on_failure=on_failure) for part in parts]
            )
        return sorted((await job.children_results()).values())


@pytest.fixture
def family() -> Family:
    """The handlers."""
    return Family()


async def has_failed(client: JobClient, job_id: str) -> None:
    """Wait until a job has failed for good."""

    async def is_failed() -> bool:
        return (await client.status(job_id)).state == "failed"

    await wait_until(is_failed, what=f"the failure of {job_id}")


def part(queue: str, name: str, **more: Any) -> dict[str, Any]:
    """A child of a flow that fails its parent."""
    opts = {"failParentOnFailure": True, "jobId": name, **more.pop("opts", {})}
    return {"name": "part", "queueName": queue, "data": {"name": name}, "opts": opts, **more}


@pytest_asyncio.fixture
async def flow(server_url: str) -> AsyncIterator[FlowProducer]:
    """A producer of flows."""
    flow = FlowProducer(server_url)
    yield flow
    await flow.close()


async def test_a_job_that_asked_for_its_children_completes_with_those_that_were_retried(
    running: Running, family: Family
) -> None:
    """What had completed is not run again."""
    family.broken = {"b"}
    async with running(family.handlers) as (_, client):
        job_id = await client.enqueue("asking", {"parts": ["a", "b"]})
        await has_failed(client, job_id)
        family.broken.clear()

        assert await client.retry(job_id, with_children=True) == 1
        result = await client.result(job_id, 10.0)

    assert result == ["a", "b"]
    assert sorted(family.ran) == ["a", "asking", "asking", "b", "b"]


async def test_a_job_of_a_flow_waits_for_its_children_before_it_runs(
    running: Running, family: Family, flow: FlowProducer, queue_name: str
) -> None:
    """With grandchildren, and at the depth where the failure was."""
    family.broken = {"grandchild"}
    child = {**part(queue_name, "child"), "children": [part(queue_name, "grandchild")]}
    tree = {
        "name": "whole", "queueName": queue_name, "data": {"name": "whole"},
        "opts": {"jobId": "whole"}, "children": [child, part(queue_name, "other")],
    }  # fmt: skip
    async with running(family.handlers) as (_, client):
        await flow.add(tree)
        await has_failed(client, "whole")
        family.broken.clear()
        family.ran.clear()

        await client.retry("whole", with_children=True)
        result = await client.result("whole", 10.0)

    assert result == ["child", "other"]
    assert family.ran == ["grandchild", "child", "whole"]


async def test_a_job_without_failed_children_is_just_retried(
    running: Running, family: Family, flow: FlowProducer, queue_name: str
) -> None:
    """Its own failure is not a child's."""
    family.broken = {"whole"}
    tree = {
        "name": "whole", "queueName": queue_name, "data": {"name": "whole"},
        "opts": {"jobId": "whole"}, "children": [part(queue_name, "child")],
    }  # fmt: skip
    async with running(family.handlers) as (_, client):
        await flow.add(tree)
        await has_failed(client, "whole")
        family.broken.clear()
        await client.retry("whole", with_children=True)

        assert await client.result("whole", 10.0) == ["child"]
    assert family.ran == ["child", "whole", "whole"]


async def test_a_failure_that_was_ignored_is_retried_too(
    running: Running, family: Family, flow: FlowProducer, queue_name: str
) -> None:
    family.broken = {"child", "whole"}
    ignored = {"failParentOnFailure": False, "ignoreDependencyOnFailure": True}
    tree = {
        "name": "whole", "queueName": queue_name, "data": {"name": "whole"},
        "opts": {"jobId": "whole"}, "children": [part(queue_name, "child", opts=ignored)],
    }  # fmt: skip
    async with running(family.handlers) as (_, client):
        await flow.add(tree)
        await has_failed(client, "whole")
        family.broken.clear()
        await client.retry("whole", with_children=True)

        assert await client.result("whole", 10.0) == ["child"]


async def test_a_job_that_is_retried_without_them_fails_again_and_adds_none(
    running: Running, family: Family
) -> None:
    """They would run, and cost, for nothing: it can't complete while the failed one is failed."""
    family.broken = {"b"}
    async with running(family.handlers) as (_, client):
        job_id = await client.enqueue("asking", {"parts": ["b"]})
        await has_failed(client, job_id)
        family.broken.clear()
        await client.retry(job_id)
        await has_failed(client, job_id)
        reason = (await client.status(job_id)).failed_reason

    assert family.ran == ["asking", "b", "asking"]
    assert "failed: b is broken" in str(reason)


async def test_a_child_that_is_gone_is_forgotten_and_asked_for_anew(
    running: Running, family: Family, redis: Redis, queue_name: str
) -> None:
    """As with ``keep_failed="none"``, or after somebody has cleaned the failed jobs."""
    family.broken = {"a"}
    async with running(family.handlers) as (_, client):
        job_id = await client.enqueue("asking", {"parts": ["a"]})
        await has_failed(client, job_id)
        failed: Any = await redis.zrange(f"bull:{queue_name}:failed", 0, -1)
        (child_id,) = {*failed} - {job_id}
        await redis.delete(f"bull:{queue_name}:{child_id}")
        await redis.zrem(f"bull:{queue_name}:failed", child_id)
        family.broken.clear()

        await client.retry(job_id, with_children=True)

        assert await client.result(job_id, 10.0) == ["a"]


async def test_the_command_line_retries_them_too(
    running: Running, family: Family, server_url: str, queue_name: str
) -> None:
    family.broken = {"b"}
    async with running(family.handlers) as (_, client):
        job_id = await client.enqueue("asking", {"parts": ["b"]})
        await has_failed(client, job_id)
        family.broken.clear()

        where = ("--redis-url", server_url, "--queue", queue_name)
        command = ("jobs", "retry", job_id, "--with-children", *where)
        process = await start_python("-m", "convolab_worker", *command)
        code, _, errors = await process.ended()

        assert code == 0, errors
        assert await client.result(job_id, 10.0) == ["b"]
