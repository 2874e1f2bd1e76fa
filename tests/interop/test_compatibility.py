"""docs/bullmq.md has the table that the suite's scenarios and differences make."""

from __future__ import annotations

import pytest

from tests.interop.compatibility import documented, groups, table
from tests.interop.session import scenario_names
from tests.support.node import NodeScripts

# Every kind of scenario that a Node user's application may need.
ABOUT = {
    "results and data", "failures and attempts", "order", "deduplication", "removal", "flows",
    "progress and logs", "control", "accidents", "job schedulers", "an API",
}  # fmt: skip


@pytest.fixture(scope="module")
def compared(node: NodeScripts) -> dict[str, list[str]]:
    """The compared scenarios by what they are about."""
    del node
    return groups()


def test_the_page_has_the_suites_table(compared: dict[str, list[str]]) -> None:
    """``make compatibility`` writes it."""
    assert documented() == table(compared)


def test_every_compared_scenario_is_in_the_table(compared: dict[str, list[str]]) -> None:
    """And each is run by both workers with both versions (test_differential.py)."""
    assert compared.keys() == ABOUT
    assert sorted(name for names in compared.values() for name in names) == sorted(scenario_names())
