"""``enqueue`` with the options of jobs, and ``schedule``: flags, output and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from convolab_worker.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def redis(server_url: str) -> Iterator[Any]:
    """A client of the shared server that gives and takes strings."""
    with Redis.from_url(server_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def run(server_url: str, queue_name: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the test's own queue; gives its exit code, its output and its remarks."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--redis-url", server_url, "--queue", queue_name])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_flags_of_enqueue_are_its_options(run: Run, redis: Any, queue_name: str) -> None:
    """Each flag as the keyword of its name."""
    flags = [
        *("--attempts", "3", "--backoff", "exponential:2s:1m", "--keep-completed", "1000/1d"),
        *("--keep-failed", "none", "--lifo", "--deduplication", "same"),
    ]

    code, job_id, _ = run("enqueue", "work", "{}", *flags)

    assert code == 0
    assert json.loads(redis.hget(f"bull:{queue_name}:{job_id.strip()}", "opts")) == {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 2000, "jitter": 0.5, "maxDelay": 60_000},
        "removeOnComplete": {"age": 86_400, "count": 1000},
        "removeOnFail": True,
        "lifo": True,
        "de": {"id": "same"},
    }


def test_schedules_are_written_listed_and_removed(run: Run, redis: Any, queue_name: str) -> None:
    """As text and as JSON; one that is not there is a failure."""
    timing = ["--cron", "0 6 * * *", "--tz", "Asia/Tokyo", "--limit", "3", "--attempts", "2"]
    bounds = ["--start", "2098-01-01T00:00:00+01:00", "--until", "4100000000"]

    code, out, err = run("schedule", "set", "nightly", "report", '{"day": "1"}', *timing, *bounds)
    assert (code, out.startswith("repeat:nightly:40")) == (0, True)
    due = "nightly is due next at 2098-01-01 21:00:00 UTC (pattern: at 06:00, Asia/Tokyo)\n"
    assert err.startswith(due)
    assert redis.exists(f"bull:{queue_name}:{out.strip()}")

    code, out, _ = run("schedule", "list")
    row = out.splitlines()[1].split("  ")
    assert code == 0
    assert [cell.strip() for cell in row if cell][3:] == [
        "0 6 * * * Asia/Tokyo", "2098-01-01 21:00:00 UTC", "1 of 3",
    ]  # fmt: skip

    code, out, _ = run("schedule", "list", "--json")
    listed = json.loads(out)
    assert (code, listed["cron"], listed["start"], listed["options"]) == (
        0, "0 6 * * *", 4039369200.0, {"attempts": 2},
    )  # fmt: skip

    assert run("schedule", "remove", "nightly") == (0, "nightly is removed\n", "")
    code, out, err = run("schedule", "remove", "nightly")
    assert (code, out) == (1, "")
    assert f"there is no schedule nightly on {queue_name}" in err
    assert run("schedule", "list") == (0, "", "there are no schedules\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "0s"], "expected a duration from 1ms"),
        (["--cron", "0 6 * * *", "--start", "2098-01-01T00:00:00"], "a time with its zone"),
        (["--cron", "0 6 * * *", "--until", "soon"], "a time with its zone"),
        ([], "expected either --every DURATION or --cron"),
        (["--every", "5s", "--queue", "other"], "expected the one queue that its jobs go to"),
        (["--every", "5s", "--backoff", "exponential"], "exponential:2s:1m, or a strategy's name"),
        (["--every", "5s", "--keep-failed", "soon"], "expected how many jobs to keep"),
    ],
)
def test_a_wrong_schedule_is_wrong_usage(run: Run, arguments: list[str], message: str) -> None:
    """Exit code 2, with what was expected."""
    code, _, err = run("schedule", "set", "nightly", "report", *arguments)

    assert (code, message in err) == (2, True)
