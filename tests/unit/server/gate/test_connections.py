"""Which connection goes when there is no place, and which has taken too long."""

from __future__ import annotations

from hypothesis import given, strategies as st

from convolab_worker.server.gate.connections import (
    CROWDED_IDLE_SECONDS,
    HEAD_SECONDS,
    IDLE_SECONDS,
    SPARE_PLACES,
    Activity,
    ConnectionTable,
    Placement,
)


def table(limit: int, *, share: float = 1.0, peer: str = "a") -> ConnectionTable[int]:
    """A table whose places are all taken by ``peer``, by connections that are being served."""
    full: ConnectionTable[int] = ConnectionTable(limit, share=share)
    for number in range(limit):
        full.add(number, peer, 0.0)
        full.move(number, Activity.SERVING, 0.0)
    return full


def test_who_is_idle_goes_first_and_the_longest_before_others() -> None:
    full = table(4)
    full.move(3, Activity.READING, 1.0)
    full.move(1, Activity.SLOWED, 2.0)
    full.move(2, Activity.IDLE, 3.0)
    full.move(0, Activity.IDLE, 4.0)

    order = []
    for number in range(10, 14):
        placement = full.place("b")
        assert placement.drop is not None
        order.append(placement.drop)
        full.remove(placement.drop)
        full.add(number, "b", 5.0)
        full.move(number, Activity.SERVING, 5.0)

    assert order == [2, 0, 1, 3]


def test_nobody_who_is_served_is_dropped_and_the_newcomer_may_probe() -> None:
    full = table(4)
    for number in range(SPARE_PLACES):
        assert full.place("b") == Placement(probes_only=True)
        full.add(100 + number, "b", 0.0, is_spare=True)

    assert full.place("b") == Placement(drop=100, probes_only=True)


def test_a_peer_has_its_share_and_then_drops_its_own() -> None:
    shared: ConnectionTable[int] = ConnectionTable(4, share=0.5)
    shared.add(1, "other", 0.0)
    shared.move(1, Activity.IDLE, 0.0)
    for number in (2, 3):
        shared.add(number, "greedy", 1.0)
        shared.move(number, Activity.IDLE, 1.0)

    assert shared.place("greedy") == Placement(drop=2)
    assert shared.place("third") == Placement()


def test_connections_are_overdue_sooner_when_three_of_four_places_are_used() -> None:
    shared: ConnectionTable[int] = ConnectionTable(4, share=1.0)
    for number in range(3):
        shared.add(number, "a", 0.0)
        shared.move(number, Activity.IDLE, float(number))
    assert shared.overdue(CROWDED_IDLE_SECONDS + 1) == []
    assert shared.overdue(IDLE_SECONDS + 1) == [(0, "idle"), (1, "idle")]

    shared.add(3, "a", 5.0)

    assert shared.overdue(CROWDED_IDLE_SECONDS + 1) == [(0, "idle"), (1, "idle")]
    assert shared.overdue(5.0 + HEAD_SECONDS)[-1] == (3, "slow")


def test_what_was_removed_is_forgotten() -> None:
    full = table(2)

    full.remove(0)
    full.remove(0)
    full.move(0, Activity.IDLE, 9.0)

    assert (len(full), full.place("b")) == (1, Placement())


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["come", "move", "leave"]), st.integers(0, 9), st.integers(0, 3))
    ),
    share=st.sampled_from([0.5, 1.0]),
)
def test_there_are_never_more_than_the_limit_and_the_spare_places(
    steps: list[tuple[str, int, int]], share: float
) -> None:
    """Whatever they do: the limit holds, a peer's share too, and none that is served is dropped."""
    known: ConnectionTable[int] = ConnectionTable(6, share=share)
    peers: dict[int, str] = {}
    served: set[int] = set()
    activities = list(Activity)
    for at, (what, who, how) in enumerate(steps):
        there = sorted(peers)
        if what == "come":
            peer = "abc"[how % 3]
            placement = known.place(peer)
            if placement.drop is not None:
                assert placement.drop not in served or placement.probes_only
                known.remove(placement.drop)
                peers.pop(placement.drop)
            known.add(at, peer, float(at), is_spare=placement.probes_only)
            peers[at] = peer
        elif there and what == "move":
            mover, activity = there[who % len(there)], activities[how]
            known.move(mover, activity, float(at))
            served.discard(mover)
            if activity is Activity.SERVING:
                served.add(mover)
        elif there:
            gone = there[who % len(there)]
            known.remove(gone)
            peers.pop(gone)

        assert len(known) == len(peers) <= 6 + SPARE_PLACES
