"""What could not be asked after an event of a queue is asked later, and ends nobody's job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from convolab_worker.worker.dispatch.idle_backoff import Bounds
from convolab_worker.worker.dispatch.prober import QueueProber
from convolab_worker.worker.dispatch.queue_state import FollowUp
from convolab_worker.worker.dispatch.queue_table import QueueTable
from convolab_worker.worker.dispatch.slots import Slots
from convolab_worker.worker.dispatch.stalled import StalledChecker
from tests.integration.bullmq.conftest import LOCK_SECONDS

if TYPE_CHECKING:
    from tests.integration.bullmq.conftest import BackendOfWorker

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    "wanted", [FollowUp.ASK_DUE, FollowUp.ASK_WHY_STOPPED, FollowUp.ASK_LIMITS]
)
async def test_a_question_without_an_answer_has_every_queue_probed(
    ours: BackendOfWorker, wanted: FollowUp
) -> None:
    slots: Slots[str] = Slots(
        concurrency=1, park_limit=0, handlers_of={ours.queue: ("h",)}, limits={}
    )
    table = QueueTable([ours.queue], slots)
    stalled = StalledChecker(
        ours.backend, lambda _: set(), max_stalled=1, lock_duration=LOCK_SECONDS
    )
    prober = QueueProber(
        ours.backend, table, stalled, lambda _: set(), Bounds(shortest=1.0, longest=2.0)
    )
    ours.backend.connection.abort("cut")

    await prober.follow_up(ours.queue, wanted)

    assert table.needs_probe
