"""Random jobs, run by Node's worker and by ours: every field, list and event is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.options_fuzz import compare

if TYPE_CHECKING:
    from tests.support.node import NodeScripts

pytestmark = pytest.mark.asyncio
SEED = 20_261_126


@pytest.mark.parametrize(
    "count",
    [pytest.param(100, id="short"), pytest.param(2000, id="long", marks=pytest.mark.long)],
)
async def test_random_jobs_end_as_with_nodes_worker(
    node: NodeScripts, server_url: str, count: int
) -> None:
    """The long form begins with the short one's jobs."""
    found = await compare(node, server_url, SEED, count)

    assert not found.differ, "\n".join(found.differ)
    assert found.better < count / 2, "most jobs are such that both workers run them"
