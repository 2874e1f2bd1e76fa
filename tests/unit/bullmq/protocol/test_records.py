"""Records: a job's hash as any producer left it, read without ever raising."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from convolab_worker.bullmq.protocol.records import ActiveJob, read_active_job

WHOLE = {
    "name": "generate-audio",
    "data": '{"text":"hi"}',
    "opts": '{"attempts":3,"backoff":{"type":"fixed","delay":100}}',
    "timestamp": "1700000000000",
    "processedOn": "1700000000500",
    "delay": "250",
    "priority": "0",
    "atm": "1",
    "ats": "2",
    "parentKey": "bull:course:7",
    "rjk": "daily",
    "stacktrace": '["Error"]',
}


def read(fields: dict[str, str | bytes], job_id: bytes = b"1") -> ActiveJob:
    """The active_job of a job with that hash."""
    flat = []
    for key, value in fields.items():
        flat += [key.encode(), value if isinstance(value, bytes) else value.encode()]
    return read_active_job("audio", job_id, "worker:1", flat)


def without(*names: str) -> dict[str, str | bytes]:
    """A whole hash, but for some fields."""
    return {key: value for key, value in WHOLE.items() if key not in names}


def test_a_whole_hash_is_read() -> None:
    """Every field that the worker uses, in its own type."""
    active_job = read(without())

    assert (active_job.queue, active_job.id, active_job.token) == ("audio", "1", "worker:1")
    assert (active_job.name, active_job.data) == ("generate-audio", b'{"text":"hi"}')
    assert active_job.opts == {"attempts": 3, "backoff": {"type": "fixed", "delay": 100}}
    assert (active_job.timestamp, active_job.processed_on, active_job.delay) == (
        1_700_000_000_000,
        1_700_000_000_500,
        250,
    )
    assert (active_job.attempts_made, active_job.attempt, active_job.max_attempts) == (1, 2, 3)
    assert (active_job.parent_key, active_job.scheduler_id) == ("bull:course:7", "daily")
    assert active_job.stacktrace == b'["Error"]'
    assert active_job.problem is None


def test_what_most_jobs_do_not_have_is_none() -> None:
    """A job without a parent, a schedule or a failed child has no such field, or an empty one."""
    active_job = read({**without("parentKey", "rjk"), "defa": ""})

    assert (active_job.parent_key, active_job.scheduler_id, active_job.deferred_failure) == (
        None,
        None,
        None,
    )


def test_a_failed_child_is_told_with_the_job() -> None:
    """BullMQ defers the failure of a parent to the worker that takes it."""
    active_job = read({**without(), "defa": "child bull:audio:8 failed"})

    assert active_job.deferred_failure == "child bull:audio:8 failed"


@pytest.mark.parametrize(
    ("fields", "attempts_made"),
    [
        ({"atm": "2"}, 2),
        ({"attemptsMade": "2"}, 2),
        ({"atm": "2", "attemptsMade": "1"}, 2),
        ({}, 0),
    ],
    ids=["new", "old", "both", "neither"],
)
def test_attempts_are_counted_under_both_names(
    fields: dict[str, str | bytes], attempts_made: int
) -> None:
    """Older versions of BullMQ wrote attemptsMade, newer ones write atm."""
    active_job = read({**without("atm"), **fields})

    assert active_job.attempts_made == attempts_made


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("fpof", "failParentOnFailure"),
        ("cpof", "continueParentOnFailure"),
        ("idof", "ignoreDependencyOnFailure"),
        ("rdof", "removeDependencyOnFailure"),
        ("kl", "keepLogs"),
        ("de", "deduplication"),
    ],
)
def test_options_go_by_their_long_names(short: str, full: str) -> None:
    """BullMQ stores short names for some of them."""
    active_job = read({**without("opts"), "opts": json.dumps({short: 5, "lifo": True})})

    assert active_job.opts == {full: 5, "lifo": True}


@pytest.mark.parametrize(
    ("opts", "most"),
    [
        ('{"attempts":5}', 5),
        ('{"attempts":1}', 1),
        ('{"attempts":0}', 1),
        ('{"attempts":-3}', 1),
        ('{"attempts":"5"}', 5),
        ('{"attempts":null}', 1),
        ('{"attempts":[5]}', 5),
        ('{"attempts":2.5}', 3),
        ('{"attempts":"x"}', 1),
        ("{}", 1),
    ],
)
def test_a_job_has_at_least_one_attempt(opts: str, most: int) -> None:
    """As JavaScript reads numbers; what is none is one attempt."""
    assert read({**without("opts"), "opts": opts}).max_attempts == most


# what is wrong with it


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        pytest.param(["name"], "no name", id="name"),
        pytest.param(["name", "data"], "no name", id="both"),
        pytest.param(list(WHOLE), "no name", id="everything"),
    ],
)
def test_a_hash_without_its_main_fields_is_a_problem(missing: list[str], problem: str) -> None:
    """A job that was removed while it waited, or written by hand, can only be failed."""
    active_job = read(without(*missing))

    assert active_job.problem is not None
    assert problem in active_job.problem


def test_an_empty_name_is_a_name() -> None:
    """Nobody handles it, which is said elsewhere."""
    assert read({**without(), "name": ""}).problem is None


@pytest.mark.parametrize(
    "opts",
    [
        pytest.param(b"attempts=3", id="not-json"),
        pytest.param(b"null", id="null"),
        pytest.param(b"\xff\xfe", id="not-utf8"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(b'{"a":' * 200_000, id="deep-objects"),
        pytest.param(b'{"attempts":' + b"9" * 10_000 + b"}", id="a-long-number"),
    ],
)
def test_options_that_are_no_object_are_a_problem(opts: bytes) -> None:
    """The job can be failed with a reason, and has the options of no job."""
    active_job = read({**without(), "opts": opts})

    assert active_job.problem is not None
    assert active_job.problem.startswith("the job's opts are not a JSON object: ")
    assert active_job.opts == {}
    assert active_job.name == "generate-audio"


@pytest.mark.parametrize("opts", ["", "[1,2]", '"text"', "3", "true"])
def test_what_javascript_finds_no_options_in_has_none(opts: str) -> None:
    """Node's worker runs such a job."""
    active_job = read({**without(), "opts": opts})

    assert (active_job.problem, active_job.opts) == (None, {})


