"""Hypothesis strategies for plans: lists of scenes, which are steps that belong together.

Single random steps rarely meet. A scene makes them meet: a job ends when the network fails, a job
becomes due while its queue is paused, a request is held while the network stalls.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.model import steps
from tests.model.plan import Plan, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

Steps = st.SearchStrategy[Step]
Scenes = st.SearchStrategy[tuple[Step, ...]]

MOST_SCENES = 6
# The commands that a worker sends where it matters whether they ran.
_COMMANDS = (
    "",
    "moveToActive",
    "moveToFinished",
    "moveToDelayed",
    "addToStallCount",
    "updateJobScheduler",
    "moveStalledJobsToWait",
    "reclaimLock",
    "addLog",
    "retryJob",
    "moveJobFromActiveToWait",
    "moveToWaitingChildren",
    "updateProgress",
    "extendLocks",
    "BZPOPMIN",
    "EXISTS",
    "RPUSH",
    "HINCRBY",
    "cancelJob",
    "takeBack",
    "ZRANGE",
    "LRANGE",
    "LLEN",
    "HMGET",
    "CLIENT",
    "ZADD",
    "addStandardJob",
    "XREAD",
)
# How a job's run can end, and the command that writes it.
_ENDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "moveToFinished"),
    ({"failures": 1, "attempts": 2}, "retryJob"),
    ({"failures": 1, "attempts": 2, "backoff": 0.05}, "moveToDelayed"),
    ({"later": 1}, "moveToDelayed"),
    ({"kind": "parent", "children": 1}, "moveToWaitingChildren"),
    ({"kind": "parent", "children": 2}, "addStandardJob"),
    ({"reports": True}, "updateProgress"),
)
_GATED = (None, 0.2)
_pick = st.sampled_from


# single steps


def _adds(takes: Sequence[float | None] = (0.0, None, 0.02, 0.2)) -> Steps:
    common: dict[str, Any] = {
        "takes": _pick(takes),
        "count": _pick((1, 2, 3)),
        "reports": st.booleans(),
        "queue": _pick((0, 1)),
        "delay": _pick((0.0, 0.0, 0.0, 0.05, 0.3)),
        "together": _pick((False, False, True)),
    }
    plain = st.builds(steps.Add, _pick(("wide", "narrow", "rated", "timed", "thread")), **common)
    trying = st.builds(
        steps.Add,
        failures=_pick((1, 2)),
        attempts=_pick((2, 1, 3)),
        backoff=_pick((0.0, 0.05, 0.3)),
        later=_pick((0, 1)),
        stubborn=st.booleans(),
        priority=_pick((0, 1)),
        **common,
    )
    parent = st.builds(
        steps.Add,
        st.just("parent"),
        children=_pick((1, 2)),
        child_fails=_pick((False, False, True)),
        takes=_pick(takes),
        reports=st.booleans(),
    )
    repeated = st.builds(steps.Schedule, takes=_pick(takes))
    return st.one_of(plain, plain, plain, trying, trying, parent, repeated)


def _arms(commands: Sequence[str] = _COMMANDS) -> Steps:
    at = {"command": _pick(commands), "after": st.booleans(), "nth": _pick((1, 1, 2, 3))}
    cuts = st.builds(steps.Arm, _pick(("cut", "cut", "cut_all", "error", "silence")), **at)
    stalls = st.builds(steps.Arm, _pick(("stall", "refuse")), seconds=_pick((0.1, 0.6, 1.2)), **at)
    return st.one_of(cuts, cuts, cuts, stalls)


def _network() -> Steps:
    return st.one_of(
        _arms(),
        st.just(steps.Cut()),
        st.builds(steps.Stall, _pick((0.1, 0.6, 1.2, 2.5))),
        st.builds(steps.Refuse, _pick((0.1, 0.6, 1.2, 2.5))),
        st.builds(steps.Lag, _pick((0.01, 0.05))),
    )


def _hands() -> Steps:
    return st.one_of(
        st.builds(steps.Pause, st.booleans()),
        st.builds(steps.Limit, _pick(("1", "2", None, "1.5", "Infinity"))),
        st.builds(steps.RateLimit, _pick((0.1, 0.4))),
        _pick((steps.ForgetScripts(), steps.LoseMarker(), steps.Flush())),
        st.builds(steps.Spoil, _pick(("event", "stray id", "marker"))),
    )


def _life() -> Steps:
    return st.one_of(
        st.just(steps.Wake()),
        st.builds(steps.Stop, _pick((0.0, 0.1, 0.5)), st.booleans()),
        st.builds(steps.CancelRun, _pick((1, 2, 3)), _pick((0.0, 0.05))),
        st.just(steps.Start()),
        st.builds(steps.Drain, _pick((0.2, 0.5, 1.0))),
    )


def _clients() -> Steps:
    return st.one_of(
        st.builds(steps.Cancel, st.integers(0, 5), st.booleans()),
        st.builds(steps.Result, st.integers(0, 5), _pick((1.5, 0.3))),
        _pick((steps.CloseClient(), steps.Look())),
        st.builds(steps.HangUp, _pick(("result", "cancel", "enqueue", "drain", "stop"))),
    )


def _holds() -> Steps:
    hold = st.builds(
        steps.Hold,
        budget=_pick((0.6, 0.2, 1.5)),
        calls=_pick((1, 1, 2, 12)),
        turns=_pick((1, 3, 10)),
    )
    return st.one_of(
        hold,
        hold,
        st.builds(steps.HoldNext, _pick((0.6, 0.2))),
        st.builds(steps.HangUp, all=st.booleans()),
    )


def _time() -> Steps:
    return st.one_of(
        st.builds(steps.Let, _pick((0.0, 0.02, 0.1, 0.4, 1.0))),
        st.builds(steps.Until, _pick(("running", "quiet", "trouble", "answered", "asleep"))),
        st.just(steps.Open()),
        st.builds(steps.Freeze, _pick((0.1, 0.5))),
    )


# scenes


def _in_turn(*parts: Step | Steps) -> Scenes:
    return st.tuples(*(st.just(part) if isinstance(part, Step) else part for part in parts))


@st.composite
def _ending(draw: st.DrawFn) -> tuple[Step, ...]:
    """A job's run ends, and the command that writes its end fails; a next job may wait."""
    how, command = draw(_pick(_ENDS))
    count = draw(_pick((2, 1)))
    behind = (steps.Add(),) if draw(st.booleans()) else ()
    trouble = draw(_arms((command,)))
    add = steps.Add(takes=None, count=count, **how)
    hold = draw(_held_maybe())
    running = steps.Until("running")
    return (add, *hold, running, *behind, trouble, steps.Open(), steps.Until("trouble"))


