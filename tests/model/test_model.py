"""Plans drawn by fixed seeds; ``make model`` goes on with others for an hour."""

from __future__ import annotations

import pytest

from tests.model.bench import ModelBench
from tests.model.search import draw, try_plan

SEEDS = range(1, 31)
SHRINK_SECONDS = 20.0


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_to_a_worker_all_is_well_at_rest(bench: ModelBench, seed: int) -> None:
    """Every job has ended, no slot and no lock is left, every call has ended in its time."""
    failure = try_plan(bench, draw(seed), seed, shrink_seconds=SHRINK_SECONDS)

    if failure is not None:
        pytest.fail(f"to be pasted into test_found.py:\n{failure}", pytrace=False)
