"""Plans as hypothesis draws them; what is named first is what a plan shrinks to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.model import events, steps
from tests.model.plan import Plan, Step

MOST_SCENES = 7
# The commands that a worker sends where it matters whether they ran.
ENDS = (
    "",
    "moveToFinished",
    "moveToDelayed",
    "retryJob",
    "moveJobFromActiveToWait",
    "moveToWaitingChildren",
    "updateProgress",
)
COMMANDS = (
    *ENDS,
    "moveToActive",
    "extendLocks",
    "BZPOPMIN",
    "EXISTS",
    "RPUSH",
    "HINCRBY",
    "ZRANGE",
    "LRANGE",
    "LLEN",
    "HMGET",
    "CLIENT",
    "ZADD",
    "addStandardJob",
    "XREAD",
)
_TIMES = (0.0, 0.02, 0.1, 0.3)

_pick = st.sampled_from


def _adds(takes: Sequence[float | None] = (0.0, None, 0.02, 0.2)) -> st.SearchStrategy[Step]:
    common: dict[str, Any] = {
        "takes": _pick(takes),
        "count": _pick((1, 2, 3)),
        "reports": st.booleans(),
        "queue": _pick((0, 1)),
        "delay": _pick((0.0, 0.0, 0.0, 0.05, 0.3)),
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
    later = st.builds(steps.Add, later=_pick((1, 2)), **common)
    parent = st.builds(
        steps.Add,
        st.just("parent"),
        children=_pick((1, 2)),
        child_fails=_pick((False, False, True)),
        takes=_pick(takes),
        reports=st.booleans(),
    )
    return st.one_of(plain, plain, plain, trying, later, parent)


def _arms(commands: Sequence[str] = COMMANDS) -> st.SearchStrategy[Step]:
    at = {"command": _pick(commands), "after": st.booleans(), "nth": _pick((1, 2, 3))}
    cuts = st.builds(events.Arm, _pick(("cut", "cut_all", "silence", "error")), **at)
    stalls = st.builds(events.Arm, _pick(("stall", "refuse")), seconds=_pick((0.1, 0.6, 1.2)), **at)
    return st.one_of(cuts, cuts, stalls)


def _network() -> st.SearchStrategy[Step]:
    return st.one_of(
        _arms(),
        _arms(),
        st.just(events.Cut()),
        st.builds(events.Stall, _pick((0.1, 0.6, 1.2, 2.5))),
        st.builds(events.Refuse, _pick((0.1, 0.6, 1.2, 2.5))),
        st.builds(events.Lag, _pick((0.01, 0.05))),
    )


def _hands() -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(events.Pause, st.booleans()),
        st.builds(events.Limit, _pick(("1", "2", None, "1.5", "Infinity"))),
        st.builds(events.RateLimit, _pick((0.1, 0.4))),
        _pick((events.ForgetScripts(), events.LoseMarker(), events.Flush())),
        st.builds(events.Spoil, _pick(("event", "stray id", "marker"))),
    )


def _life() -> st.SearchStrategy[Step]:
    return st.one_of(
        st.just(steps.Wake()),
        st.builds(steps.Stop, _pick((0.0, 0.1, 0.5)), st.booleans()),
        st.builds(steps.CancelRun, _pick((1, 2, 3)), _pick((0.0, 0.05))),
        st.just(steps.Start()),
        st.builds(steps.Drain, _pick((0.2, 0.5, 1.0))),
    )


def _clients() -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(steps.Cancel, st.integers(0, 5), st.booleans()),
        st.builds(steps.Result, st.integers(0, 5), _pick((1.5, 0.3))),
        st.just(steps.CloseClient()),
    )


def _holds() -> st.SearchStrategy[Step]:
    hold = st.builds(
        steps.Hold,
        budget=_pick((0.6, 0.2, 1.5)),
        calls=_pick((1, 1, 2, 12)),
        turns=_pick((1, 3, 10)),
    )
    following = st.builds(steps.HoldNext, _pick((0.6, 0.2)))
    return st.one_of(hold, hold, following, st.builds(steps.HangUp, st.booleans()))


def _time() -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(events.Let, _pick((0.0, 0.02, 0.1, 0.4, 1.0))),
        st.builds(events.Until, _pick(("running", "quiet", "trouble", "answered", "asleep"))),
        st.just(steps.Open()),
        st.just(events.Freeze()),
    )


def _scenes(*, held: bool) -> st.SearchStrategy[tuple[Step, ...]]:
    """Steps that mean something together, or one alone."""
    running = st.just(events.Until("running"))
    working = _adds(takes=(None, 0.2))
    begun = st.tuples(working, running)
    begun_held = st.tuples(working, _holds(), running)
    trouble = st.just(events.Until("trouble"))
    opening = st.just(steps.Open())
    ending = st.tuples(_arms(ENDS), opening, trouble)
    late = st.tuples(_network(), opening, _time(), st.one_of(_life(), _holds()), _time())
    between = st.tuples(running, _network(), _life())
    together = [begun_held if held else begun] * 3 + [ending, ending, late, between]
    alone = [_adds(), _time(), _network(), _hands(), _life(), _clients(), _holds()]
    return st.one_of(*together, *[step.map(lambda one: (one,)) for step in alone])


def _plans(*, held: bool) -> st.SearchStrategy[Plan]:
    scenes = st.lists(_scenes(held=held), min_size=2, max_size=MOST_SCENES)
    return st.builds(
        Plan,
        steps=scenes.map(lambda found: tuple(itertools.chain.from_iterable(found))),
        held=st.just(held),
        concurrency=_pick((1, 2, 3)),
        queues=_pick((1, 1, 2)),
        idle=_pick((30.0, 0.5)),
        sleep_after=_pick((None, None, 0.15)),
        command_timeout=_pick((0.5, 0.5, 1.5)),
    )


def plans() -> st.SearchStrategy[Plan]:
    """Any plan."""
    return st.one_of(_plans(held=False), _plans(held=True))
