"""A client beyond the event loop in which it was made: a script's, or a task queue's."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from convolab_worker import JobClient, Settings
from convolab_worker.errors import ConfigurationError


def use_in_three_loops(client: JobClient) -> list[str]:
    """Add a job in one loop and one in the next; their states, seen in a third."""
    jobs = [asyncio.run(client.enqueue("work")) for _ in range(2)]

    async def states() -> list[str]:
        found = [(await client.status(job_id)).state for job_id in jobs]
        await client.close()
        return found

    return asyncio.run(states())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_client_goes_on_in_the_next_loop(make_settings: Callable[..., Settings]) -> None:
    """Each ``asyncio.run`` has a loop of its own; what was connected in the last one is gone."""
    seen = use_in_three_loops(JobClient(make_settings()))
    gc.collect()  # the connection of a loop that is closed can only be dropped, which Python tells

    assert seen == ["waiting", "waiting"]


def test_a_loop_that_runs_keeps_its_client(make_settings: Callable[..., Settings]) -> None:
    """Two loops at once can't share a connection, and are told so."""
    client = JobClient(make_settings())
    told: list[str] = []

    def elsewhere() -> None:
        with pytest.raises(ConfigurationError) as refused:
            asyncio.run(client.enqueue("work"))
        told.append(str(refused.value))

    async def main() -> None:
        await client.enqueue("work")
        other = threading.Thread(target=elsewhere)
        other.start()
        await asyncio.to_thread(other.join)
        await client.close()

    asyncio.run(main())

    assert "another event loop's" in told[0]
    assert "a SyncJobClient serves any thread and loop" in told[0]
