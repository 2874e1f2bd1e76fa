"""What was lost from sight and may be active under its token: asked for until it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from convolab_worker._logs import Log
from convolab_worker.bullmq.worker_side.reconcile import find_by_token
from convolab_worker.errors import ReplyLost

if TYPE_CHECKING:
    from convolab_worker.bullmq.jobs.outcome import Outcome
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.worker.dispatch.stalled import StalledChecker
    from convolab_worker.worker.execution.executor import JobInHand

_log = Log()
# So often it is asked what became of a fetch, if the connection is lost with each question.
_MOST_QUESTIONS = 4


class LostJob(NamedTuple):
    """What a fetch took, or ``held``.

    The end of a job that is ``held`` may be written, and the call that wrote it may have fetched
    the next one under the same token.
    """

    queue: str
    token: str
    held: JobInHand | None = None

    def outcome_of(self, job: ActiveJob) -> Outcome | None:
        """What the job came to, if it is the one that was held, and has not been fetched since."""
        held = self.held
        if held is None or (held.job.id, held.job.starts) != (job.id, job.starts):
            return None
        return held.outcome


class LostJobs:
    """The jobs that were lost from sight. Who has found one takes it in hand, and removes it."""

    def __init__(self, backend: Backend, stalled: StalledChecker) -> None:
        self._backend = backend
        self._stalled = stalled
        self._lost: list[LostJob] = []
        self._questions: dict[str, int] = {}  # lost with the connection, by token

    def __bool__(self) -> bool:
        return bool(self._lost)

    def add(self, queue: str, token: str, held: JobInHand | None = None) -> None:
        self._lost.append(LostJob(queue, token, held))

    async def ask(self) -> tuple[LostJob, ActiveJob | None]:
        """The one that was lost last, and the job that is active in its place, if one is.

        Raises ReplyLost.
        """
        lost = self._lost[-1]
        try:
            job = await find_by_token(self._backend, lost.queue, lost.token)
        except ReplyLost:
            self._count_question(lost)
            raise
        if job is not None:
            _log.info("job.adopted", job_id=job.id, queue=lost.queue)
        return lost, job

    def remove(self, lost: LostJob) -> None:
        self._questions.pop(lost.token, None)
        self._lost.remove(lost)

    def _count_question(self, lost: LostJob) -> None:
        """The connection was lost with the question: after a few times the job is left to others.

        What a job has may be too large for its answer. Its lock runs out, and BullMQ's stalled
        checks, which do not read it, fail it in the end.
        """
        self._questions[lost.token] = self._questions.get(lost.token, 0) + 1
        if self._questions[lost.token] >= _MOST_QUESTIONS:
            self.remove(lost)
            self._stalled.schedule(lost.queue)
            _log.error("job.not_adopted", queue=lost.queue, losses=_MOST_QUESTIONS)
