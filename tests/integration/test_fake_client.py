"""The fakes do what the real clients do: one course of calls, on each of the four."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from convolab_worker import Deduplication, JobClient, JobType, Settings, SyncJobClient
from convolab_worker.errors import ConvolabWorkerError, JobFailed, JobNotFound
from convolab_worker.testing import FakeJobClient, FakeSyncJobClient

CLIENTS = [JobClient, SyncJobClient, FakeJobClient, FakeSyncJobClient]
_NO_ID = re.compile("[0-9a-f]{32}|[0-9]{13}")  # ids, and a schedule's next time


@dataclass
class Line:
    text: str


SPEAK = JobType("speak", Line, dict[str, float], attempts=3)


class Course:
    """Calls a client, and keeps what each call comes to."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.seen: list[Any] = []

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Call it, wait for what is to be awaited, and keep the result or the error."""
        try:
            found = getattr(self._client, method)(*args, **options)
            if inspect.isawaitable(found):
                found = await found
            elif hasattr(found, "__aiter__"):
                found = [each async for each in found]
            elif inspect.isgenerator(found):
                found = list(found)
        except (ConvolabWorkerError, TimeoutError) as error:
            self.seen.append((method, type(error).__name__))
            return None
        self.seen.append((method, self._plain(found)))
        return found

    def _plain(self, found: Any) -> Any:
        if isinstance(found, list):
            return [self._plain(each) for each in found]
        if hasattr(found, "attempts_made"):
            opts = {key: value for key, value in found.opts.items() if key != "attempts"}
            return (
                found.name, found.state, found.data, found.priority, found.max_attempts,
                found.due_at is None, found.progress, found.attempts_made, opts,
            )  # fmt: skip
        if hasattr(found, "oldest_waiting"):
            return (found.paused, found.counts, found.oldest_waiting is None)
        if hasattr(found, "next_at"):
            return (found.id, found.name, found.every, found.data, found.limit)
        if isinstance(found, str):
            state = getattr(found, "state", None)
            return (_NO_ID.sub("ID", found), getattr(found, "existed", None), state)
        return found


async def course(client: Any, queue: str) -> list[Any]:
    """What everybody does with a client, before any worker has run a job."""
    run = Course(client)
    plain = await run.call("enqueue", "plain", {"n": 1})
    named = await run.call("enqueue", SPEAK, Line("Hi"), job_id="named", priority=4)
    await run.call("enqueue", SPEAK, Line("Hi"), job_id="named")
    later = await run.call("enqueue", "plain", delay=60, deduplication="one")
    await run.call("enqueue", "plain", deduplication="one")
    await run.call("enqueue", SPEAK, {"words": 1})
    await run.call("enqueue", "plain", delay=-1)
    await run.call("enqueue", "plain", {"bad": {1}})
    await run.call("enqueue_many", SPEAK, [Line("a"), Line("b")])
    await run.call("enqueue_many", [{"name": "plain", "job_id": "named"}, {"name": "third"}])
    for job_id in (plain, named, later, "nowhere"):
        await run.call("status", job_id)
    for state in ("waiting", "prioritized", "delayed", "failed", None, "done"):
        await run.call("jobs", state)
    await run.call("jobs", "waiting", name="speak", limit=1, oldest_first=True)
    await run.call("counts")
    await run.call("result", plain, 0.05)
    await run.call("promote", plain)
    await run.call("promote", later)
    await run.call("retry", later)
    await run.call("remove", [plain, "nowhere"])
    await run.call("cancel", "named")
    await run.call("cancel", "named")
    await run.call("pause", queue)
    await run.call("queues")
    await run.call("resume")
    await run.call("clean", queue, "waiting", limit=1)
    await run.call("clean", queue, "active")
    await run.call("logs", later)
    await run.call("schedule", "nightly", "plain", {"n": 2}, every=3600, limit=5)
    await run.call("schedule", "bad", "plain", cron="no")
    await run.call("schedules")
    await run.call("unschedule", "nightly")
    await run.call("unschedule", "nightly")
    await run.call("wake_heard", 1.0)
    await refused(run)
    await deduplicated(run)
    return run.seen


async def refused(run: Course) -> None:
    """What can't be, and is refused before anything is sent."""
    for data in ("x" * 70_000, "日" * 30_000):  # the second is too large in bytes alone
        await run.call("enqueue", "large", data)
        await run.call("enqueue_many", [{"name": "small"}] * 3 + [{"name": "large", "data": data}])
        await run.call("schedule", "large", "large", data, every=60)
    for text in ("half \ud800", "\udcff"):
        await run.call("enqueue", text)
        await run.call("enqueue", "plain", queue=text)
        await run.call("enqueue", "plain", deduplication=text)
        await run.call("enqueue", "plain", backoff={"type": text})
        await run.call("enqueue_many", [{"name": text}])
        await run.call("schedule", text, "plain", every=60)
        for method in ("status", "remove", "promote", "retry", "cancel", "logs", "unschedule"):
            await run.call(method, text)
        await run.call("result", text, 0.05)
    await run.call("enqueue", "plain", backoff={"type": {1}})
    for name in ("a:b", "", "half \ud800"):
        for method in ("pause", "resume", "schedules"):
            await run.call(method, name)
        await run.call("clean", name, "waiting")
        await run.call("jobs", queue=name)
        await run.call("status", "job", name)
    for job_id in (None, 5):
        await run.call("status", job_id)
        await run.call("remove", [job_id])
    await run.call("cancel", "nowhere", reason=" ")
    for limit in (-1, 1.5, "2", 0):
        await run.call("jobs", "waiting", limit=limit)
        await run.call("clean", "q", "waiting", limit=limit)
    for age in (-1, float("nan"), float("inf"), "1h"):
        await run.call("jobs", "waiting", older_than=age)
        await run.call("jobs", "waiting", newer_than=age)
        await run.call("clean", "q", "waiting", age)


