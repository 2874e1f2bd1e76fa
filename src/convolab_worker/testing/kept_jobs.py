"""The jobs of a FakeJobClient: in memory, as their records in Redis would be. Runs none."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from math import inf
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.producer import COUNTED_STATES
from convolab_worker.client.job_status import JobStatus
from convolab_worker.client.operating import actions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from convolab_worker.bullmq.protocol.client_calls import NewJob
    from convolab_worker.client.adding.enqueue import Addition


class KeptJobs:
    """Jobs by queue and id, in the order in which they came into their states."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], JobStatus] = {}
        self._order: dict[tuple[str, str], int] = {}
        self._turns = itertools.count()
        # By queue and deduplication's id: the job's id, and until when it keeps others away.
        self._deduplicated: dict[tuple[str, str], tuple[str, float]] = {}

    def get(self, queue: str, job_id: str) -> JobStatus | None:
        return self._jobs.get((queue, job_id))

    def of(self, queues: Collection[str]) -> list[JobStatus]:
        return [job for job in self._jobs.values() if job.queue in queues]

    def in_states(self, states: Sequence[str], *, oldest_first: bool) -> list[JobStatus]:
        """Return the jobs of these states, one state after the other, as Redis would list them."""
        jobs = sorted(self._jobs.values(), key=self._place, reverse=not oldest_first)
        return [job for state in states for job in jobs if job.state == state]

    def counts(self, queue: str) -> dict[str, int]:
        states = [job.state for job in self.of({queue})]
        return {state: states.count(state) for state in COUNTED_STATES}

    def queues(self) -> list[str]:
        return sorted({job.queue for job in self._jobs.values()})

    def add(self, new: Addition) -> JobStatus | None:
        """Keep a new job; or return the one that keeps it away, by its id or by deduplication."""
        job, queue = new.job, new.keys.queue
        existing = self.get(queue, job.id) or self._deduplicating(queue, job)
        if existing is not None:
            return existing
        delay, priority, now = new.delay, job.opts.get("priority", 0), time.time()
        self._keep(
            JobStatus(
                id=job.id,
                queue=queue,
                name=job.name,
                state="delayed" if delay else "prioritized" if priority else "waiting",
                data=json.loads(job.data),
                progress=None,
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
        )
        return None

    def _deduplicating(self, queue: str, job: NewJob) -> JobStatus | None:
        """Return the job that keeps this one away; else this one keeps others away from now on."""
        option = job.opts.get("deduplication")
        if option is None:
            return None
        place, now, ttl = (queue, option["id"]), time.time(), option.get("ttl")
        until = inf if ttl is None else now + ttl / 1000
        holder_id, held_until = self._deduplicated.get(place, ("", 0.0))
        holder = self.get(queue, holder_id) if now < held_until else None
        if holder is not None and option.get("replace") and holder.state == "delayed":
            self.remove(holder)
            holder = None
        if holder is None or option.get("extend"):
            self._deduplicated[place] = (job.id if holder is None else holder.id, until)
        return holder

    def _free(self, job: JobStatus, *, is_gone: bool) -> None:
        """Let others be added that the job kept away; one with a ttl does so until it is gone."""
        place = (job.queue, job.opts.get("deduplication", {}).get("id"))
        holder_id, held_until = self._deduplicated.get(place, ("", 0.0))
        if holder_id == job.id and (is_gone or held_until == inf):
            del self._deduplicated[place]

    def end(self, job: JobStatus, state: str, **end: Any) -> None:
        """Let a job have run and ended; ``end`` is its result, or the reason of its failure."""
        self._free(job, is_gone=False)
        made, now = job.attempts_made + 1, time.time()
        ended = {"processed_on": now, "finished_on": now, "due_at": None, **end}
        self._keep(dataclasses.replace(job, state=state, attempts_made=made, **ended))

    def remove(self, job: JobStatus) -> None:
        self._free(job, is_gone=True)
        del self._jobs[job.queue, job.id]

    def act(self, job: JobStatus, kind: actions.Kind, *, reset_attempts: bool) -> bool:
        """Act on a job as operators do; False if it is gone, or its state does not allow it."""
        now = self.get(job.queue, job.id)
        if now is None or now.state != job.state or now.state not in actions.STATES[kind]:
            return False
        if kind == "remove":
            self.remove(job)
            return True
        state = "prioritized" if now.priority else "waiting"
        ends = {"failed_reason": None} if now.state == "failed" else {"result": None}
        ended = {**ends, "finished_on": None, "processed_on": None}
        more: dict[str, Any] = ended if kind == "retry" else {}
        made = 0 if reset_attempts else now.attempts_made
        self._keep(dataclasses.replace(now, state=state, due_at=None, attempts_made=made, **more))
        return True

    def _keep(self, job: JobStatus) -> None:
        self._jobs[job.queue, job.id] = job
        is_first = job.state == "waiting" and job.opts.get("lifo")
        turn = next(self._turns)
        self._order[job.queue, job.id] = -turn if is_first else turn

    def _place(self, job: JobStatus) -> tuple[float, int]:
        return (job.due_at or job.priority, self._order[job.queue, job.id])
