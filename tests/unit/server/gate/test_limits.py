"""Rate limits of clients, and what counts as a client."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from convolab_worker.server.gate.limits import RateLimit, client_address


def test_a_client_has_a_burst_and_then_its_rate() -> None:
    """Twice the rate at once; then one more each tenth of a second, at ten a second."""
    limit = RateLimit(10)

    assert [limit.admit("a", 100.0) for _ in range(20)] == [0.0] * 20
    assert limit.admit("a", 100.0) == pytest.approx(0.1)
    assert limit.admit("a", 100.1001) == 0.0
    assert limit.admit("a", 100.1001) > 0


def test_one_client_leaves_the_others_alone() -> None:
    """Each has a bucket of its own."""
    limit = RateLimit(1)
    while limit.admit("greedy", 0.0) == 0.0:
        pass

    assert limit.admit("modest", 0.0) == 0.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """A bucket is neither filled nor emptied."""
    limit = RateLimit(1)
    assert [limit.admit("a", 10.0) for _ in range(2)] == [0.0, 0.0]

    assert limit.admit("a", 5.0) == pytest.approx(1.0)


def test_clients_are_not_remembered_without_end() -> None:
    """The client that was quiet for longest is forgotten, and may send a burst again."""
    limit = RateLimit(1, max_clients=2)
    for name in ("a", "b"):
        assert limit.admit(name, 0.0) == 0.0
        assert limit.admit(name, 0.0) == 0.0
    assert limit.admit("a", 0.0) > 0
    limit.admit("c", 0.0)

    assert limit.admit("a", 0.0) > 0
    assert limit.admit("b", 0.0) == 0.0


@given(
    rate=st.integers(1, 100),
    pauses=st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=200),
)
def test_no_more_than_the_burst_and_the_rate_pass(rate: int, pauses: list[float]) -> None:
    """Whatever the timing: in any time, no more than rate times that time, and the burst."""
    limit, now, passed = RateLimit(rate), 0.0, 0
    for pause in pauses:
        now += pause
        passed += limit.admit("a", now) == 0.0

    assert passed <= rate * now + 2 * rate + 1e-6


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ([], "peer"),
        (["1.1.1.1, 2.2.2.2"], "2.2.2.2"),
        (["3.3.3.3", "1.1.1.1, 2.2.2.2"], "2.2.2.2"),
        (["spoofed,2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (["::ffff:2.2.2.2"], "2.2.2.2"),
        ([" , "], "peer"),
        (["2.2.2.2", "x" * 7500], "peer"),
        (["2.2.2.2", "\udcff"], "peer"),
    ],
)
def test_behind_a_front_end_the_last_address_counts(forwarded_for: list[str], client: str) -> None:
    """Cloud Run's front end added it; what stands before it is the client's own claim."""
    assert client_address("peer", forwarded_for, behind_front_end=True) == client


def test_elsewhere_the_header_is_not_believed() -> None:
    """Anybody can send one."""
    assert client_address("peer", ["1.1.1.1"], behind_front_end=False) == "peer"
