"""Children: what may be asked for, the ids that make asking twice harmless, and their results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from convolab_worker.bullmq.jobs.child_jobs import ChildIds, by_key, check_keys
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.job.children import Child

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
        ({"name": 7}, "7 is not a registered handler.* a job's name"),
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


def ids_of(
    parent: str, attempt: int = 1, *, queue: str = "courses", added_at: int = 1_764_000_000_000
) -> ChildIds:
    """The ids of the children of a job that was added then."""
    job = ActiveJob(
        queue, parent, "token", "course", b"{}", {}, timestamp=added_at, attempts_made=attempt - 1
    )
    return ChildIds.of(QueueKeys("bull", queue), job)


def test_asking_twice_in_one_attempt_asks_for_the_same_job() -> None:
    """A handler that is run again from its start does not enqueue its children again."""
    assert ids_of("7").id_of("audio") == ids_of("7").id_of("audio")
    assert ids_of("7").id_of("audio").startswith("7.audio~")


def test_each_attempt_of_a_parent_has_children_of_its_own() -> None:
    """A parent that is retried asks for new ones: those that failed are not asked for again."""
    ids = {ids_of("7", attempt).id_of("audio") for attempt in range(1, 5)}

    assert len(ids) == 4


@pytest.mark.parametrize(
    ("other", "key"),
    [
        pytest.param(ids_of("7", queue="lessons"), "x", id="a-job-of-that-id-on-another-queue"),
        pytest.param(ids_of("7", added_at=1_764_000_000_001), "x", id="an-id-used-again"),
        pytest.param(ids_of("7", 2, queue="lessons"), "x", id="another-queue-and-attempt"),
        pytest.param(ids_of("7.a"), "x", id="an-id-that-begins-alike"),
        pytest.param(ids_of("7", queue="courses:7"), "x", id="a-queue-with-a-colon"),
    ],
)
def test_no_two_parents_share_a_child(other: ChildIds, key: str) -> None:
    """Ids count from 1 in each queue; neither asks for the other's part, nor reads its result."""
    own = ids_of("7")
    theirs = other.id_of(key)

    assert theirs not in {own.id_of(key), own.id_of(f"a.{key}")}
    assert own.key_and_attempt(theirs) is None
    assert other.key_and_attempt(theirs) == (key, other.attempt)


@given(parent=PARENTS, key=KEYS, attempt=st.integers(1, 1000), result=st.text())
def test_a_result_comes_back_under_the_key_that_was_asked_for(
    parent: str, key: str, attempt: int, result: str
) -> None:
    """Whatever the parent's id and attempt: those of scheduled jobs have colons and dots."""
    ids = ids_of(parent, attempt)

    assert by_key(ids, "bull", {job_key(ids.id_of(key)): result}) == {key: result}


@given(keys=st.sets(KEYS, min_size=1, max_size=5), parent=PARENTS)
def test_results_of_several_children_stay_apart(keys: set[str], parent: str) -> None:
    """Each has its own, whatever queues they ran on."""
    ids = ids_of(parent)
    processed = {job_key(ids.id_of(key), f"queue-{number}"): key for number, key in enumerate(keys)}

    assert by_key(ids, "bull", processed) == {key: key for key in keys}


@pytest.mark.parametrize("order", [(1, 2, 10), (10, 2, 1), (2, 10, 1)])
def test_the_newest_attempts_result_counts(order: tuple[int, ...]) -> None:
    """Redis gives the results in any order; a key asked for again has the last answer."""
    processed = {job_key(ids_of("7", attempt).id_of("audio")): str(attempt) for attempt in order}

    assert by_key(ids_of("7"), "bull", processed) == {"audio": "10"}


@pytest.mark.parametrize(
    ("job_keys", "names"),
    [
        pytest.param(["bull:q:f3a1-99"], ["f3a1-99"], id="a-flow-of-nodes"),
        pytest.param(["bull:q:77.audio~1a2b3c4d"], ["77.audio~1a2b3c4d"], id="another-parents"),
        pytest.param(["bull:q:7.audio"], ["7.audio"], id="like-an-id-of-ours"),
        pytest.param(["bull:q:7.audio", "bull:q:7.audio~2"], ["7.audio", "7.audio~2"], id="marks"),
        pytest.param(["bull:q:1", "bull:r:1"], ["q:1", "r:1"], id="one-id-in-two-queues"),
        pytest.param(["bull:q:repeat:daily:17"], ["repeat:daily:17"], id="an-id-with-colons"),
        pytest.param(["other:q:1"], ["1"], id="a-prefix-of-its-own"),
    ],
)
def test_children_of_other_makers_go_by_their_id(job_keys: list[str], names: list[str]) -> None:
    """A flow that Node has added has ids of its own; no two results share a name."""
    assert by_key(ids_of("7"), "bull", {key: key for key in job_keys}) == dict(
        zip(names, job_keys, strict=True)
    )


def test_a_child_of_a_flow_does_not_hide_a_part_of_its_name() -> None:
    """A handler of a flow's parent asks for a part whose key is the id of a child."""
    ids = ids_of("7")
    processed = {"bull:q:audio": "the flow's", job_key(ids.id_of("audio")): "the handler's"}

    assert by_key(ids, "bull", processed) == {
        "audio": "the handler's",
        "q:audio": "the flow's",
    }


def test_there_are_no_results_on_the_first_run() -> None:
    """A parent that has asked for nothing has none."""
    assert by_key(ids_of("7"), "bull", {}) == {}
