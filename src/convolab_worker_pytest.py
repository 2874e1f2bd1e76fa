"""The pytest plugin of convolab_worker: fixtures that import it when a test asks for them.

It is not a module of the package, since pytest loads plugins before anything measures coverage.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def convolab_server() -> Iterator[str]:
    """Return the address of a private Valkey server; it needs the extra ``embedded``."""
    from convolab_worker.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def convolab_worker(convolab_server: str) -> Callable[..., Any]:
    """Return what makes a worker on the private server, for an ``async with``: docs/testing.md."""
    from convolab_worker.testing import running_worker

    return partial(running_worker, redis_url=convolab_server)
