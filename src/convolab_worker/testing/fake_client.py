"""Clients without Redis, for the tests of applications: they keep jobs, and run none."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import AsyncIterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from convolab_worker.bullmq import schedulers
from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.bullmq.producer import COUNTED_STATES
from convolab_worker.bullmq.protocol.schedules import Schedule
from convolab_worker.client.adding import enqueue
from convolab_worker.client.adding.transactions import after_commit
from convolab_worker.client.client import JobClient, typed_result
from convolab_worker.client.events import JobEvent
from convolab_worker.client.job_status import JobStatus, not_found, seen
from convolab_worker.client.operating import actions, queues as of_queues, schedules
from convolab_worker.client.operating.demand import Demand
from convolab_worker.client.operating.queues import QueueStatus
from convolab_worker.client.sync.sync_client import SyncJobClient
from convolab_worker.errors import JobFailed, JobNotFound, JobNotRunning, WrongState
from convolab_worker.payloads.encode import encode_json
from convolab_worker.testing.enqueued import ANYTHING, EnqueuedJob, found_among

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

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
    TimeoutError at once, or AssertionError where the call would have waited for ever.
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
        self._kept: dict[tuple[str, str], JobStatus] = {}
        self._order: dict[tuple[str, str], int] = {}
        self._turns = itertools.count()
        self._deduplicated: dict[tuple[str, str], str] = {}
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
        self._end(self._find(job_id, queue), "completed", result=json.loads(encode_json(result)))

    def fail(self, job_id: str, reason: str, *, queue: str | None = None) -> None:
        """Let the job have failed for good with that reason. Raises JobNotFound."""
        self._end(self._find(job_id, queue), "failed", failed_reason=reason)

    def _end(self, job: JobStatus, state: str, **end: Any) -> None:
        made, now = job.attempts_made + 1, time.time()
        self._keep(
            job,
            state=state,
            attempts_made=made,
            processed_on=now,
            finished_on=now,
            due_at=None,
            **end,
        )

    def _keep(self, job: JobStatus, **changes: Any) -> JobStatus:
        kept = dataclasses.replace(job, **changes)
        self._kept[job.queue, job.id] = kept
        self._order[job.queue, job.id] = next(self._turns)
        return kept

    def _find(self, job_id: str, queue: str | None = None) -> JobStatus:
        where = self._queues(queue, job_id)
        for keys in where:
            job = self._kept.get((keys.queue, job_id))
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
        one_of = job.opts.get("deduplication", {}).get("id")
        existing = self._kept.get((queue, job.id))
        if one_of is not None and existing is None:
            kept = self._kept.get((queue, self._deduplicated.get((queue, one_of), "")))
            existing = kept if kept is not None and kept.finished_on is None else None
        if existing is not None:
            job_id = JobId(existing.id, queue=queue, job_type=new.job_type, existed=True)
            job_id.state = existing.state if tells_state else None
            return job_id
        if one_of is not None:
            self._deduplicated[queue, one_of] = job.id
        delay, priority = new.delay, job.opts.get("priority", 0)
        now, data = time.time(), json.loads(job.data)
        kept = JobStatus(
            id=job.id,
            queue=queue,
            name=job.name,
            state="delayed" if delay else "prioritized" if priority else "waiting",
            data=data,
            progress=0,
            result=None,
            failed_reason=None,
            attempts_made=0,
            timestamp=now,
            processed_on=None,
            finished_on=None,
            due_at=now + delay if delay else None,
            max_attempts=job.opts.get("attempts", 1),
            priority=priority,
            opts={"attempts": 0, **job.opts},
        )
        self._keep(kept)
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
            for state in states
            for job in sorted(self._kept.values(), key=self._place, reverse=not oldest_first)
            if job.state == state and job.queue in where and wanted.fits(seen(job), now)
        ]
        for job in found[:limit]:
            yield job

    def _place(self, job: JobStatus) -> tuple[float, int]:
        turn = self._order[job.queue, job.id]
        return (job.due_at or job.priority, turn)

    async def counts(self) -> dict[str, dict[str, int]]:
        return {keys.queue: self._counted(keys.queue) for keys in self._queues(None)}

    async def demand(self) -> Demand:
        states = [job.state for job in self._kept.values() if job.queue in self.settings.queues]
        ready = states.count("waiting") + states.count("prioritized")
        return Demand(ready=ready, active=states.count("active"))

    def _counted(self, queue: str) -> dict[str, int]:
        states = [job.state for job in self._kept.values() if job.queue == queue]
        return {state: states.count(state) for state in COUNTED_STATES}

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
        job = self._find(job_id, queue)
        if job.finished_on is not None or reason is None:
            msg = f"job {job.id!r} on {job.queue} is {job.state}"
            raise JobNotRunning(msg)
        del self._kept[job.queue, job.id]
        return "removed"

    async def _act(self, jobs: Jobs, queue: str | None, kind: actions.Kind, **how: bool) -> int:
        reset_attempts = how.get("reset_attempts", False)  # a job that never ran has no steps
        if isinstance(jobs, str | JobStatus):
            job = self._find(jobs, queue) if isinstance(jobs, str) else jobs
            if not self._acted(job, kind, reset_attempts=reset_attempts):
                msg = f"{kind} job {job.id!r} on {job.queue}: it is {job.state}"
                raise WrongState(msg)
            return 1
        several = [job async for job in jobs] if isinstance(jobs, AsyncIterable) else list(jobs)
        done = 0
        for each in several:
            try:
                job = self._find(each, queue) if isinstance(each, str) else each
            except JobNotFound:
                continue
            done += self._acted(job, kind, reset_attempts=reset_attempts)
        return done

    def _acted(self, job: JobStatus, kind: actions.Kind, *, reset_attempts: bool) -> bool:
        now = self._kept.get((job.queue, job.id))
        if now is None or now.state != job.state or now.state not in actions.STATES[kind]:
            return False
        if kind == "remove":
            del self._kept[job.queue, job.id]
            return True
        state = "prioritized" if now.priority else "waiting"
        ends = {"failed_reason": None} if now.state == "failed" else {"result": None}
        more = {**ends, "finished_on": None, "processed_on": None} if kind == "retry" else {}
        made = 0 if reset_attempts else now.attempts_made
        self._keep(now, state=state, due_at=None, attempts_made=made, **more)
        return True

    async def pause(self, queue: str | None = None) -> None:
        self._paused.update(keys.queue for keys in self._queues(queue))

    async def resume(self, queue: str | None = None) -> None:
        self._paused.difference_update(keys.queue for keys in self._queues(queue))

    async def clean(
        self, queue: str, state: str, older_than: float = 0.0, *, limit: int | None = None
    ) -> list[str]:
        checked = of_queues.checked_state(state)
        old = [job async for job in self.jobs(
            checked, queue=queue, older_than=older_than, oldest_first=True, limit=limit
        )]  # fmt: skip
        for job in old:
            del self._kept[job.queue, job.id]
        return [job.id for job in old]

    async def queues(
        self, names: Sequence[str] | None = None, *, find: bool = False
    ) -> list[QueueStatus]:
        if find:
            names = sorted({job.queue for job in self._kept.values()})
        return [
            QueueStatus(
                name=name,
                counts=self._counted(name),
                paused=name in self._paused,
                concurrency=None,
                workers=(),
                oldest_waiting=min(
                    (
                        job.timestamp or 0.0
                        for job in self._kept.values()
                        if job.queue == name and job.state in ("waiting", "prioritized")
                    ),
                    default=None,
                ),
            )
            for name in (names if names is not None else self.settings.queues)
        ]

    async def schedule(
        self, schedule_id: str, name: Any, data: Any = None, **options: Any
    ) -> JobId[Any]:
        new = schedules.addition(schedule_id, name, data, options, self._keys_of)
        now = round(time.time() * 1000)
        due = schedulers.next_due(new.schedule.repeat, now, now=now, seed=schedule_id) or now
        self._schedules[new.keys.queue, schedule_id] = Schedule(
            id=schedule_id,
            queue=new.keys.queue,
            name=new.schedule.name,
            next_at=due / 1000,
            every=options.get("every"),
            cron=options.get("cron"),
            tz=options.get("tz"),
            limit=options.get("limit"),
            data=json.loads(new.schedule.data),
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


class FakeSyncJobClient(SyncJobClient):
    """The same for code that takes a SyncJobClient; ``fake`` is the FakeJobClient behind it."""

    def __init__(self, settings: Settings | None = None, **options: Any) -> None:
        self.fake = FakeJobClient(settings, **options)
        super().__init__(self.fake.settings)

    @property
    def enqueued(self) -> list[EnqueuedJob]:
        """Every job that was added, in order."""
        return self.fake.enqueued

    def assert_enqueued(
        self, name: str, *, data: Any = ANYTHING, queue: str | None = None
    ) -> EnqueuedJob:
        """Return the first job of that name, data and queue. Raises AssertionError without one."""
        return self.fake.assert_enqueued(name, data=data, queue=queue)

    def complete(self, job_id: str, result: Any = None, *, queue: str | None = None) -> None:
        """Let the job have ended with that result. Raises JobNotFound."""
        self.fake.complete(job_id, result, queue=queue)

    def fail(self, job_id: str, reason: str, *, queue: str | None = None) -> None:
        """Let the job have failed for good with that reason. Raises JobNotFound."""
        self.fake.fail(job_id, reason, queue=queue)

    def _current(self) -> Any:
        return _InThisThread(self.fake)


class _InThisThread:
    """Runs the coroutines of a FakeJobClient, which wait for nothing."""

    def __init__(self, client: FakeJobClient) -> None:
        self.client = client

    def add(self, name: Any, data: Any, options: dict[str, Any]) -> Any:
        on_commit = options.pop("on_commit", None)
        new = enqueue.addition(name, data, options, self.client._keys_of)
        return self._stored([new], on_commit)[0]

    def add_many(self, jobs: Any, data: Any, options: dict[str, Any]) -> Any:
        on_commit = options.pop("on_commit", None)
        return self._stored(self.run(self.client._additions(jobs, data, options)), on_commit)

    def _stored(self, jobs: list[Addition], on_commit: Any) -> list[JobId[Any]]:
        def store() -> list[JobId[Any]]:
            return [self.client._store(new, tells_state=len(jobs) == 1) for new in jobs]

        if on_commit and after_commit(on_commit, store):
            return [new.job_id_to_be() for new in jobs]
        return store()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        while True:
            try:
                coroutine.send(None)
            except StopIteration as end:
                return end.value
