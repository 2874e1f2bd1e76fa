"""A short torture run, and the account's own ability to find what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.harness import Bench, Ledger
from tests.faults.torture.account import Account, Deed, Fate, Story, judge
from tests.faults.torture.diary import How, Run
from tests.faults.torture.pair import Pair
from tests.faults.torture.run import SERVER_OPTIONS, Options, Torture
from tests.faults.torture.table import tables

FIRST, SECOND = 11, 22
KILL = Deed("kill -9 of a worker", frozenset({FIRST}), 1500, 1501)
STOP = Deed("SIGTERM of a worker", frozenset({FIRST}), 1050, 1090)


@pytest.mark.asyncio
@pytest.mark.usefixtures("node")
async def test_no_job_is_lost_or_run_twice_for_no_reason(
    ledger: Ledger, queue_name: str, tmp_path: Path
) -> None:
    """Whatever a gremlin does in 6 s, each of 300 jobs ends as it may."""
    options = Options(jobs=300, seed=3, seconds=6.0, pause=0.4, workers=3, held=1)

    with (
        Pair(tmp_path, SERVER_OPTIONS) as pair,
        Bench(pair, ledger, queue_name, tmp_path) as bench,
    ):
        report = await Torture(bench, pair, options).run()

    assert report.is_good, tables(report)
    assert report.account.fates.total() == 300 + report.parts


def run(pid: int, start: int, *, how: How | None = "returned") -> Run:
    """A run of the job after it was taken for that time, of 100 ms."""
    began = 1000 if start == 1 else 5000
    return Run("job", pid, start, began, None if how is None else began + 100, how)


def story(*runs: Run, events: str = "1000 active, 1100 completed") -> Story:
    """A job that was run so, with the server's events, and completed."""
    pairs = [event.split() for event in events.split(", ")]
    return Story(
        "job",
        state="completed",
        attempts=1,
        result='"job"',
        runs=list(runs),
        events=[(int(at), what) for at, what in pairs],
    )


STALLED = "1000 active, 4999 waiting, 4999 stalled, 5000 active, 5100 completed"


def test_a_job_that_ran_once_is_in_order() -> None:
    """One run, one end."""
    assert judge(story(run(FIRST, 1)), []).fate is Fate.ONCE


def test_a_second_end_is_explained_by_a_lost_lock_and_what_took_it() -> None:
    """Run again after its worker's end, and after BullMQ found it without a lock."""
    verdict = judge(story(run(FIRST, 1), run(SECOND, 2), events=STALLED), [KILL])

    assert verdict.fate is Fate.AGAIN
    assert verdict.causes == (KILL.what,)


def test_a_run_that_was_killed_and_begun_elsewhere_ended_once() -> None:
    """The handler came to its end in one of its runs only."""
    killed = run(FIRST, 1, how=None)

    assert judge(story(killed, run(SECOND, 2), events=STALLED), [KILL]).fate is Fate.ONCE


def test_a_job_that_a_stopping_worker_gave_back_ended_once() -> None:
    """A cancelled run whose job was given back explains the next one."""
    given_back = story(
        run(FIRST, 1, how="cancelled"),
        run(SECOND, 2),
        events="1000 active, 1200 waiting, 5000 active, 5100 completed",
    )

    assert judge(given_back, []).fate is Fate.ONCE


@pytest.mark.parametrize(
    ("deeds", "events"),
    [
        pytest.param([], STALLED, id="no deed"),
        pytest.param([replace(KILL, pids=frozenset({SECOND}))], STALLED, id="done to another"),
        pytest.param([replace(KILL, began=6000, ended=6001)], STALLED, id="done later"),
        pytest.param([replace(KILL, what="SIGSTOP of a worker")], STALLED, id="too short"),
        pytest.param(
            [replace(KILL, began=1000)],
            "1000 active, 2500 waiting, 2500 stalled, 5000 active, 5100 completed",
            id="too soon",
        ),
        pytest.param([KILL], "1000 active, 5000 active, 5100 completed", id="taken while locked"),
        pytest.param([KILL], STALLED.replace(", 4999 stalled", ""), id="given back all the same"),
        pytest.param([KILL], "1000 active, 5100 completed", id="not taken again"),
    ],
)
def test_a_second_end_without_a_reason_is_wrong(deeds: list[Deed], events: str) -> None:
    """Each of the records has to fit: the lock, and the deed that took it from that worker."""
    twice = story(run(FIRST, 1), run(SECOND, 2), events=events)

    assert judge(twice, deeds).fate is Fate.WRONG


@pytest.mark.parametrize(
    ("deeds", "events", "fate"),
    [
        ([KILL], STALLED, Fate.ONCE),
        ([], STALLED, Fate.WRONG),
        ([KILL], "1000 active, 1100 completed, 5000 active, 5100 completed", Fate.WRONG),
        ([], "1000 active, 1100 waiting, 5000 active, 5100 completed", Fate.WRONG),
        ([STOP], "1000 active, 1100 waiting, 5000 active, 5100 completed", Fate.ONCE),
    ],
)
def test_a_job_that_was_taken_and_not_run_needs_a_reason(
    deeds: list[Deed], events: str, fate: Fate
) -> None:
    """A take that nobody knew of would look like that."""
    assert judge(story(run(SECOND, 2), events=events), deeds).fate is fate


def test_the_deed_that_did_the_most_harm_is_named() -> None:
    """A worker that was frozen, and killed when its lock had long run out, lost it by the first."""
    frozen = Deed("SIGSTOP of a worker", frozenset({FIRST}), 1050, 4500)
    killed = replace(KILL, began=4900, ended=4901)

    verdict = judge(story(run(FIRST, 1), run(SECOND, 2), events=STALLED), [frozen, killed])

    assert verdict.causes == (frozen.what,)


def test_a_result_that_the_server_does_not_take_has_to_fail_for_that() -> None:
    """Completed, or failed for another reason, it is lost."""
    large = story(run(FIRST, 1), events="1000 active, 1100 failed")
    large.is_oversized, large.result = True, None
    large.state, large.reason = "failed", "... the server's client-query-buffer-limit ..."

    assert judge(large, []).fate is Fate.ONCE
    assert judge(replace(large, reason="another"), []).fate is Fate.LOST


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({"state": "active"}, Fate.ACTIVE),
        ({"state": "unknown"}, Fate.LOST),
        ({"state": "wait"}, Fate.LOST),
        ({"state": "failed"}, Fate.LOST),
        ({"events": [(1000, "active")]}, Fate.WRONG),
        ({"events": [(1000, "active"), (1, "completed"), (2, "completed")]}, Fate.WRONG),
        ({"attempts": 2}, Fate.WRONG),
        ({"result": "null"}, Fate.WRONG),
        ({"runs": []}, Fate.WRONG),
    ],
    ids=str,
)
def test_a_job_that_is_not_completed_once_is_found(changes: dict[str, object], fate: Fate) -> None:
    """What was lost, left behind, or recorded wrongly is not overlooked."""
    wrong = story(run(FIRST, 1))
    for name, value in changes.items():
        setattr(wrong, name, value)

    account = Account.of([wrong], [])

    assert account.fates == {fate: 1}
    assert len(account.faults) == 1
