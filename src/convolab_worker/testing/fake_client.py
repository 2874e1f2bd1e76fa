"""A client without Redis, for the tests of applications: it keeps jobs, and runs none."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from convolab_worker.bullmq import schedulers
from convolab_worker.bullmq.job_lock import IDLE
from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.bullmq.protocol.schedules import Schedule
from convolab_worker.client.client import JobClient
from convolab_worker.client.events import JobEvent
from convolab_worker.client.following import check_reason, not_running, typed_result
from convolab_worker.client.job_status import JobStatus, seen
from convolab_worker.client.lookup import not_found
from convolab_worker.client.operating import actions, queues as of_queues
from convolab_worker.client.operating.demand import Demand
from convolab_worker.client.operating.queues import QueueStatus
from convolab_worker.errors import JobFailed, JobNotFound, JobNotRunning, WrongState
from convolab_worker.payloads.encode import encode_json
from convolab_worker.testing.enqueued import ANYTHING, EnqueuedJob, found_among
from convolab_worker.testing.kept_jobs import KeptJobs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.adding.enqueue import Addition
    from convolab_worker.client.operating.actions import Jobs
    from convolab_worker.client.operating.filters import Wanted
    from convolab_worker.client.session import Session
    from convolab_worker.settings import Settings


class FakeJobClient(JobClient):
    """A JobClient that keeps jobs in memory, and runs none.

    It checks what JobClient checks. ``enqueued`` has every job that was added, in order. A job ends
    by ``complete`` or ``fail``, or as soon as it is added if ``answers`` has its name: with that
    result or, for an exception, that failure. ``result`` of a job that has not ended raises
    TimeoutError at once, or AssertionError where the call would have waited for ever. Jobs that
    have ended stay, whatever ``keep_completed`` and ``keep_failed`` say.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        answers: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(settings, **overrides)
        self._waker = None
        self.answers: dict[str, Any] = {} if answers is None else answers
        self.enqueued: list[EnqueuedJob] = []
        self._kept = KeptJobs()
        self._paused: set[str] = set()
        self._schedules: dict[tuple[str, str], Schedule] = {}

    # what a test does

    def assert_enqueued(
        self, name: str, *, data: Any = ANYTHING, queue: str | None = None
    ) -> EnqueuedJob:
        """Return the first job of that name, data and queue. Raises AssertionError without one."""
        return found_among(self.enqueued, name, data=data, queue=queue)

    def complete(self, job_id: str, result: Any = None, *, queue: str | None = None) -> None:
        """Let the job have ended with that result. Raises JobNotFound."""
        done = json.loads(encode_json(result))
        self._kept.end(self._find(job_id, queue), "completed", result=done)

    def fail(self, job_id: str, reason: str, *, queue: str | None = None) -> None:
        """Let the job have failed for good with that reason. Raises JobNotFound."""
        self._kept.end(self._find(job_id, queue), "failed", failed_reason=reason)

    def _find(self, job_id: str, queue: str | None = None) -> JobStatus:
        where = self._queues(queue, job_id)
        for keys in where:
            job = self._kept.get(keys.queue, job_id)
            if job is not None:
                return job
        raise not_found(where, job_id)

    # adding

    async def _add(self, session: Session, new: Addition, **tried: Any) -> JobId[Any]:
        del session, tried
        return self._store(new, tells_state=True)

    async def _add_many(self, session: Session, additions: list[Addition]) -> list[JobId[Any]]:
        del session
        return [self._store(new, tells_state=False) for new in additions]

    def _store(self, new: Addition, *, tells_state: bool) -> JobId[Any]:
        job, queue = new.job, new.keys.queue
        existing = self._kept.add(new)
        if existing is not None:
            job_id = JobId(existing.id, queue=queue, job_type=new.job_type, existed=True)
            job_id.state = existing.state if tells_state else None
            return job_id
        data = json.loads(job.data)
        self.enqueued.append(EnqueuedJob(id=job.id, name=job.name, queue=queue, data=data))
        if job.name in self.answers:
            answer = self.answers[job.name]
            if isinstance(answer, BaseException):
                self.fail(job.id, str(answer), queue=queue)
            else:
                self.complete(job.id, answer, queue=queue)
        return new.job_id_to_be()

    # reading

    async def status(self, job_id: str, queue: str | None = None) -> JobStatus:
        return self._find(job_id, queue)

    async def result(
        self, job_id: str, timeout: float | None = None, queue: str | None = None
    ) -> Any:
        job = self._ended(job_id, queue, has_patience=timeout is None)
        if job.state == "failed":
            raise JobFailed(job_id, job.failed_reason or "")
        return typed_result(job_id, job.result)

    async def watch(self, job_id: str, queue: str | None = None) -> AsyncGenerator[JobEvent, None]:
        job = self._ended(job_id, queue, has_patience=True)
        told = job.result if job.state == "completed" else job.failed_reason
        yield JobEvent(job.id, job.state, told)

    def _ended(self, job_id: str, queue: str | None, *, has_patience: bool) -> JobStatus:
        job = self._find(job_id, queue)
        if job.finished_on is not None:
            return job
        if not has_patience:
            raise TimeoutError
        msg = f"job {job.id} ({job.name}) has not ended: expected complete(), fail() or answers"
        raise AssertionError(msg)

    async def _found(
        self,
        states: Sequence[str],
        queues: Sequence[QueueKeys],
        wanted: Wanted,
        limit: int | None,
        *,
        oldest_first: bool,
    ) -> AsyncGenerator[JobStatus, None]:
        where, now = {keys.queue for keys in queues}, time.time()
        found = [
            job
            for job in self._kept.in_states(states, oldest_first=oldest_first)
            if job.queue in where and wanted.fits(seen(job), now)
        ]
        for job in found[:limit]:
            yield job

    async def counts(self) -> dict[str, dict[str, int]]:
        return {keys.queue: self._kept.counts(keys.queue) for keys in self._queues(None)}

    async def demand(self) -> Demand:
        states = [job.state for job in self._kept.of(self.settings.queues)]
        ready = states.count("waiting") + states.count("prioritized")
        return Demand(ready=ready, active=states.count("active"))

    async def logs(self, job_id: str, queue: str | None = None) -> list[str]:
        self._find(job_id, queue)
        return []

    # operating

    async def cancel(
        self,
        job_id: str,
        *,
        reason: str | None = "cancelled",
        queue: str | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> str:
        del timeout, wait
        check_reason(reason)
        job = self._find(job_id, queue)
        if job.finished_on is not None or reason is None:
            raise JobNotRunning(not_running(IDLE, job))
        self._kept.remove(job)
        return "removed"

    async def _act(self, jobs: Jobs, queue: str | None, kind: actions.Kind, **how: bool) -> int:
        reset_attempts = how.get("reset_attempts", False)  # a job that never ran has no steps
        if isinstance(jobs, str | JobStatus):
            job = self._find(jobs, queue) if isinstance(jobs, str) else jobs
            if not self._kept.act(job, kind, reset_attempts=reset_attempts):
                msg = f"{kind} job {job.id!r} on {job.queue}: it is {job.state}"
                raise WrongState(msg)
            return 1
        several = [job async for job in jobs] if isinstance(jobs, AsyncIterable) else list(jobs)
        done = 0
        for each in several:
            try:
                job = each if isinstance(each, JobStatus) else self._find(each, queue)
            except JobNotFound:
                continue
            done += self._kept.act(job, kind, reset_attempts=reset_attempts)
        return done

    async def pause(self, queue: str | None = None) -> None:
        self._paused.update(keys.queue for keys in self._queues(queue))

    async def resume(self, queue: str | None = None) -> None:
        self._paused.difference_update(keys.queue for keys in self._queues(queue))

    async def clean(
        self, queue: str, state: str, older_than: float = 0.0, *, limit: int | None = None
    ) -> list[str]:
        checked = of_queues.checked_state(state)
        self._keys_of(queue)  # raises for a name that can't be
        old = [job async for job in self.jobs(
            checked, queue=queue, older_than=older_than, oldest_first=True, limit=limit
        )]  # fmt: skip
        for job in old:
            self._kept.remove(job)
        return [job.id for job in old]

    async def queues(
        self, names: Sequence[str] | None = None, *, find: bool = False
    ) -> list[QueueStatus]:
        if find:
            names = self._kept.queues()
        return [
            QueueStatus(
                name=name,
                counts=self._kept.counts(name),
                paused=name in self._paused,
                concurrency=None,
                workers=(),
                oldest_waiting=min(
                    (
                        job.timestamp or 0.0
                        for job in self._kept.of({name})
                        if job.state in ("waiting", "prioritized")
                    ),
                    default=None,
                ),
            )
            for name in (names if names is not None else self.settings.queues)
        ]

    async def schedule(
        self, schedule_id: str, name: Any, data: Any = None, **options: Any
    ) -> JobId[Any]:
        new = self._schedule(schedule_id, name, data, options)
        now = round(time.time() * 1000)
        due = schedulers.next_due(new.schedule.repeat, now, now=now, seed=schedule_id) or now
        self._schedules[new.keys.queue, schedule_id] = Schedule(
            id=schedule_id,
            queue=new.keys.queue,
            name=new.schedule.name,
            next_at=due / 1000,
            every=None if (every := options.get("every")) is None else float(every),
            cron=options.get("cron"),
            tz=options.get("tz"),
            limit=options.get("limit"),
            data=json.loads(new.schedule.data) or None,
            options=new.schedule.opts,
            start=_seconds(options.get("start")),
            until=_seconds(options.get("until")),
        )
        return JobId(f"repeat:{schedule_id}:{due}", queue=new.keys.queue, job_type=new.job_type)

    async def unschedule(self, schedule_id: str, queue: str | None = None) -> bool:
        found = [
            self._schedules.pop((keys.queue, schedule_id), None) for keys in self._queues(queue)
        ]
        return any(schedule is not None for schedule in found)

    async def schedules(self, queue: str | None = None) -> list[Schedule]:
        where = {keys.queue for keys in self._queues(queue)}
        found = [each for each in self._schedules.values() if each.queue in where]
        return sorted(found, key=lambda schedule: schedule.next_at)

    async def wake_heard(self, timeout: float) -> bool:
        del timeout
        return True

    async def close(self) -> None:
        return

    def _current_session(self) -> Session:
        return cast("Session", None)  # nothing is connected


def _seconds(moment: datetime | float | None) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else moment
