"""Where the wake server listens: by both families of addresses, or where HOST says."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, Worker
from convolab_worker.server.server import WakeServer

BOTH = [socket.AF_INET, socket.AF_INET6]


async def _nothing(_: Job[Any]) -> None: ...


@pytest.mark.asyncio
@pytest.mark.parametrize("host", [None, "127.0.0.1", "no.such.host.test"])
async def test_the_server_listens_on_both_families_or_where_it_is_told(
    make_settings: Any, host: str | None
) -> None:
    """A HOST that is not an address of this machine is told of, and does not count."""
    handlers = HandlerRegistry()
    handlers.audio("work")(_nothing)
    with capture_logs() as logs:
        worker = Worker(handlers, make_settings(port=0, host=host))
        async with worker, WakeServer(worker) as server:
            families = [socket.AF_INET] if host == "127.0.0.1" or not socket.has_ipv6 else BOTH
            for family in families:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1" if family == socket.AF_INET else "::1", server.port
                )
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()
    ignored = [line["host"] for line in logs if line["event"] == "server.host_ignored"]
    assert ignored == ([host] if host == "no.such.host.test" else [])
