"""Where connections go: on to a cluster's other nodes, and away from servers that can't serve."""

from __future__ import annotations

import pytest

from convolab_worker.connection.address import Address
from convolab_worker.connection.route import Route

pytestmark = pytest.mark.asyncio


class RouteUser:
    """Hears what connections are told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def leave(self, epoch: int, reason: str) -> None:
        """Keep it."""
        self.told.append((epoch, reason))


async def test_the_nodes_of_a_cluster_are_tried_in_turn_with_the_first_address() -> None:
    """So a node that is gone for good, even the configured one, is not an end."""
    route = Route(Address(host="seed"), prefix="{bull}")
    route.follow("a:1")
    route.learn([("a", 1), ("b", 2), ("a", 1)])
    tried = []

    for _ in range(5):
        tried.append(str(await route.locate()))
        route.fall_back()

    assert tried == ["a:1", "seed:6379", "a:1", "seed:6379", "b:2"]


async def test_a_server_that_can_not_serve_is_told_of_once_to_all() -> None:
    """What is said by connections to a server that was left already is not news."""
    route = Route(Address(host="h"))
    users = [RouteUser(), RouteUser()]
    for user in users:
        route.join(user)

    route.give_up_server(0, "READONLY")
    route.give_up_server(0, "READONLY again")

    assert [user.told for user in users] == [[(1, "READONLY")]] * 2
    assert route.is_unchecked
    route.note_serving(1)
    assert not route.is_unchecked
