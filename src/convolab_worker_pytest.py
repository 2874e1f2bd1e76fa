"""The pytest plugin of convolab_worker: fixtures, which import it when a test asks for them.

A module beside the package and not in it: pytest loads plugins before anything measures coverage.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def convolab_server() -> Iterator[str]:
    """The address of a private Valkey for these tests alone; needs the extra ``embedded``."""
    from convolab_worker.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def convolab_worker(convolab_server: str) -> Callable[..., Any]:
    """Make workers on the private server, each for an ``async with`` (docs/testing.md)."""
    from convolab_worker.testing import running_worker

    return partial(running_worker, redis_url=convolab_server)
