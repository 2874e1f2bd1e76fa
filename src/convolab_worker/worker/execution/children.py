"""Lets a job wait for the children that its handler has asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.jobs.child_jobs import nothing_to_wait_for
from convolab_worker.bullmq.jobs.outcome import Failed, Outcome, Returned
from convolab_worker.bullmq.worker_side import flows, reconcile
from convolab_worker.errors import ConvolabWorkerError, LockLost
from convolab_worker.payloads.encode import byte_size
from convolab_worker.worker.execution.losses import too_large

if TYPE_CHECKING:
    from convolab_worker.bullmq.jobs.child_jobs import ChildJob
    from convolab_worker.bullmq.jobs.outcome import AwaitsChildren
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.worker.execution.executor import JobInHand


class Aborted(ConvolabWorkerError):
    """The job comes to ``outcome`` instead: it was told to end while children were added."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the job was told to end")
        self.outcome = outcome


async def await_children(
    backend: Backend, held: JobInHand, outcome: AwaitsChildren, max_size: int
) -> bool:
    """Add the children, and let the job wait for them; whether it runs again at once instead.

    Raises Aborted if the job is told to end meanwhile, and LockLost if it was moved on before.
    """
    job = held.job
    for _ in range(2):
        added = await _add_children(backend, held, outcome, max_size)
        if await backend.await_children(job, flows.keys_going_on(backend, job, added)):
            return False
        if not await reconcile.holds(backend, job):
            # A write before this one was executed, and the children have ended since.
            msg = "the job was moved on by a write whose answer was lost"
            raise LockLost(msg, ran_out=True)
        if await flows.have_ended(backend, job, outcome.children):
            return True
    # Twice there was nothing to wait for, and nothing had ended: it would go round for ever.
    raise nothing_to_wait_for(outcome.children, ())


async def _add_children(
    backend: Backend, held: JobInHand, outcome: AwaitsChildren, max_size: int
) -> list[ChildJob]:
    """Add the children that have not ended, and give those.

    Raises Aborted if the job is told to end, and there are more to add. The next run, which asks
    for the same children, adds those. A job that a failed child keeps from ever completing gets
    none: they would run for nothing.
    """
    job = held.job
    if job.starts > 1:  # a job that was retried by hand, and the child that failed it was not
        reason = await reconcile.failed_child_reason(backend, job)
        if reason is not None:
            raise Aborted(Failed(reason))
    left = await flows.left_to_add(backend, job, outcome.children)
    is_first = True
    for batch in flows.pipelines(backend, job, left, outcome.carried):
        if held.aborted is not None and not is_first:
            raise Aborted(held.aborted.outcome or Returned())
        job.has_asked, is_first = True, False
        job.largest_child = max(byte_size(child.data) for _, child in batch)
        if job.largest_child > max_size:
            raise Aborted(too_large(outcome, job.largest_child, max_size))
        await producer.add_all(backend.connection, batch)
    return left
