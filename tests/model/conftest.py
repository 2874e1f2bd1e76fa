"""A server of its own for the model: plans flush its scripts and look at all its connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.bench import ModelBench
from tests.support.server import ServerProcess


@pytest.fixture(scope="module")
def bench() -> Iterator[ModelBench]:
    """The server that plans run on."""
    with ServerProcess() as server, ModelBench(server) as bench:
        yield bench
