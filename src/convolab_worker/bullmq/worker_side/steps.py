"""Steps: their results in a job's own hash, where the fetch that brings the job back finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.bullmq.worker_side import reconcile
from convolab_worker.connection.commands.error_replies import is_of_another_type
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import LockLost, RedisRefused

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend


class Recorded(NamedTuple):
    """What was written of a step: the ``result`` that is kept, and whether the lock was renewed."""

    result: bytes
    renewed: bool


async def record(backend: Backend, job: ActiveJob, name: str, result: str) -> Recorded:
    """Keeps a step's result (JSON text) with the job, unless the step has one already.

    One command. Raises LockLost if the job is not this worker's any more.
    """
    call = backend.transitions[job.queue].record_step(job, name, result)
    try:
        answer = await run_script(backend.connection, Purpose.STEP, call)
    except RedisRefused as error:
        if not is_of_another_type(str(error)):
            raise
        await reconcile.set_aside(backend, job.queue, job.id, job)
        answer = await run_script(backend.connection, Purpose.STEP, call)
    if answer is None:
        msg = f"step {name!r} was not recorded: the job's lock is gone"
        raise LockLost(msg, ran_out=True)
    if isinstance(answer, list):
        return Recorded(answer[1], renewed=True)
    return Recorded(result.encode(), renewed=text(answer) == "renewed")
