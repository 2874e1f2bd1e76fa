"""Children: what may be asked for, the ids that make asking twice harmless, and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st

from convolab_worker.bullmq.flows import Child, check_keys, child_id, results_by_key
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.errors import ConfigurationError

KEYS = st.text(st.characters(codec="utf-8", exclude_characters=":~"), min_size=1, max_size=20)
PARENTS = st.one_of(
    st.integers(1, 10**6).map(str),
    st.text("abcdef-0123456789", min_size=1, max_size=36),
    st.tuples(st.text("dailywe.:", max_size=10), st.integers(0, 10**13)).map(
        lambda pair: f"repeat:{pair[0]}:{pair[1]}"
    ),
)


def job_key(job_id: str, queue: str = "audio") -> str:
    """A child's key, as BullMQ writes it into the parent's hash of results."""
    return QueueKeys("bull", queue).job(job_id)


# what may be asked for


def test_a_child_is_known_by_its_name_unless_it_has_a_key() -> None:
    """The key names the result within the parent."""
    assert Child("generate-audio").result_key == "generate-audio"
    assert Child("generate-audio", key="line-1").result_key == "line-1"


@pytest.mark.parametrize(
    ("rule", "option"),
    [
        ("fail", "failParentOnFailure"),
        ("continue", "continueParentOnFailure"),
        ("ignore", "ignoreDependencyOnFailure"),
        ("remove", "removeDependencyOnFailure"),
    ],
)
def test_each_rule_for_failures_is_one_of_bullmqs(rule: Any, option: str) -> None:
    """What a child's failure does to its parent is written as BullMQ's own option."""
    assert Child("x", on_failure=rule).failure_option == option


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"name": ""}, "name=''.* a job name"),
        ({"name": 7}, "name=7.* a job name"),
        ({"name": "a:b"}, "key='a:b'.* without ':' and '~'"),
        ({"key": "a~2"}, "key='a~2'.* without ':' and '~'"),
        ({"key": ""}, "key=''"),
        ({"key": 7}, "key=7"),
        ({"queue": ""}, "queue=''.* a queue's name"),
        ({"queue": 7}, "queue=7"),
        ({"attempts": 0}, "attempts=0.* 1 or more"),
        ({"attempts": 1.5}, "attempts=1.5"),
        ({"attempts": True}, "attempts=True"),
        ({"attempts": "3"}, "attempts='3'"),
        ({"delay": -1}, "delay=-1.* seconds, 0 or more"),
        ({"delay": float("nan")}, "delay=nan"),
        ({"delay": float("inf")}, "delay=inf"),
        ({"delay": "5s"}, "delay='5s'"),
        ({"backoff": -1}, "backoff=-1.* BullMQ's own object"),
        ({"backoff": float("nan")}, "backoff=nan"),
        ({"backoff": "fixed"}, "backoff='fixed'"),
        ({"priority": -1}, "priority=-1.* 0 to 2097151"),
        ({"priority": 2**21}, "priority=2097152"),
        ({"priority": 1.0}, "priority=1.0"),
        ({"on_failure": "explode"}, "on_failure='explode'.* fail, ignore, continue, remove"),
        ({"on_failure": None}, "on_failure=None"),
        ({"on_failure": ["fail"]}, "on_failure="),
    ],
    ids=str,
)
def test_a_child_that_can_not_be_is_refused_before_it_is_sent(
    given_options: dict[str, Any], message: str
) -> None:
    """The message names the field, its value and what was expected.

    Asked for, such a child would leave its parent half-way between running and waiting.
    """
    with pytest.raises(ConfigurationError, match=message):
        Child(**{"name": "x", **given_options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attempts": 1, "delay": 0, "backoff": 0, "priority": 0},
        {"attempts": 5, "delay": 0.5, "backoff": 1.5, "priority": 2**21 - 1},
        {"backoff": {"type": "exponential", "delay": 100}},
        {"queue": "other", "key": "käse 🧀"},
    ],
    ids=str,
)
def test_a_child_may_have_every_option_of_a_job(options: dict[str, Any]) -> None:
    """What BullMQ takes is taken."""
    child = Child("x", {"text": "…"}, **options)

    assert all(getattr(child, name) == value for name, value in options.items())


def test_children_are_asked_for_in_order() -> None:
    """Any iterable of children with keys of their own is taken."""
    first, second = Child("x", key="1"), Child("x", key="2")

    assert check_keys(child for child in (first, second)) == (first, second)


@pytest.mark.parametrize(
    ("children", "message"),
    [
        ([], "at least one child"),
        ([Child("x"), Child("x")], "two children have the key 'x'"),
        ([Child("x", key="y"), Child("y")], "two children have the key 'y'"),
        (["generate-audio"], "expected Child objects, got str"),
        ([Child("x"), None], "expected Child objects, got NoneType"),
    ],
    ids=["none", "same-name", "key-like-a-name", "a-name", "nothing"],
)
def test_children_without_a_key_of_their_own_are_refused(children: list[Any], message: str) -> None:
    """Two results of one key could not be told apart."""
    with pytest.raises(ConfigurationError, match=message):
        check_keys(children)


# their ids and results


def test_asking_twice_in_one_attempt_asks_for_the_same_job() -> None:
    """A handler that is run again from its start does not enqueue its children again."""
    assert child_id("7", "audio", 1) == child_id("7", "audio", 1) == "7.audio"


def test_each_attempt_of_a_parent_has_children_of_its_own() -> None:
    """A parent that is retried asks for new ones: those that failed are not asked for again."""
    ids = {child_id("7", "audio", attempt) for attempt in range(1, 5)}

    assert len(ids) == 4


@given(parent=PARENTS, key=KEYS, attempt=st.integers(1, 1000), result=st.integers() | st.text())
def test_a_result_comes_back_under_the_key_that_was_asked_for(
    parent: str, key: str, attempt: int, result: object
) -> None:
    """Whatever the parent's id and attempt: those of scheduled jobs have colons and dots."""
    processed = {job_key(child_id(parent, key, attempt)): json.dumps(result)}

    assert results_by_key(parent, processed) == {key: result}


