"""What an open page is sent, and what the server remembers of it."""

from __future__ import annotations

import pickle
from typing import Any

from convolab_worker.server.console.stream import changes
from convolab_worker.telemetry.recent_runs import RecentRun, RecentRuns

START = 1_800_000_000.0


def snapshot(runs: RecentRuns, now: float) -> dict[str, Any]:
    """The part of a worker's status that changes with time and jobs."""
    return {
        "now": now,
        "state": "working",
        "ended": runs.total,
        "failed": runs.failed,
        "recent": runs.recent(),
        "reasons": runs.reasons(),
        "history": runs.history(now),
    }


def test_a_stream_of_a_day_has_no_more_in_memory_than_one_of_two_hours() -> None:
    """A job ends every five minutes, and one in three fails for a reason of its own."""
    runs, sent, sizes = RecentRuns(START), dict[str, Any](), list[int]()
    for number in range(24 * 12):
        at = START + 300 * number
        reason = f"fault {'x' * (number % 200)}" if number % 3 == 0 else None
        runs.ended(
            RecentRun(at, str(number), "speak", "q", "audio", 1, "retried", 1.0, 0.1, reason)
        )
        assert len("".join(changes(snapshot(runs, at), sent))) < 60_000
        if number % 12 == 11:
            sizes.append(len(pickle.dumps((runs, sent))))

    assert sizes[-1] <= sizes[15] * 1.1  # by then all that is bounded is full, but the quarters


def test_a_page_is_sent_the_stretches_that_have_grown_and_no_others() -> None:
    runs, sent = RecentRuns(START), dict[str, Any]()
    for minute in range(30):
        runs.ended(RecentRun(START + 60 * minute, "1", "n", "q", "audio", 1, "completed", 1.0, 0.1))
    "".join(changes(snapshot(runs, START + 1800), sent))
    runs.ended(RecentRun(START + 1800, "2", "n", "q", "image", 1, "completed", 1.0, 0.1))

    (history,) = [
        event
        for event in changes(snapshot(runs, START + 1801), sent)
        if event.startswith("event: history")
    ]

    assert history.count('"image"') == 2
    assert f"{START + 1740}" in history  # the last one that the page had may have grown
    assert f"{START + 1680}" not in history


def test_what_has_not_changed_is_not_sent_again() -> None:
    runs, sent = RecentRuns(START), dict[str, Any]()

    assert [*changes(snapshot(runs, START), sent)] != []
    assert [*changes(snapshot(runs, START + 1), sent)] == []
