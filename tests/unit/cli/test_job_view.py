"""One job as text and as JSON."""

from __future__ import annotations

import json
import sys
import sysconfig
from typing import Any

import pytest

from convolab_worker.cli.commands.jobs.command import jobs_table
from convolab_worker.cli.job_view import date, job_json, job_text, length
from convolab_worker.client.console.details import Attempt, Attempts, JobDetails, Relative
from convolab_worker.client.job_status import JobStatus

STDLIB = sysconfig.get_path("stdlib")
NOW = 1_790_000_000.0
RUNS = Attempts(
    [Attempt(NOW - 190, NOW - 189, "stalled"), Attempt(NOW - 180, None, None)], complete=False
)
STACK = """\
Traceback (most recent call last):
  File "/app/speech.py", line 7, in speak
    await voice()
  File "/venv/lib/python3.12/site-packages/httpx/_client.py", line 1, in get
    raise it
  File "/venv/lib/python3.12/site-packages/httpx/_client.py", line 9, in send
    raise it
httpx.ConnectError: no voice
"""


def details(**changes: Any) -> JobDetails:
    """Return a job that has failed twice, with whatever may be kept of one."""
    status: dict[str, Any] = {
        "id": "17", "queue": "audio", "name": "音声", "state": "failed",
        "data": {"text": "日本", "n": 1}, "progress": {"pct": 20, "step": "speech"},
        "result": None, "failed_reason": "no voice", "attempts_made": 2,
        "timestamp": NOW - 200, "processed_on": NOW - 190, "finished_on": NOW - 150.5,
        "processed_by": "host-1", "max_attempts": 3, "starts": 3, "priority": 2,
        "opts": {"attempts": 3, "tm": '{"traceparent": "00-abc-def-01"}'},
        "parent": "bull:courses:4",
        "stacktrace": [STACK.replace("no voice", "first"), STACK],
    }  # fmt: skip
    around: dict[str, Any] = {
        "steps": {"speech": '{"url": "a"}', "odd": "no JSON"},
        "logs": ["[info] trying", "\x1b[2J"],
        "parents": [Relative("courses", "4", "course", "waiting-children")],
        "children": [Relative("parts", "9", "part", "completed")],
        "children_count": 3,
    }
    for name, value in changes.items():
        (around if name in around else status)[name] = value
    return JobDetails(job=JobStatus(**status), **around)


def test_a_job_is_told_whole_with_its_stack_folded_and_its_family_as_a_tree() -> None:
    assert (
        job_text(details(), RUNS, NOW)
        == """\
job       17
name      音声
queue     audio
state     failed
added     2026-09-21 14:10:00Z, 3m ago
started   2026-09-21 14:10:10Z, 3m ago, after 10s, by host-1
ended     2026-09-21 14:10:49Z, 3m ago, ran 40s
attempts  2 of 3, started 3 times
priority  2
progress  {"pct": 20, "step": "speech"}
options   {"attempts": 3, "tm": "{\\"traceparent\\": \\"00-abc-def-01\\"}"}
trace     abc

data
  {
    "text": "日本",
    "n": 1
  }

reason
  no voice
  at /app/speech.py:7 in speak

runs
  … earlier ones are no longer among the queue's events
  2026-09-21 14:10:10Z, ran 1s: stalled
  2026-09-21 14:10:20Z: runs

stack of attempt 2
  Traceback (most recent call last):
    File "/app/speech.py", line 7, in speak
      await voice()
    … 2 frames of libraries
  httpx.ConnectError: no voice

earlier attempts
  1  httpx.ConnectError: first (at /app/speech.py:7 in speak)

steps done
  speech  {"url": "a"}
  odd     "no JSON"

log
  [info] trying
  \\x1b[2J

family
  courses 4  course: waiting-children
    audio 17  音声: failed  <- this job
      parts 9  part: completed
      … 2 more"""
    )


