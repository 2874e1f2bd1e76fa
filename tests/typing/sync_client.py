"""What type checkers know of SyncJobClient. Checked by two, never run.

A line with an `ignore` must be an error: both checkers complain of one that is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from convolab_worker import JobEvent, JobId, JobStatus, JobType, QueueStatus, SyncJobClient


@dataclass
class AudioRequest:
    text: str


@dataclass
class AudioResult:
    seconds: float


GENERATE_AUDIO = JobType("generate-audio", AudioRequest, AudioResult)

with SyncJobClient(queues=("audio",)) as client:
    added = client.enqueue(GENERATE_AUDIO, AudioRequest("hello"), delay=5)
    assert_type(added, JobId[AudioResult])
    assert_type(added.existed, bool)
    assert_type(added.state, str | None)
    assert_type(client.result(added, timeout=3), AudioResult)
    assert_type(client.enqueue_many(GENERATE_AUDIO, [AudioRequest("x")]), list[JobId[AudioResult]])
    assert_type(client.status(added), JobStatus)
    assert_type(client.counts(), dict[str, dict[str, int]])
    assert_type(client.cancel("1", reason=None, wait=False), str)
    assert_type(client.clean("audio", "failed", 60.0, limit=5), list[str])
    assert_type(client.queues(find=True), list[QueueStatus])
    assert_type(client.retry(client.jobs("failed"), reset_attempts=True), int)
    assert_type(
        client.schedule("nightly", GENERATE_AUDIO, AudioRequest("x"), every=60), JobId[AudioResult]
    )
    assert_type(client.unschedule("nightly"), bool)
    client.pause("audio")
    for event in client.watch(added):
        assert_type(event, JobEvent)
    for job in client.jobs("failed", name="generate-audio", limit=5):
        assert_type(job, JobStatus)

client.enqueue(GENERATE_AUDIO, {"text": "x"})  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
client.status()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.clean("audio")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.pause(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
client.retry(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
anything: Any = client.result("1")
