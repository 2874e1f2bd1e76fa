"""What the fault tests share: a bench with a server of the test's own, and a ledger elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench, Ledger
from tests.faults.stalls import Stage
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess


@pytest.fixture
def ledger(server_url: str, queue_name: str) -> Iterator[Ledger]:
    """The test's ledger, on the server that all tests share."""
    ledger = Ledger(server_url, f"ledger:{queue_name}")
    yield ledger
    ledger.close()


@pytest.fixture
def bench(
    start_server: Callable[..., ServerProcess], ledger: Ledger, queue_name: str, tmp_path: Path
) -> Iterator[Bench]:
    """A queue on a durable server of the test's own, to be harmed."""
    with Bench(start_server(durable=True), ledger, queue_name, tmp_path) as bench:
        yield bench


@pytest.fixture
def safe_bench(
    server: EmbeddedServer, ledger: Ledger, queue_name: str, tmp_path: Path
) -> Iterator[Bench]:
    """A queue on the server that all tests share, for faults that are not the server's."""
    with Bench(server, ledger, queue_name, tmp_path) as bench:
        yield bench


@pytest.fixture
def stage(
    safe_bench: Bench, server: EmbeddedServer, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> Stage:
    """A worker's stage behind a proxy, on the server that all tests share."""
    return Stage(safe_bench, start_proxy(server))


@pytest.fixture
def proxy(server: EmbeddedServer, start_proxy: Callable[[EmbeddedServer], TcpProxy]) -> TcpProxy:
    """A network to the server that all tests share; its links are those of who is tested."""
    return start_proxy(server)