def test_all_of_it_is_there_in_full() -> None:
    """Every stack whole, and values however long; without it they are cut, which is said."""
    long = details(data="x" * 30_000)

    assert job_text(long, RUNS, NOW, full=True).count("httpx/_client.py") == 4
    assert "x" * 30_000 in job_text(long, RUNS, NOW, full=True)
    assert "… of 30,002 characters; --full prints all" in job_text(long, RUNS, NOW)


def test_a_stack_of_libraries_alone_is_not_folded() -> None:
    frames = [f'  File "{STDLIB}/asyncio/{name}.py", line 1, in f' for name in ("tasks", "runners")]
    stack = "\n".join(["Traceback (most recent call last):", *frames, "OSError: no"])

    text = job_text(details(stacktrace=[stack]), RUNS, NOW)

    assert f"{STDLIB}/asyncio/runners.py" in text
    assert "of libraries" not in text


def test_a_job_that_waits_has_no_outcome_and_one_that_is_delayed_says_when() -> None:
    fresh: dict[str, Any] = {
        "processed_on": None, "finished_on": None, "failed_reason": None, "stacktrace": [],
        "starts": 0, "steps": {}, "logs": [], "parents": [], "children": [], "children_count": 0,
    }  # fmt: skip

    text = job_text(details(state="delayed", due_at=NOW + 300, **fresh), RUNS, NOW)

    assert "due       2026-09-21 14:18:20Z, in 5m" in text
    assert text.endswith('data\n  {\n    "text": "日本",\n    "n": 1\n  }')
    assert "4m ago" in job_text(details(due_at=NOW - 240), RUNS, NOW)


def test_a_job_whose_only_run_has_not_ended_was_started_once() -> None:
    assert "attempts  0 of 3, started once\n" in job_text(
        details(attempts_made=0, starts=1), RUNS, NOW
    )


def test_attempts_that_nobody_asked_for_are_no_option() -> None:
    """BullMQ writes 0, and the job has one attempt all the same."""
    assert "options" not in job_text(details(opts={"attempts": 0}), RUNS, NOW)
    assert 'options   {"lifo": true}\n' in job_text(
        details(opts={"attempts": 0, "lifo": True}), RUNS, NOW
    )


def test_json_has_nothing_that_is_json_within_text() -> None:
    found = json.loads(json.dumps(job_json(details(), RUNS)))

    assert found["steps"] == {"speech": {"url": "a"}, "odd": "no JSON"}
    assert found["children"] == [
        {"queue": "parts", "id": "9", "name": "part", "state": "completed"}
    ]
    assert (found["trace_id"], found["where"]) == ("abc", "/app/speech.py:7 in speak")
    assert found["attempts"][0] == {
        "started_at": NOW - 190, "ended_at": NOW - 189, "outcome": "stalled",
    }  # fmt: skip
    assert found["attempts_complete"] is False
    assert (found["data"], found["children_count"]) == ({"text": "日本", "n": 1}, 3)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (0.26, "260ms"), (2.26, "2.3s"), (1.04, "1s"), (12.4, "12s"),
     (119, "119s"), (120, "2m"), (7200, "2h"), (3 * 86_400, "3d")],
)  # fmt: skip
def test_a_length_is_in_its_largest_unit(seconds: float, expected: str) -> None:
    assert length(seconds) == expected


def test_what_is_no_moment_is_shown_as_the_number_that_it_is() -> None:
    assert (date(None), date(1e30)) == ("-", "1e+30")


def test_on_a_narrow_terminal_each_reason_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An id of 32 signs would otherwise leave no room for what is looked for."""
    rows: list[list[object]] = [
        ["id", "attempts", "reason"],
        ["a" * 20, 3, "no 音声"],
        ["b" * 20, 1, ""],
    ]
    monkeypatch.setenv("COLUMNS", "32")

    assert "3  no 音声" in jobs_table(rows)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert jobs_table(rows).splitlines() == [
        "id                    attempts",
        f"{'a' * 20}         3",
        "    no 音声",
        f"{'b' * 20}         1",
    ]
