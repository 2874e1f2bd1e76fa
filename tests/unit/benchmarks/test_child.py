"""Child processes that speak JSON: their answers, and what is said of those that fail."""

from __future__ import annotations

import sys

import pytest

from examples.benchmarks.benchkit.child import ChildError, LineProcess

_READY = 'import json, sys; print(\'{"event": "ready"}\', flush=True)\n'
_ANSWERS = (
    "print('no JSON')\n"
    "for line in sys.stdin:\n"
    "    print(json.dumps({'event': json.loads(line)['op'], 'twice': 2}), flush=True)"
)


def child(program: str) -> LineProcess:
    """A child that is ready, and then runs the program."""
    return LineProcess("the child", [sys.executable, "-c", _READY + program])


def test_a_request_is_answered_by_the_line_of_its_name() -> None:
    with child(_ANSWERS) as process:
        answer = process.ask({"op": "double"}, timeout=10)

    assert answer == {"event": "double", "twice": 2}


def test_a_child_that_ends_before_its_answer_is_an_error_with_what_it_wrote() -> None:
    with (
        child("sys.stdin.readline(); sys.exit('no such number')") as process,
        pytest.raises(ChildError, match=r"(?s)ended before it said double.*no such number"),
    ):
        process.ask({"op": "double"}, timeout=10)


def test_a_child_that_has_ended_takes_no_request() -> None:
    with child("") as process:
        with pytest.raises(ChildError, match="ended before it said"):
            process.expect("more", timeout=10)
        with pytest.raises(ChildError, match="the child is gone|ended before it said double"):
            process.ask({"op": "double"}, timeout=10)


def test_a_child_that_says_nothing_is_an_error_after_the_time_given() -> None:
    with (
        child("sys.stdin.read()") as process,
        pytest.raises(ChildError, match="the child said nothing of double in 0.05 s"),
    ):
        process.ask({"op": "double"}, timeout=0.05)


def test_a_child_that_is_never_ready_is_an_error_and_is_ended() -> None:
    with pytest.raises(ChildError, match="ended before it said ready"):
        LineProcess("the child", [sys.executable, "-c", ""])
