"""The documentation's waker for Node, as it stands there, on a service that a test scripts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, blocks
from tests.support.node import NodeProcess, NodeScripts
from tests.support.service import (
    AUDIENCE,
    Held,
    identity_token,
    metadata,
    says,
    service,
)

PAGE = ROOT / "docs" / "waking-from-an-api.md"


@asynccontextmanager
async def api(node: NodeScripts, folder: Path, **environ: str) -> AsyncIterator[NodeProcess]:
    """A Node process with the documentation's waker in it."""
    (block,) = [block for block in blocks(PAGE) if block.file == "waker.ts"]
    waker = folder / "waker.mjs"
    waker.write_text(block.text, encoding="utf-8")
    async with await node.start("waking.mjs", str(waker), environ=environ) as process:
        yield process


async def wake(process: NodeProcess, times: int = 1, delay: float = 0) -> None:
    """Have the process wake so many times."""
    await process.send({"times": times, "delay": delay})
    assert await process.receive() == {"times": times}


@pytest.mark.asyncio
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "one-answer"])
async def test_many_jobs_make_one_wake_and_one_more_after_it(
    node: NodeScripts, tmp_path: Path, *, streams: bool
) -> None:
    """Wakes that are asked for together, or while one is held, are one."""
    first, second = Held(streams=streams), Held(streams=streams)
    async with (
        service(first, second) as there,
        api(node, tmp_path, CONVOLAB_WAKE_URL=there.url) as process,
    ):
        await wake(process, 50)
        await there.asked(1)
        await wake(process, 50)
        during = len(there.requests)
        first.let_go()
        await there.asked(2)
        second.let_go()
        await wake(process, 0)

    assert during == 1
    assert len(there.requests) == 2


@pytest.mark.asyncio
async def test_a_failed_wake_is_tried_again_and_a_refusal_is_not(
    node: NodeScripts, tmp_path: Path
) -> None:
    """A busy service is asked again; one that says no, only for the next job."""
    answers = (says(status=503), says(status=401), says())
    async with (
        service(*answers) as there,
        api(node, tmp_path, CONVOLAB_WAKE_URL=there.url) as process,
    ):
        await wake(process)
        await there.asked(2)
        await wake(process)
        await there.asked(3)

    assert len(there.requests) == 3


@pytest.mark.asyncio
async def test_an_address_without_a_path_means_its_wake(node: NodeScripts, tmp_path: Path) -> None:
    """CONVOLAB_WAKE_URL is read as JobClient reads it, in Python."""
    async with service(says(), says(), says()) as there:
        address = there.url.removesuffix("/wake")
        for times, url in enumerate([address, f"{address}/?hold=60", there.url], start=1):
            async with api(node, tmp_path, CONVOLAB_WAKE_URL=url) as process:
                await wake(process)
                await there.asked(times)

    asked = [request.path_qs for request in there.requests]
    assert asked == ["/wake", "/wake?hold=60", "/wake"]


@pytest.mark.asyncio
async def test_what_is_left_or_due_is_come_back_for(node: NodeScripts, tmp_path: Path) -> None:
    """A delayed job wakes when it is due, and the answers tell of what comes after."""
    began = time.time()
    left = says({"status": "budget", "processed": 1, "remaining": 1})
    due = says({"status": "drained", "processed": 1, "remaining": 1, "next_due_at": began + 0.9})
    async with (
        service(left, due, says()) as there,
        api(node, tmp_path, CONVOLAB_WAKE_URL=there.url) as process,
    ):
        await wake(process, delay=500)
        await there.asked(3)

    assert time.time() >= began + 0.9


@pytest.mark.asyncio
@pytest.mark.parametrize("own", ["", "t0ken"])
async def test_tokens_are_sent(node: NodeScripts, tmp_path: Path, own: str) -> None:
    """The service's own, and Google's from the metadata server, fetched once."""
    token = identity_token(3600)
    async with service(metadata(token)) as google, service(says()) as there:
        variables = {
            "CONVOLAB_WAKE_URL": there.url,
            "CONVOLAB_WAKE_TOKEN": own,
            "CONVOLAB_WAKE_AUDIENCE": AUDIENCE,
            "GCE_METADATA_HOST": google.url.removeprefix("http://").removesuffix("/wake"),
        }
        async with api(node, tmp_path, **variables) as process:
            for times in (1, 2):
                await wake(process)
                await there.asked(times)

    sent = [request.headers for request in there.requests]
    name = "x-serverless-authorization" if own else "authorization"
    assert {headers[name] for headers in sent} == {f"Bearer {token}"}
    assert len(google.requests) == 1
    if own:
        assert {headers["authorization"] for headers in sent} == {f"Bearer {own}"}
