"""What every test can ask for: a real server, a queue of its own, settings, Redis, Node."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from hypothesis import HealthCheck, settings as hypothesis_settings
from redis.asyncio import Redis

from convolab_worker.embedded import EmbeddedServer
from convolab_worker.settings import Settings
from tests.support.node import NodeScripts
from tests.support.parsing import parse_undisturbed
from tests.support.proxy import TcpProxy
from tests.support.server import TEST_OPTIONS, ServerProcess, server_program


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fail-on-skip, which the variable FAIL_ON_SKIP=1 sets too."""
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        default=os.environ.get("FAIL_ON_SKIP", "") not in {"", "0"},
        help="turn every skipped test into a failed one (also FAIL_ON_SKIP=1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the settings of whoever runs the tests out of them, and the speed of the machine."""
    del config
    parse_undisturbed()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a script's background; what the tests start would ignore Ctrl-C too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    slow = [HealthCheck.too_slow]
    hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=slow)
    hypothesis_settings.load_profile("untimed")
    for name in [*os.environ]:
        if name.startswith("CONVOLAB_") or name in {"REDIS_URL", "PORT", "K_SERVICE"}:
            del os.environ[name]


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """Let no test's logging last: a program's configuration has loggers keep what they have."""
    yield
    structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skip as a failure where skips are not allowed."""
    del call
    report = yield
    _forbid_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Report a module that skips itself as a failure where skips are not allowed."""
    report = yield
    _forbid_skip(collector.config, report)
    return report


def _forbid_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("fail_on_skip"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skips are failures here: {reason}"


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The server that all tests share; never flush it: use a queue of your own."""
    with EmbeddedServer(options=TEST_OPTIONS, program=server_program()) as server:
        yield server


@pytest.fixture(scope="session")
def server_url(server: EmbeddedServer) -> str:
    """Where the shared server is, in the form that REDIS_URL takes."""
    return server.url


@pytest.fixture(scope="session")
def convolab_server(server_url: str) -> str:
    """The plugin's fixture, on the shared server, which is whatever program is tested."""
    return server_url


@pytest.fixture
def queue_name() -> str:
    """The name of a queue that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def make_settings(server_url: str, queue_name: str) -> Callable[..., Settings]:
    """Make settings for the shared server and the test's own queue, with overrides."""

    def make(**overrides: Any) -> Settings:
        defaults: dict[str, Any] = {
            "redis_url": server_url,
            "queues": (queue_name,),
            "idle_min": 0.05,
            "idle_max": 0.5,
            "shutdown_grace": 2.0,
        }
        return Settings(**{**defaults, **overrides})

    return make


@pytest_asyncio.fixture
async def redis(server_url: str) -> AsyncIterator[Redis]:
    """A client of the shared server that gives and takes strings."""
    async with Redis.from_url(server_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start servers for this test alone; with ``durable=True`` their data survives restarts."""
    with ExitStack() as running:
        count = 0

        def start(
            *, durable: bool = False, options: Mapping[str, str] | None = None
        ) -> ServerProcess:
            nonlocal count
            count += 1
            data_dir = tmp_path / f"server-{count}" if durable else None
            return running.enter_context(ServerProcess(data_dir=data_dir, options=options))

        yield start


@pytest.fixture
def start_proxy() -> Iterator[Callable[[EmbeddedServer], TcpProxy]]:
    """Put proxies in front of servers, for this test alone."""
    with ExitStack() as running:
        yield lambda server: running.enter_context(TcpProxy(server.port))


@pytest.fixture(scope="session")
def node() -> NodeScripts:
    """The Node scripts of tests/interop; skips where Node or its packages are missing."""
    missing = NodeScripts.missing()
    if missing is not None:
        pytest.skip(missing)
    return NodeScripts()