async def deduplicated(run: Course) -> None:
    """What keeps a job away, and until when; and a job that goes to the head of its queue."""
    brief, long = Deduplication("brief", ttl=0.02), Deduplication("long", ttl=60, extend=True)
    newest = Deduplication("newest", ttl=60, replace=True)
    await run.call("enqueue", "plain", job_id="b1", deduplication=brief)
    await asyncio.sleep(0.05)
    for job_id in ("b2", "b3"):
        await run.call("enqueue", "plain", job_id=job_id, deduplication=brief)
    for job_id in ("l1", "l2"):
        await run.call("enqueue", "plain", job_id=job_id, deduplication=long)
    await run.call("remove", "l1")
    await run.call("enqueue", "plain", job_id="l3", deduplication=long)
    for number in (1, 2):
        job_id = f"n{number}"
        await run.call("enqueue", "plain", number, delay=60, job_id=job_id, deduplication=newest)
    for job_id in ("n1", "n2"):
        await run.call("status", job_id)
    await run.call("promote", "n2")
    await run.call("enqueue", "plain", 3, delay=60, job_id="n3", deduplication=newest)
    await run.call("enqueue", "first", lifo=True)
    await run.call("jobs", "waiting", oldest_first=True, limit=2)


@pytest.mark.asyncio
@pytest.mark.parametrize("client_class", CLIENTS)
async def test_every_client_does_the_same(
    client_class: Any, make_settings: Callable[..., Settings], queue_name: str
) -> None:
    settings = make_settings(max_command_size=2**16)
    async with FakeJobClient(settings) as reference:
        expected = await course(reference, queue_name)
    client = client_class(settings)

    seen = await course(client, queue_name)

    closing = client.close()
    if inspect.isawaitable(closing):
        await closing
    assert seen == expected
    assert len(seen) > 130


@pytest.mark.parametrize("fake", [FakeJobClient, FakeSyncJobClient])
def test_a_fake_has_no_method_less(fake: Any) -> None:
    real = fake.__mro__[1]
    names = {name for name, _ in inspect.getmembers(real, callable) if name[0] != "_"}
    own = FakeJobClient.__dict__.keys()
    # By what these call.
    inherited = {"enqueue", "enqueue_many", "retry", "remove", "promote", "jobs"}

    assert names - own <= inherited


def test_jobs_end_as_a_test_says() -> None:
    jobs = FakeSyncJobClient(answers={"quick": 7, "bad": ValueError("no voice")})

    speaking = jobs.enqueue(SPEAK, Line("Hi"))
    with pytest.raises(AssertionError, match="has not ended"):
        jobs.result(speaking)
    jobs.complete(speaking, {"seconds": 1})
    assert jobs.result(speaking) == {"seconds": 1.0}
    assert [event.event for event in jobs.watch(speaking)] == ["completed"]
    assert jobs.result(jobs.enqueue("quick")) == 7
    failed = jobs.enqueue("bad")
    with pytest.raises(JobFailed, match="no voice"):
        jobs.result(failed)
    assert jobs.retry(failed) == 1
    assert jobs.status(failed).state == "waiting"
    jobs.fail(failed, "again")
    assert [job.failed_reason for job in jobs.jobs("failed", reason="again")] == ["again"]
    with pytest.raises(JobNotFound):
        jobs.complete("nowhere")
    assert [job.name for job in jobs.enqueued] == ["speak", "quick", "bad"]
    with pytest.raises(AssertionError, match="no 'slow' was enqueued"):
        jobs.assert_enqueued("slow")
