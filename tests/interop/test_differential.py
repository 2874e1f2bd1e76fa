"""The same scenario by Node's worker and by ours: nobody who looks can tell which it was."""

from __future__ import annotations

import pytest

from tests.interop.differences import unexplained
from tests.interop.differential import Bench
from tests.interop.normalise import gaps, tolerance_with
from tests.support.stopwatch import Stopwatch


@pytest.mark.asyncio
async def test_our_worker_leaves_what_nodes_worker_leaves(bench: Bench, scenario: str) -> None:
    """Keys, events and what Node's API reports are the same, but for documented differences."""
    with Stopwatch() as watch:
        theirs = await bench.by_node(scenario)

        ours = await bench.by_ours(scenario)

    found = unexplained(list(gaps(theirs, ours, tolerance_with(watch))), scenario)
    assert not found, "\n".join([f"{len(found)} undocumented differences:", *map(str, found)])