@pytest.mark.parametrize("fields", [without("data"), {**without(), "data": ""}])
def test_data_that_was_left_out_is_an_empty_object(fields: dict[str, str | bytes]) -> None:
    """As Node reads it."""
    active_job = read(fields)

    assert (active_job.problem, active_job.data) == (None, b"{}")


@pytest.mark.parametrize("name", ["timestamp", "processedOn", "delay", "atm"])
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12.9", 12),
        ("1e3", 1000),
        ("-5", -5),
        ("", 0),
        ("soon", 0),
        ("NaN", 0),
        ("Infinity", 0),
        ("1e999", 0),
        ("0x10", 0),
        ("[]", 0),
    ],
)
def test_odd_numbers_are_read_or_left_out(name: str, text: str, number: int) -> None:
    """A number that another program wrote in its own way fails no job."""
    active_job = read({**without(name), name: text})

    values = {
        "timestamp": active_job.timestamp,
        "processedOn": active_job.processed_on,
        "delay": active_job.delay,
        "atm": active_job.attempts_made,
    }
    assert values[name] == number


@given(
    names=st.lists(st.sampled_from([key.encode() for key in [*WHOLE, "defa", "other"]])),
    values=st.lists(st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b"1e999", b"null"])),
    job_id=st.binary(),
)
@example(names=[b"name"], values=[], job_id=b"")
def test_no_hash_raises(names: list[bytes], values: list[bytes], job_id: bytes) -> None:
    """Whatever Redis answers, an active job comes of it that can be settled."""
    flat = [part for pair in zip(names, values, strict=False) for part in pair]

    for answer in (flat, flat[:-1], [*flat, b"name"]):
        active_job = read_active_job("audio", job_id, "worker:1", answer)

        assert active_job.id.encode("utf-8", "surrogateescape") == job_id
        assert active_job.attempt >= 1 or active_job.attempts_made < 0
        assert active_job.max_attempts >= 1


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(opts=st.dictionaries(st.sampled_from(["attempts", "kl", "de", "x"]), JSON_VALUES))
def test_options_of_any_values_are_kept(opts: dict[str, Any]) -> None:
    """They are judged where they are used; reading them is never the problem."""
    active_job = read({**without("opts"), "opts": json.dumps(opts)})

    assert active_job.problem is None
    assert len(active_job.opts) == len(opts)
    assert active_job.max_attempts >= 1
