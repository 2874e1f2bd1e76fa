"""Stack traces: an array of strings, cut as Node cuts it, whatever stood there before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from convolab_worker.bullmq.jobs.outcome_calls import extended_stacktrace
from convolab_worker.bullmq.protocol.records import ActiveJob


def active_job(stacktrace: bytes = b"[]", **opts: Any) -> ActiveJob:
    """A job that failed before, with those stack traces."""
    return ActiveJob(
        queue="q", id="1", token="t", name="n", data=b"{}", opts=opts, stacktrace=stacktrace
    )


def test_a_trace_is_added_at_the_end() -> None:
    """The newest stands last, where dashboards show it."""
    extended = extended_stacktrace(active_job(b'["first"]'), "second")

    assert json.loads(extended) == ["first", "second"]


def test_without_a_trace_the_others_are_kept() -> None:
    """A failure that has none, of a job without a handler, adds nothing."""
    assert json.loads(extended_stacktrace(active_job(b'["first"]'), None)) == ["first"]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (None, ["1", "2", "3", "new"]),
        (0, []),
        (1, ["new"]),
        (2, ["3", "new"]),
        (9, ["1", "2", "3", "new"]),
        (-1, ["2", "3", "new"]),
        ("2", ["3", "new"]),
        (2.0, ["3", "new"]),
        ("x", ["1", "2", "3", "new"]),
        ("0", ["1", "2", "3", "new"]),
    ],
)
def test_the_jobs_own_limit_keeps_the_newest(limit: object, kept: list[str]) -> None:
    """stackTraceLimit counts from the end; 0 keeps none. It is JavaScript's slice."""
    before = active_job(b'["1","2","3"]', **({} if limit is None else {"stackTraceLimit": limit}))

    assert json.loads(extended_stacktrace(before, "new")) == kept


@pytest.mark.parametrize(
    "stacktrace",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b'{"0":"x"}', id="object"),
        pytest.param(b"not json", id="not-json"),
        pytest.param(b'["\xff"]', id="not-utf8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"9" * 10_000, id="a-long-number"),
    ],
)
def test_what_is_no_list_is_replaced(stacktrace: bytes) -> None:
    """Whatever another program wrote there, the new trace is kept."""
    assert json.loads(extended_stacktrace(active_job(stacktrace), "new")) == ["new"]


def test_whatever_stands_in_the_list_stays() -> None:
    """As with Node, whose dashboards may have put it there."""
    assert json.loads(extended_stacktrace(active_job(b"[1,null,{}]"), "new")) == [
        1,
        None,
        {},
        "new",
    ]


@given(st.lists(st.text(st.characters(codec=None)), max_size=3), st.text(st.characters(codec=None)))
def test_any_text_can_be_sent(before: list[str], trace: str) -> None:
    """Lone surrogates, which UTF-8 can't carry and Node writes as escapes, come back unchanged."""
    text = extended_stacktrace(active_job(json.dumps(before).encode()), trace)

    assert json.loads(text.encode("utf-8")) == [*before, trace]
