"""Where our worker differs from Node's: on purpose, each place with its reason, or not yet.

A difference that the suite finds and that is not listed here fails it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.interop.normalise import Gap, Stack


@dataclass(frozen=True, slots=True)
class Difference:
    """Places that may differ, and why.

    ``path`` and ``scenarios`` are patterns; ``allows`` says of a gap at such a place whether it
    is this difference and nothing else.
    """

    path: str
    reason: str
    allows: Callable[[Gap], bool]
    scenarios: str = "*"

    def covers(self, gap: Gap, scenario: str) -> bool:
        """Whether this is the reason for the gap."""
        return (
            fnmatchcase(scenario, self.scenarios)
            and fnmatchcase(gap.path, self.path)
            and self.allows(gap)
        )


_LEVEL = "job.log is structlog's: a row in Redis begins with its level, and ends with its keys"
_CHILDS_REASON = (
    "the reason of a parent that failed with its child ends with the child's reason; in Node it "
    "has to be looked up"
)
_DRAINED = (
    "a worker that knows when the next delayed job is due ends a job without asking for another "
    "one. BullMQ's script then emits `drained`: the queue has no more than delayed jobs"
)
_TOO_EARLY = ": its handler returned too early"


def _says_its_level(gap: Gap) -> bool:
    return bool(gap.ours == f"[info] {gap.node}")


def _same_json(gap: Gap) -> bool:
    with suppress(ValueError):  # one of them is absent, say
        return bool(json.loads(gap.node) == json.loads(gap.ours))
    return False


def _gives_the_childs_reason(gap: Gap) -> bool:
    return str(gap.ours).startswith(f"{gap.node}: ")


def _has_no_handler_to_trace(gap: Gap) -> bool:
    return isinstance(gap.node, Stack) and gap.ours == Stack(entries=0, say_why=True)


def _names_the_exception(gap: Gap) -> bool:
    return gap.node in {"", "(absent)"} and gap.ours == "RuntimeError"


def _is_left(gap: Gap) -> bool:
    return bool(gap.node == "(absent)")


def _drained_once_more(gap: Gap) -> bool:
    return bool(gap.node == [] and gap.ours == [{"event": "drained"}])


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "*/logs/*",
        _LEVEL,
        _says_its_level,
    ),
    Difference(
        "/keys/*:logs/value/*",
        _LEVEL,
        _says_its_level,
    ),
    Difference(
        "*/returnvalue",
        "numbers are spelt as Python does (1e-07 for 1e-7), which any reader of JSON takes for "
        "the same",
        _same_json,
    ),
    Difference(
        "*/failedReason",
        _CHILDS_REASON,
        _gives_the_childs_reason,
        "*flow*",
    ),
    Difference(
        "*/failedReason",
        _CHILDS_REASON,
        _gives_the_childs_reason,
        "children at run time*",
    ),
    Difference(
        "*/stacktrace",
        "a job that fails without a call of its handler has no stack trace; in Node the trace "
        "shows BullMQ's own code",
        _has_no_handler_to_trace,
    ),
    Difference(
        "*/failedReason",
        "the reason for an exception without a message is the name of its class; in Node the "
        "reason is empty",
        _names_the_exception,
        "failure with an empty message",
    ),
    Difference(
        "*/failedReason",
        "the reason for a handler that returned before its children had run says so; in Node "
        "it names a script",
        lambda gap: gap.ours == gap.node.replace(". moveToFinished", _TOO_EARLY),
        "flow continueParentOnFailure, another child pending",
    ),
    Difference(
        "/keys/*:pc",
        "the counter `pc` of prioritized jobs stays until the next fetch that finds no such "
        "job deletes it",
        _is_left,
    ),
    Difference(
        "/events/*",
        _DRAINED,
        _drained_once_more,
        "delays",
    ),
    *(
        Difference(
            path,
            "BullMQ 5 writes the next iteration's id into a job; the scripts of 6, which run here, "
            "don't",
            lambda gap: gap.ours == "(absent)",
            "scheduler*",
        )
        for path in ("*/nextRepeatableJobId", "*/nrjid")
    ),
    Difference(
        "/events/*",
        _DRAINED,
        _drained_once_more,
        "scheduler *",
    ),
)


def unexplained(found: list[Gap], scenario: str) -> list[Gap]:
    """The gaps that no documented difference covers."""
    return [gap for gap in found if not any(each.covers(gap, scenario) for each in DIFFERENCES)]
