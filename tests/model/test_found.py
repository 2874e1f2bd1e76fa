"""Plans that failed once: the model found them, or somebody who read the code wrote them."""

from __future__ import annotations

import pytest

from tests.model.bench import ModelBench
from tests.model.plan import Plan
from tests.model.search import try_plan
from tests.model.steps import (
    Add,
    Arm,
    Cancel,
    CancelRun,
    CloseClient,
    Drain,
    Flush,
    Freeze,
    HangUp,
    Hold,
    HoldNext,
    Let,
    Limit,
    Open,
    Pause,
    Refuse,
    Result,
    Schedule,
    Spoil,
    Stall,
    Stop,
    Until,
)

FOUND = {
    "a hold ends while progress can't be written": Plan(
        held=True,
        command_timeout=1.5,
        steps=(
            Add(takes=None, reports=True),
            Hold(),
            Until(),
            Arm(what="silence", command="updateProgress"),
        ),
    ),
    "a hold ends while the next repetition can't be written": Plan(
        held=True,
        steps=(
            Schedule(every=0.1, limit=3),
            Arm(what="stall", command="updateJobScheduler", seconds=2.5),
            Hold(),
        ),
    ),
    "the reply to moveToDelayed is lost, and it took the next job": Plan(
        steps=(
            Add(takes=None, failures=1, attempts=2, backoff=0.3, count=2),
            Until(),
            Arm(command="moveToDelayed", after=True),
            Open(),
            Until("trouble"),
        ),
    ),
    "the reply to moveToDelayed is lost after RetryLater": Plan(
        steps=(
            Add(takes=None, later=1, count=2),
            Until(),
            Arm(command="moveToDelayed", after=True),
            Open(),
            Until("trouble"),
        ),
    ),
    "the reply to retryJob is lost": Plan(
        steps=(
            Add(takes=None, failures=1, attempts=2),
            Until(),
            Arm(command="retryJob", after=True),
            Open(),
            Until("trouble"),
        ),
    ),
    "the reply to moveJobFromActiveToWait is lost": Plan(
        steps=(
            Add(takes=None),
            Until(),
            Arm(command="moveJobFromActiveToWait", after=True),
            Stop(),
        ),
    ),
    "jobs vanish while they are parked": Plan(
        concurrency=2,
        steps=(Add(kind="narrow", takes=None, count=2), Until(), Let(), Flush(), Open()),
    ),
    "a job vanishes while its handler logs": Plan(
        steps=(Add(takes=None, reports=True), Until(), Flush(), Let(0.1)),
    ),
    "a queue's own concurrency is infinite": Plan(
        concurrency=3,
        steps=(Limit("Infinity"), Pause(), Add(), Let(0.1)),
    ),
    "a queue's own concurrency is not a whole number": Plan(
        concurrency=3,
        steps=(Limit("1.5"), Add(takes=None, count=4), Until(), Let(0.1)),
    ),
    "a worker is stopped as a hold ends": Plan(held=True, steps=(Hold(), Stop())),
    "a worker that fell idle is stopped as it is held": Plan(
        held=True, sleep_after=0.3, steps=(Hold(), Stop(grace=0.5, waits=False))
    ),
    "run is cancelled twice": Plan(steps=(Add(takes=None), Until(), CancelRun(times=2))),
    "run is cancelled while a stop is under way": Plan(
        steps=(Add(takes=None), Until(), Stop(grace=0.5, waits=False), CancelRun())
    ),
    "all hang up while a job's end takes the next one": Plan(
        held=True,
        command_timeout=1.5,
        steps=(
            Add(takes=None, count=2),
            Hold(budget=1.5),
            Until(),
            Arm(what="stall", command="moveToFinished", after=True, seconds=1.2),
            Open(),
            Let(0.02),
            HangUp(),
            Let(1.0),
        ),
    ),
    "a delayed job falls due in a pause, and another after it": Plan(
        lag=0.02,
        steps=(Pause(), Add(delay=0.2), Add(delay=0.8), Let(0.4), Pause(on=False)),
    ),
    "a request comes in the turn in which the last one ends": Plan(
        held=True, steps=(Hold(), HoldNext())
    ),
    "a worker drains while Redis hangs": Plan(
        command_timeout=1.5, steps=(Stall(2.5), Drain(budget=0.2))
    ),
    "a client is closed while it adds jobs": Plan(
        steps=(Add(), Until("answered"), Add(count=3), CloseClient())
    ),
    "an event is not UTF-8": Plan(
        steps=(
            Add(takes=None),
            Until(),
            Result(timeout=1.5),
            Let(0.1),
            Spoil("event"),
            Let(0.1),
            Open(),
        ),
    ),
    "locks were renewed": Plan(steps=(Add(takes=None), Until(), Let(1.0), Open())),
    "a place of a limited queue is asked for too soon": Plan(
        concurrency=2,
        steps=(
            Limit(),
            Add(kind="parent", takes=None, count=2, children=1),
            Until(),
            Let(0.2),
            Arm(command="moveToWaitingChildren"),
            Open(),
            Let(0.1),
        ),
    ),
    "a limited queue's only job asks for children, far from Redis": Plan(
        concurrency=2,
        lag=0.05,
        steps=(Limit(), Let(0.3), Add(kind="parent", children=2)),
    ),
    "a held worker falls asleep before its jobs have ended": Plan(
        held=True, sleep_after=0.15, steps=(Add(takes=None), Hold(budget=1.5))
    ),
    "run is cancelled while a job is taken": Plan(
        steps=(
            Let(0.1),
            Arm("stall", command="moveToActive", after=True, seconds=0.2),
            Add(),
            Until("trouble"),
            CancelRun(),
        ),
    ),
    "a hold ends while an outcome can't be written": Plan(
        held=True,
        steps=(Add(takes=0.2), Hold(budget=0.2), Until(), Refuse(1.2)),
    ),
    "whoever holds hangs up while what is left is counted": Plan(
        held=True, steps=(Hold(calls=2), Freeze(), HangUp(all=True))
    ),
    "the connection breaks as a parked job starts": Plan(
        concurrency=2,
        steps=(
            Add(kind="narrow", takes=None, count=2),
            Until(),
            Let(),
            Arm(command="addToStallCount"),
            Open(),
            Until("trouble"),
        ),
    ),
    "the connection breaks as a job is parked": Plan(
        concurrency=2,
        steps=(
            Let(),
            Arm(command="addToStallCount"),
            Add(kind="narrow", takes=None, count=2),
            Until("trouble"),
            Open(),
        ),
    ),
    "a parent is returned when its children are there, and they end as it runs again": Plan(
        held=True,
        concurrency=2,
        queues=2,
        lag=0.02,
        steps=(
            Pause(on=False),
            HoldNext(),
            Add(kind="parent", children=1),
            Open(),
            Cancel(which=1, fails=False),
            HangUp(whom="drain"),
        ),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_failed_once_is_well_now(bench: ModelBench, name: str) -> None:
    """Each plan shows a fault that was mended."""
    failure = try_plan(bench, FOUND[name])

    if failure is not None:
        pytest.fail(f"{name}:\n{failure}", pytrace=False)
