"""A running worker and a client, for tests on the shared server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from convolab_worker import HandlerRegistry, JobClient, Settings, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager


@pytest_asyncio.fixture
async def client(make_settings: Callable[..., Settings]) -> AsyncIterator[JobClient]:
    """A client of the test's own queue."""
    async with JobClient(make_settings()) as client:
        yield client


@pytest.fixture
def running(
    make_settings: Callable[..., Settings],
) -> Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]:
    """Run a worker with some handlers, and give it with a client of the same queues."""

    @asynccontextmanager
    async def run(
        handlers: HandlerRegistry, **overrides: Any
    ) -> AsyncIterator[tuple[Worker, JobClient]]:
        settings = make_settings(**overrides)
        async with JobClient(settings) as client, Worker(handlers, settings) as worker:
            yield worker, client

    return run