def _held_maybe() -> st.SearchStrategy[tuple[Step, ...]]:
    held = st.builds(steps.Hold, _pick((1.5, 0.6))).map(lambda hold: (hold,))
    return st.one_of(held, st.just(()))


def _scenes(*, held: bool) -> Scenes:
    running, opening = steps.Until("running"), steps.Open()
    begun = _in_turn(_adds(_GATED), running)
    begun_held = _in_turn(_adds(_GATED), _holds(), running)
    stalled = _in_turn(_network(), opening, _time(), st.one_of(_life(), _holds()), _time())
    stopped = _in_turn(_adds(_GATED), running, _network(), _life())
    due = st.builds(steps.Add, delay=_pick((0.1, 0.3, 0.8)), takes=_pick((0.0, 0.2)))
    paused = _in_turn(_hands(), due, due, st.just(steps.Let(0.2)), _hands())
    many = st.builds(
        steps.Add,
        _pick(("narrow", "wide", "rated")),
        st.none(),
        _pick((3, 2)),
        reports=st.booleans(),
    )
    by_hand = _in_turn(_hands(), many, running, _hands(), _time())
    alone = [_adds(), _time(), _network(), _hands(), _life(), _clients(), _holds()]
    return st.one_of(
        *[begun_held if held else begun] * 2,
        *[_ending(), _ending(), stalled, stopped, paused, by_hand],
        *[step.map(lambda one: (one,)) for step in alone],
    )


def _plans(*, held: bool) -> st.SearchStrategy[Plan]:
    scenes = st.lists(_scenes(held=held), min_size=1, max_size=MOST_SCENES)
    return st.builds(
        Plan,
        steps=scenes.map(lambda found: tuple(itertools.chain.from_iterable(found))),
        held=st.just(held),
        concurrency=_pick((1, 2, 3)),
        queues=_pick((1, 1, 2)),
        idle=_pick((30.0, 0.5)),
        sleep_after=_pick((None, None, None, 0.3)),
        command_timeout=_pick((0.5, 0.5, 1.5)),
        lag=_pick((0.0, 0.0, 0.005, 0.02)),
        rate_limit=_pick((None, None, None, "10/s")),
    )


PLANS = st.one_of(_plans(held=False), _plans(held=True))
