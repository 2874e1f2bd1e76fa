"""The process of a command."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from convolab_worker.cli.process.process import run_in_loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_imported_is_not_looked_through_again() -> None:
    """A full collection over an application's modules would hold up its jobs."""

    async def frozen() -> int:
        return gc.get_freeze_count()

    assert run_in_loop(frozen()) > len(gc.get_objects())
