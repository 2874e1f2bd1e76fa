"""Script calls: as many keys as each script reads, and all of one queue."""

from __future__ import annotations

import pytest

from convolab_worker.bullmq.protocol import calls, client_calls
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.bullmq.protocol.transitions import Transitions

NOW_MS = 1_700_000_000_123
KEYS = QueueKeys("bull", "audio")
OURS = Transitions(KEYS, worker_name="worker-1", lock_ms=60_000)
JOB = ActiveJob(queue="audio", id="17", token="w:1", name="n", data=b"{}", opts={})

CALLS = {
    "take": OURS.fetch("w:1", NOW_MS),
    "complete": OURS.finish(JOB, "completed", "1", NOW_MS, fetch_next=True),
    "fail": OURS.finish(JOB, "failed", "1", NOW_MS, fetch_next=True, fields={"failedReason": "r"}),
    "delay": OURS.delay(
        JOB,
        delay_ms=5,
        now_ms=NOW_MS,
        skip_attempt=False,
        fetch_next=True,
        fields={"a": "b"},
    ),
    "postpone": OURS.delay(JOB, delay_ms=5, now_ms=NOW_MS, skip_attempt=True, fetch_next=False),
    "retry": OURS.retry(JOB, now_ms=NOW_MS, fields={"a": "b"}),
    "give back": OURS.return_to_queue(JOB),
    "await children": OURS.await_children(JOB, now_ms=NOW_MS),
    "recover stalled": OURS.recover_stalled(max_stalled=1, now_ms=NOW_MS, interval_ms=1),
    "progress": OURS.report(JOB, "50", []),
    "log": OURS.report(JOB, None, ["a row"]),
    "progress and log": OURS.report(JOB, "50", ["a row"]),
    "drop children": calls.drop_children(KEYS, JOB),
    "tell of a failed child": calls.add_failed_child(KEYS, JOB, "bull:audio:3", b"no"),
    "state": calls.state_of(KEYS, "17"),
    "park": calls.add_to_stall_count(KEYS, JOB, -1),
    "take a lock back": calls.take_back_lock(KEYS, JOB, 60_000),
    "reclaim a lock": calls.reclaim_lock(KEYS, JOB, 60_000),
    "restore": calls.restore(KEYS, JOB, 60_000, None),
    "set aside": calls.set_aside(KEYS, "17", "bull:audio:17:not-a-job:1", {"ats": 1}),
    "advance a scheduler": calls.advance_scheduler(KEYS, JOB, {}, next_at=1, now_ms=1),
    "retry a failed job": client_calls.retry_job(
        KEYS, "17", "failed", lifo=False, reset_attempts=True
    ),
    "remove a job": client_calls.remove_job(KEYS, "17"),
    "remove a failed job": client_calls.remove_job_in(KEYS, "17", "failed"),
    "promote": client_calls.promote_job(KEYS, "17"),
    "pause": client_calls.pause_queue(KEYS),
    "resume": client_calls.resume_queue(KEYS, again=False),
    "clean": client_calls.clean_jobs(KEYS, "failed", 1, 1),
    "cancel": client_calls.cancel_job(KEYS, "17", "why", 1),
    "extend locks": OURS.extend_locks([("17", "w:1"), ("18", "w:2")], 60_000),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_call_has_as_many_keys_as_its_script(call: Call) -> None:
    """Redis is told the number of KEYS by the script's file name."""
    assert len(call.keys) == script(call.script).keys


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_key_is_one_of_the_queue(call: Call) -> None:
    """In a cluster all keys of a script are in one slot, by the prefix's hash tag."""
    assert all(key.startswith("bull:audio:") for key in call.keys)
    assert len(set(call.keys)) == len(call.keys)
