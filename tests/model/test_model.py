"""Random plans from fixed seeds, against a worker; ``make model`` runs others for an hour."""

from __future__ import annotations

import pytest

from tests.model.processes import Search, search_in

SEED = 14
PLANS, PROCESSES = 28, 3


@pytest.mark.timeout(900)  # a plan that fails is shrunk first
def test_whatever_happens_to_a_worker_all_is_well_at_rest() -> None:
    """Every job has ended, no slot and no lock is lost, and every call has returned in time."""
    wanted = Search(seed=SEED, minutes=5.0, plans=PLANS, shrink_seconds=20.0)

    report = search_in(PROCESSES, wanted)

    if report.failures:  # each was printed when it was found
        pytest.fail(f"{report}; what failed can be pasted into test_found.py", pytrace=False)
    assert report.plans == PLANS * PROCESSES
