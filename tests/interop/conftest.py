"""Node sessions that the interop tests share, one for each major version of BullMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.differential import Bench
from tests.interop.session import HERE, PACKAGES, NodeSession, scenario_names
from tests.support.node import HOW_TO_RUN, NodeScripts


@pytest.fixture(scope="session", params=list(PACKAGES), ids=[f"bullmq{v}" for v in PACKAGES])
def session(request: pytest.FixtureRequest, server_url: str) -> Iterator[NodeSession]:
    """A Node process with that version of BullMQ; skips where Node or a package is missing."""
    missing = NodeScripts.missing()
    if missing is None and not (HERE / "node_modules" / PACKAGES[request.param]).is_dir():
        missing = f"npm package {PACKAGES[request.param]} is not installed: {HOW_TO_RUN}"
    if missing is not None:
        pytest.skip(missing)
    with NodeSession(request.param, server_url) as running:
        yield running


@pytest.fixture(scope="session")
def bench(session: NodeSession, server_url: str) -> Bench:
    """Runs scenarios by either worker, with that session as the producer."""
    return Bench(session, server_url)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a scenario once for each."""
    if "scenario" in metafunc.fixturenames:
        metafunc.parametrize("scenario", scenario_names() or [pytest.param("", id="none")])