@given(keys=st.sets(KEYS, min_size=1, max_size=5), parent=PARENTS)
def test_results_of_several_children_stay_apart(keys: set[str], parent: str) -> None:
    """Each has its own, whatever queues they ran on."""
    processed = {
        job_key(child_id(parent, key, 1), f"queue-{number}"): json.dumps(key)
        for number, key in enumerate(keys)
    }

    assert results_by_key(parent, processed) == {key: key for key in keys}


@pytest.mark.parametrize("order", [(1, 2, 10), (10, 2, 1), (2, 10, 1)])
def test_the_newest_attempts_result_counts(order: tuple[int, ...]) -> None:
    """Redis gives the results in any order; a key asked for again has the last answer."""
    processed = {job_key(child_id("7", "audio", attempt)): json.dumps(attempt) for attempt in order}

    assert results_by_key("7", processed) == {"audio": 10}


@pytest.mark.parametrize(
    ("parent", "child", "key"),
    [
        pytest.param("7", "f3a1-99", "f3a1-99", id="a-flow-of-nodes"),
        pytest.param("7", "77.audio", "77.audio", id="another-parents"),
        pytest.param("7", "8.7.audio", "8.7.audio", id="a-parents-id-inside"),
        pytest.param("7", "7.audio~x", "audio", id="a-mark-without-a-number"),
    ],
)
def test_children_of_other_makers_go_by_their_id(parent: str, child: str, key: str) -> None:
    """A flow that Node has added has ids of its own."""
    assert results_by_key(parent, {job_key(child): "1"}) == {key: 1}


def test_there_are_no_results_on_the_first_run() -> None:
    """A parent that has asked for nothing has none."""
    nothing: Mapping[str, str] = {}

    assert results_by_key("7", nothing) == {}
